"""Entries of the ledger: their types and the verdicts on charges. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID


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


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryStreamQuery:
    """Which entries of the ledger are to be told."""

    start: datetime | None
    end: datetime
    entity_ids: Collection[UUID]


class LedgerSums(NamedTuple):
    """What the ledger of a budget adds up to."""

    opening: Decimal | None
    """What there was to use before the first entry; None where there is none."""
    amount: Decimal
    """By how much that was changed since."""
    spent: Decimal
    held: Decimal
    committed: Decimal
    captured: Decimal
    entries: int
    open_holds: Decimal
