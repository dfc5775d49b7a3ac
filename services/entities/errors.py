"""What the entities service refuses, and how it says so; the reasons are documented in errors.proto."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from kit import ids
from kit.errors import AlreadyExists, FailedPrecondition, NotFound


class EntityNotFound(NotFound):
    reason = "ENTITY_NOT_FOUND"

    def __init__(self, entity_id: UUID) -> None:
        text = ids.ENTITY.format(entity_id)
        super().__init__(f"There is no entity {text}.", entity_id=text)


class EntityCodeTaken(AlreadyExists):
    reason = "ENTITY_CODE_TAKEN"

    def __init__(self, code: str) -> None:
        super().__init__(f"Another entity has the code {code!r}.", code=code)


class EntityStateForbids(FailedPrecondition):
    reason = "ENTITY_STATE"

    def __init__(self, entity_id: UUID, state: str, action: str, allowed: Iterable[str]) -> None:
        text, states = ids.ENTITY.format(entity_id), list(allowed)
        super().__init__(
            f"The entity {text} is {state}; it can be {action} in {' or '.join(states)}.",
            entity_id=text,
            state=state,
            allowed=states,
        )


class EntityHasActiveChildren(FailedPrecondition):
    reason = "ENTITY_HAS_ACTIVE_CHILDREN"

    def __init__(self, entity_id: UUID, children: Sequence[UUID]) -> None:
        text, listed = ids.ENTITY.format(entity_id), [ids.ENTITY.format(child) for child in children]
        super().__init__(
            f"The entity {text} has active children, {', '.join(listed)} among them; deactivate them first.",
            entity_id=text,
            child_ids=listed,
        )


class EntityTreeTooDeep(FailedPrecondition):
    reason = "ENTITY_TREE_TOO_DEEP"

    def __init__(self, parent_id: UUID, limit: int) -> None:
        text = ids.ENTITY.format(parent_id)
        super().__init__(
            f"There may be at most {limit} levels of entities; {text} is on the lowest.", parent_id=text, limit=limit
        )


class DepartmentNotFound(NotFound):
    reason = "DEPARTMENT_NOT_FOUND"

    def __init__(self, department_id: UUID) -> None:
        text = ids.DEPARTMENT.format(department_id)
        super().__init__(f"There is no department {text}.", department_id=text)


class DepartmentStateForbids(FailedPrecondition):
    reason = "DEPARTMENT_STATE"

    def __init__(self, department_id: UUID, state: str, action: str, allowed: Iterable[str]) -> None:
        text, states = ids.DEPARTMENT.format(department_id), list(allowed)
        super().__init__(
            f"The department {text} is {state}; it can be {action} in {' or '.join(states)}.",
            department_id=text,
            state=state,
            allowed=states,
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

    def __init__(self, parent_id: UUID, limit: int) -> None:
        text = ids.DEPARTMENT.format(parent_id)
        super().__init__(
            f"There may be at most {limit} levels of departments; {text} is on the lowest.",
            parent_id=text,
            limit=limit,
        )
