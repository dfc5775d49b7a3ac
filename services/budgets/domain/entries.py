"""Entries of the ledger: types, verdicts, input types and sums."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

STREAM_DELAY: Final = timedelta(minutes=1)
"""Twice the longest duration of a call: every transaction that wrote an entry with a lower id has ended by then."""


class EntryType(StrEnum):
    """Entry.Type."""

    CHARGE = "CHARGE"
    ADJUST = "ADJUST"
    REFUND = "REFUND"
    HOLD = "HOLD"
    COMMIT = "COMMIT"
    CAPTURE = "CAPTURE"
    RELEASE = "RELEASE"
    EXPIRE = "EXPIRE"
    TRANSFER_IN = "TRANSFER_IN"
    TRANSFER_OUT = "TRANSFER_OUT"
    ROLLOVER_IN = "ROLLOVER_IN"
    ROLLOVER_OUT = "ROLLOVER_OUT"


class ChargeVerdict(StrEnum):
    """Charge.Verdict."""

    ACCEPTED = "ACCEPTED"
    ACCEPTED_OVERSPENT = "ACCEPTED_OVERSPENT"


class AvailabilityVerdict(StrEnum):
    """Availability.Verdict."""

    AVAILABLE = "AVAILABLE"
    AVAILABLE_OVERSPENT = "AVAILABLE_OVERSPENT"
    EXCEEDED = "EXCEEDED"
    NOT_ACTIVE = "NOT_ACTIVE"
    OUTSIDE_PERIOD = "OUTSIDE_PERIOD"
    APPROVAL_REQUIRED = "APPROVAL_REQUIRED"
    PERIOD_LOCKED = "PERIOD_LOCKED"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFilter:
    """Filters of a list of the entries of one budget; None matches every entry."""

    budget_id: UUID
    entry_type: EntryType | None = None
    as_of: datetime | None = None
    """Only entries that were recorded at or before this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryStreamQuery:
    """Which entries a stream of the whole ledger contains."""

    start: datetime | None
    """Inclusive; None: from the first entry."""
    end: datetime
    """Exclusive."""
    entity_ids: Collection[UUID]
    """Owners of the budgets; empty: all."""


def stream_end(end: datetime | None, now: datetime) -> datetime:
    """Return the end of a stream of entries; by default the latest time before which no entry can still be missing."""
    return now - STREAM_DELAY if end is None else end


class LedgerSums(NamedTuple):
    """Sums of the entries of a budget, in its currency."""

    opening: Decimal | None
    """Amount and carried forward before the first entry; None if there is no entry."""
    amount: Decimal
    """Change of amount and carried forward since."""
    spent: Decimal
    held: Decimal
    committed: Decimal
    captured: Decimal
    entries: int
    carried_in: Decimal
    """Carried forward from the previous period."""
    carried_out: Decimal
    """Carried forward to the next period."""
    received_by_next: Decimal
    """Carried forward to the next period by the ledger of its budget."""
    open_holds: Decimal
    """Amount that is still held or committed, summed from the holds."""
