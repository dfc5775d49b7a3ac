"""Period locks: charges dated before the lock of an entity or of the tenant are refused. Pure."""

from dataclasses import dataclass
from datetime import date
from uuid import UUID

from services.budgets.errors.fields import InvalidField


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodLockDraft:
    """Input for the lock of an entity, or of the whole tenant if that is None."""

    entity_id: UUID | None
    locked_until: date
    """The first day that is open."""
    reason: str


def check(draft: PeriodLockDraft, today: date, *, confined: bool) -> None:
    """Raise InvalidField for a lock of future days, or of the whole tenant by a caller `confined` to a scope."""
    if draft.locked_until > today:
        raise InvalidField("locked_until_date", f"must be today, {today}, or earlier", "period_lock.date")
    if confined and draft.entity_id is None:
        raise InvalidField("entity_id", "is required for a caller whose token has a scope", "period_lock.scope")
