"""Owners of budgets."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from services.budgets.errors.budgets import OwnerInactive, OwnerNotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The entity and the department that a budget is for."""

    missing: str = ""
    """What does not exist, for example "entity ent_…"; empty if both exist."""
    inactive: str = ""
    """What is not active, for example "The entity ent_…"; empty if both are active."""
    fiscal_year_start_month: int = 1
    time_zone: str = "UTC"
    """The time zone of the entity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostOwner:
    """The entity and the departments that a cost belongs to."""

    department_path: Sequence[UUID]
    """The department of the cost and those above it, nearest first; empty if it belongs to the entity as a whole."""
    entities_above: Sequence[UUID]
    """The entities above the entity, nearest first."""
    time_zone: str
    """The time zone of the entity."""


def check_may_own(owner: Owner) -> None:
    """Raise OwnerNotFound or OwnerInactive unless the owner may have new budgets."""
    if owner.missing:
        raise OwnerNotFound(owner.missing)
    if owner.inactive:
        raise OwnerInactive(owner.inactive)
