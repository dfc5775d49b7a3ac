"""What the entities service refuses, and how it says so; the reasons are documented in errors.proto."""

from collections.abc import Sequence
from uuid import UUID

from kit import ids
from kit.errors import AlreadyExists, FailedPrecondition, PermissionDenied
from kit.resources import ResourceNotFound, StateForbids


class EntityNotFound(ResourceNotFound):
    reason = "ENTITY_NOT_FOUND"
    kind = ids.ENTITY


class EntityCodeTaken(AlreadyExists):
    reason = "ENTITY_CODE_TAKEN"

    def __init__(self, code: str) -> None:
        super().__init__(f"Another entity has the code {code!r}.", code=code)


class EntityStateForbids(StateForbids):
    reason = "ENTITY_STATE"
    kind = ids.ENTITY


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


class DepartmentNotFound(ResourceNotFound):
    reason = "DEPARTMENT_NOT_FOUND"
    kind = ids.DEPARTMENT


class DepartmentStateForbids(StateForbids):
    reason = "DEPARTMENT_STATE"
    kind = ids.DEPARTMENT


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


class RatesOutOfScope(PermissionDenied):
    reason = "RATES_OUT_OF_SCOPE"

    def __init__(self) -> None:
        super().__init__("Exchange rates hold for the whole tenant; your token is confined to a part of it.")
