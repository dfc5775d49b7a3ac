"""The rules of entities: states, limits, defaults."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, TypedDict
from uuid import UUID

from kit import resources
from services.entities.errors.entities import EntityCycle, EntityStateForbids, EntityTreeTooDeep

ENTITY_DEPTH_MAX: Final = 16
"""Most levels of entities, the root's included."""


TIME_ZONE_DEFAULT: Final = "UTC"
FISCAL_YEAR_START_MONTH_DEFAULT: Final = 1
PAYMENT_TERMS_DAYS_DEFAULT: Final = 30


class EntityType(StrEnum):
    """Entity.Type."""

    HOLDING = "HOLDING"
    SUBSIDIARY = "SUBSIDIARY"
    DIVISION = "DIVISION"
    BRANCH = "BRANCH"


class EntityState(StrEnum):
    """Entity.State."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"


class Consolidation(StrEnum):
    """Entity.Consolidation."""

    INCLUDE = "INCLUDE"
    SEPARATE = "SEPARATE"


class EntityAction(StrEnum):
    """What is done to an entity; the value is how it reads in a sentence."""

    CHANGE = "changed"
    ADOPT = "given another entity below it"
    STAFF = "given a department"
    BEAR = "given a cost"
    CONTRACT = "given a contract"
    MOVE = "moved"
    DEACTIVATE = "deactivated"


class Address(TypedDict):
    """A postal address, as it is kept."""

    lines: list[str]
    postal_code: str
    city: str
    region: str
    country_code: str


ENTITY_TRANSITIONS: Final[Mapping[tuple[EntityState, EntityAction], EntityState]] = {
    (EntityState.ACTIVE, EntityAction.CHANGE): EntityState.ACTIVE,
    (EntityState.ACTIVE, EntityAction.ADOPT): EntityState.ACTIVE,
    (EntityState.ACTIVE, EntityAction.STAFF): EntityState.ACTIVE,
    (EntityState.ACTIVE, EntityAction.BEAR): EntityState.ACTIVE,
    (EntityState.ACTIVE, EntityAction.CONTRACT): EntityState.ACTIVE,
    (EntityState.ACTIVE, EntityAction.MOVE): EntityState.ACTIVE,
    (EntityState.ACTIVE, EntityAction.DEACTIVATE): EntityState.INACTIVE,
}
"""The whole life of an entity; what is not here is not allowed."""


def advance(entity_id: UUID, state: EntityState, action: EntityAction) -> EntityState:
    """The state after `action`; raises EntityStateForbids naming the states in which it is allowed."""
    return resources.advance(ENTITY_TRANSITIONS, entity_id, state, action, EntityStateForbids)


def check_depth(path: Sequence[UUID], levels: int = 1) -> None:
    """Raise EntityTreeTooDeep where so many levels do not fit below the end of `path`, which begins at a root."""
    if len(path) + levels > ENTITY_DEPTH_MAX:
        raise EntityTreeTooDeep(path[-1], ENTITY_DEPTH_MAX)


def check_no_cycle(entity_id: UUID, path: Sequence[UUID]) -> None:
    """Raise EntityCycle where the entity is on the path to the one below which it is to be moved."""
    if entity_id in path:
        raise EntityCycle(entity_id, path[-1])
