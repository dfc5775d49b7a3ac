"""Entities: states, limits, defaults and input types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple, TypedDict
from uuid import UUID

from kit import resources
from services.entities.errors.entities import EntityCycle, EntityStateForbids, EntityTreeTooDeep

ENTITY_DEPTH_MAX: Final = 16
"""Most levels of entities, including the root."""


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
    """Actions on an entity; the values are past participles for error messages."""

    CHANGE = "changed"
    ADD_CHILD = "given another entity below it"
    ADD_DEPARTMENT = "given a department"
    ADD_COST = "given a cost"
    ADD_CONTRACT = "given a contract"
    ADD_INVOICE = "given an invoice"
    MOVE = "moved"
    DEACTIVATE = "deactivated"


ENTITY_TRANSITIONS: Final[Mapping[tuple[EntityState, EntityAction], EntityState]] = {
    (EntityState.ACTIVE, EntityAction.CHANGE): EntityState.ACTIVE,
    (EntityState.ACTIVE, EntityAction.ADD_CHILD): EntityState.ACTIVE,
    (EntityState.ACTIVE, EntityAction.ADD_DEPARTMENT): EntityState.ACTIVE,
    (EntityState.ACTIVE, EntityAction.ADD_COST): EntityState.ACTIVE,
    (EntityState.ACTIVE, EntityAction.ADD_CONTRACT): EntityState.ACTIVE,
    (EntityState.ACTIVE, EntityAction.ADD_INVOICE): EntityState.ACTIVE,
    (EntityState.ACTIVE, EntityAction.MOVE): EntityState.ACTIVE,
    (EntityState.ACTIVE, EntityAction.DEACTIVATE): EntityState.INACTIVE,
}
"""All allowed transitions of an entity."""


class Address(TypedDict):
    """A postal address, as it is stored."""

    lines: list[str]
    postal_code: str
    city: str
    region: str
    country_code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityDraft:
    """Input for a new entity."""

    parent_id: UUID | None
    code: str
    legal_name: str
    display_name: str
    entity_type: EntityType
    currency_code: str
    country_code: str
    tax_id: str
    registration_number: str
    tax_rate_bp: int
    address: Address | None
    time_zone: str
    fiscal_year_start_month: int
    payment_terms_days: int
    invoice_prefix: str
    consolidation: Consolidation
    labels: dict[str, str]
    controller_user_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityFilter:
    """Filters of a list of entities; None or empty text does not filter."""

    state: EntityState | None = None
    parent_id: UUID | None = None
    entity_type: EntityType | None = None
    code: str = ""
    text: str = ""
    """Searched in the code and the names, ignoring case."""


class HierarchyNode(NamedTuple):
    """The position of an entity in a tree, and the version of the entity."""

    id: UUID
    parent_id: UUID | None
    """The parent in this tree, which may be a tree of the past."""
    version: int
    update_time: datetime
    truncated: bool
    """True if the entity has children that were left out."""


def advance(entity_id: UUID, state: EntityState, action: EntityAction) -> EntityState:
    """Return the state after `action`. Raises EntityStateForbids naming the states in which it is allowed."""
    return resources.advance(ENTITY_TRANSITIONS, entity_id, state, action, EntityStateForbids)


def check_depth(path: Sequence[UUID], levels: int = 1) -> None:
    """Raise EntityTreeTooDeep if `levels` levels don't fit below the last entity of `path`, which starts at a root."""
    if len(path) + levels > ENTITY_DEPTH_MAX:
        raise EntityTreeTooDeep(path[-1], ENTITY_DEPTH_MAX)


def check_no_cycle(entity_id: UUID, path: Sequence[UUID]) -> None:
    """Raise EntityCycle if the entity is on the path to its new parent."""
    if entity_id in path:
        raise EntityCycle(entity_id, path[-1])
