"""The rules of whose a budget may be. Pure."""

from dataclasses import dataclass

from services.budgets.errors.budgets import OwnerInactive, OwnerNotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """An entity, or a department of it, as the entities service knows it."""

    missing: str = ""
    """What there is not, "entity ent_…"; empty where there is all of it."""
    inactive: str = ""
    """What is out of business, "The entity ent_…"; empty where nothing is."""
    fiscal_year_start_month: int = 1


def check_may_own(owner: Owner) -> None:
    """Raise OwnerNotFound or OwnerInactive unless a budget may be opened for this owner."""
    if owner.missing:
        raise OwnerNotFound(owner.missing)
    if owner.inactive:
        raise OwnerInactive(owner.inactive)
