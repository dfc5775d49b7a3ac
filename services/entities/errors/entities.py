"""Errors of entities and their tree."""

from collections.abc import Sequence
from uuid import UUID

from kit import ids
from kit.errors import AlreadyExists, FailedPrecondition
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
            f"The entity {text} has active children, such as {', '.join(listed)}; deactivate them first.",
            entity_id=text,
            child_ids=listed,
        )


class EntityTreeTooDeep(FailedPrecondition):
    reason = "ENTITY_TREE_TOO_DEEP"

    def __init__(self, parent_id: UUID, limit: int) -> None:
        text = ids.ENTITY.format(parent_id)
        super().__init__(
            f"There can be at most {limit} levels of entities; below {text} there would be more.",
            parent_id=text,
            limit=limit,
        )


class EntityCycle(FailedPrecondition):
    reason = "ENTITY_CYCLE"

    def __init__(self, entity_id: UUID, parent_id: UUID) -> None:
        entity, parent = ids.ENTITY.format(entity_id), ids.ENTITY.format(parent_id)
        super().__init__(
            f"The entity {entity} can't be moved below {parent}, which is the same entity or below it.",
            entity_id=entity,
            new_parent_id=parent,
        )
