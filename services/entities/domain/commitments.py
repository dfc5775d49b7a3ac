"""Minimum commitments of contracts: the days on which they are in force, and the usage that counts for them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from services.entities import domain
from services.entities.domain.proration import DateRange


@dataclass(frozen=True, slots=True)
class Commitment:
    """A contract with a minimum commitment, and the days on which it is in force."""

    contract_id: UUID
    days: DateRange


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """The costs that count for the commitment of a contract."""

    contract_id: UUID
    entity_id: UUID
    currency: str
    """Amounts in this currency are exact; others are in the currency of their entity."""
    unlinked: Sequence[DateRange]
    """The days on which usage of the entity counts that is not linked to a contract."""


def days_in_force(start: date, end: date | None, termination: date | None) -> DateRange:
    """Return the days of a contract from its start date until its termination or end; date.max if that is unknown."""
    return DateRange(start, domain.contracts.effective_end(termination, end) or date.max)


def exclusive_days(days: DateRange, others: Iterable[DateRange]) -> Sequence[DateRange]:
    """Return the parts of `days` that are in none of the other ranges, in their order."""
    parts = [days]
    for other in others:
        if other.days:
            halves = [(part.before(other.start), DateRange(max(part.start, other.end), part.end)) for part in parts]
            parts = [half for pair in halves for half in pair]
    return [part for part in parts if part.days]
