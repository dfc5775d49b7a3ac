"""Errors of departments, their tree and their managers."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from kit import ids
from kit.errors import AlreadyExists, FailedPrecondition, NotFound
from kit.resources import ResourceNotFound, StateForbids


class DepartmentNotFound(ResourceNotFound):
    reason = "DEPARTMENT_NOT_FOUND"
    kind = ids.DEPARTMENT


class DepartmentStateForbids(StateForbids):
    reason = "DEPARTMENT_STATE"
    kind = ids.DEPARTMENT


class DepartmentInactiveOnDate(FailedPrecondition):
    reason = "DEPARTMENT_INACTIVE_ON_DATE"

    def __init__(
        self,
        department_id: UUID,
        day: date,
        *,
        start: date | None = None,
        inactive_from: date | None = None,
        until: date | None = None,
    ) -> None:
        """With `start` for a day before that, else with the days between which the department was inactive."""
        text = ids.DEPARTMENT.format(department_id)
        inactive = f"was inactive from {inactive_from} until {until}" if until else f"is inactive since {inactive_from}"
        why = f"it starts on {start}" if start else f"it {inactive}"
        super().__init__(
            f"The department {text} accepts costs only for days on which it is active, not for {day}: {why}.",
            department_id=text,
            allocation_date=day,
            start_date=start,
            inactive_date=inactive_from,
            active_again_date=until,
        )


class DepartmentCodeTaken(AlreadyExists):
    reason = "DEPARTMENT_CODE_TAKEN"

    def __init__(self, entity_id: UUID, code: str) -> None:
        text = ids.ENTITY.format(entity_id)
        super().__init__(f"Another department of the entity {text} has the code {code!r}.", entity_id=text, code=code)


class DepartmentOfOtherEntity(FailedPrecondition):
    reason = "DEPARTMENT_OF_OTHER_ENTITY"

    def __init__(self, department_id: UUID, entity_id: UUID) -> None:
        department, entity = ids.DEPARTMENT.format(department_id), ids.ENTITY.format(entity_id)
        super().__init__(
            f"The department {department} does not belong to the entity {entity}.",
            department_id=department,
            entity_id=entity,
        )


class DepartmentTreeTooDeep(FailedPrecondition):
    reason = "DEPARTMENT_TREE_TOO_DEEP"

    def __init__(self, parent_id: UUID, limit: int, day: date | None = None) -> None:
        text = ids.DEPARTMENT.format(parent_id)
        on = f" on {day}" if day else ""
        super().__init__(
            f"An entity can have at most {limit} levels of departments; below {text} there would be more{on}.",
            parent_id=text,
            limit=limit,
            date=day,
        )


class DepartmentCycle(FailedPrecondition):
    reason = "DEPARTMENT_CYCLE"

    def __init__(self, department_id: UUID, parent_id: UUID, day: date) -> None:
        department, parent = ids.DEPARTMENT.format(department_id), ids.DEPARTMENT.format(parent_id)
        super().__init__(
            f"On {day} the department {department} would be below itself: {parent} is the same department or below it.",
            department_id=department,
            new_parent_id=parent,
            date=day,
        )


class DepartmentHasActiveChildren(FailedPrecondition):
    reason = "DEPARTMENT_HAS_ACTIVE_CHILDREN"

    def __init__(self, department_id: UUID, children: Sequence[UUID]) -> None:
        text, listed = ids.DEPARTMENT.format(department_id), [ids.DEPARTMENT.format(child) for child in children]
        super().__init__(
            f"The department {text} has active departments below it, now or by plan, such as {', '.join(listed)};"
            " deactivate or move them first.",
            department_id=text,
            child_ids=listed,
        )


class ManagerNotFound(NotFound):
    reason = "MANAGER_NOT_FOUND"

    def __init__(self, user_id: str) -> None:
        super().__init__(f"User management has no user {user_id!r}.", manager_user_id=user_id)


class ManagerInactive(FailedPrecondition):
    reason = "MANAGER_INACTIVE"

    def __init__(self, user_id: str) -> None:
        super().__init__(f"The user {user_id!r} is not active and can't be a manager.", manager_user_id=user_id)
