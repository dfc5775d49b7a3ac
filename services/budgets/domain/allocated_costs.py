"""Allocated costs: which budget each belongs to, and the time of its charge. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from hashlib import sha256
from typing import Final, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from kit.money import Money

NO_BUDGET: Final = "NO_BUDGET"
"""Reason of unbudgeted spend that fits no active budget. All other reasons are error reasons."""
_NOON: Final = time(12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A cost that was allocated to an entity or to one of its departments."""

    allocation_id: UUID
    entity_id: UUID
    department_id: UUID | None
    category: str
    gl_code: str
    amount: Money
    """Above zero."""
    day: date
    description: str

    @property
    def digest(self) -> bytes:
        """Fingerprint of the fields that determine the charge. An allocation id never arrives with a different one."""
        fields = (
            self.allocation_id.hex, self.entity_id.hex, self.department_id.hex if self.department_id else "",
            self.category, self.gl_code, self.amount.text(), self.amount.currency, self.day.isoformat(),
        )  # fmt: skip
        return sha256("\0".join(fields).encode()).digest()


@dataclass(frozen=True, slots=True)
class Reversal:
    """An allocation that reverses another one as a whole."""

    allocation_id: UUID
    reversed_id: UUID
    reason: str

    @property
    def digest(self) -> bytes:
        """Fingerprint of both ids: an allocation is reversed by one other at most."""
        return sha256(f"{self.allocation_id.hex}\0{self.reversed_id.hex}".encode()).digest()


class Candidate(NamedTuple):
    """An active budget of the entity whose period, in days of its own time zone, contains the day of the cost."""

    id: UUID
    department_id: UUID | None
    category: str
    gl_code: str
    depth: int
    """The number of budgets above it."""
    time_zone: str


def budget_for(cost: Cost, candidates: Iterable[Candidate]) -> Candidate | None:
    """Return the budget that fits the cost best, or None if none fits.

    Budgets of another department or for another category don't fit. The order of preference: a budget of the
    department, then one of the whole entity; a budget for the category, then one without a category; a budget for the
    ledger code, then one without a code, then one for another code; the budget with the most budgets above it; the
    oldest budget.
    """
    fitting = [
        candidate
        for candidate in candidates
        if candidate.department_id in {None, cost.department_id} and candidate.category in {"", cost.category}
    ]
    return min(fitting, key=lambda candidate: _rank(cost, candidate), default=None)


def _rank(cost: Cost, candidate: Candidate) -> tuple[bool, bool, bool, bool, int, UUID]:
    """Return the rank of a candidate; the lowest fits best."""
    return (
        candidate.department_id is None,
        not candidate.category,
        not candidate.gl_code or candidate.gl_code != cost.gl_code,
        candidate.gl_code not in {"", cost.gl_code},
        -candidate.depth,
        candidate.id,
    )


def charge_time(day: date, time_zone: str) -> datetime:
    """Return noon of the day in the time zone, which no clock change affects."""
    return datetime.combine(day, _NOON, ZoneInfo(time_zone)).astimezone(UTC)
