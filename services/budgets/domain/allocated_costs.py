"""Allocated costs: which budget each belongs to, and the time of its charge. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from hashlib import sha256
from typing import Final, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from kit.money import Money

NO_BUDGET: Final = "NO_BUDGET"
"""Reason of unbudgeted spend that fits no budget. All other reasons are error reasons."""
_NOON: Final = time(12)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostAttributes:
    """The attributes of a cost that determine its budget."""

    entity_id: UUID
    department_path: Sequence[UUID]
    """The department of the cost and those above it, nearest first; empty if it belongs to the entity as a whole."""
    entities_above: Sequence[UUID]
    """The entities above the entity, nearest first."""
    category: str
    gl_code: str
    day: date

    @property
    def department_id(self) -> UUID | None:
        """The department of the cost."""
        return self.department_path[0] if self.department_path else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost(CostAttributes):
    """A cost that was allocated to an entity or to one of its departments."""

    allocation_id: UUID
    amount: Money
    """Above zero."""
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


@dataclass(frozen=True, slots=True)
class Credit:
    """An allocation that credits a part of another one."""

    allocation_id: UUID
    credited_id: UUID
    amount: Money
    """Above zero, in the currency of the cost."""
    reason: str

    @property
    def digest(self) -> bytes:
        """Fingerprint of the fields that determine the refund."""
        fields = self.allocation_id.hex, self.credited_id.hex, self.amount.text(), self.amount.currency
        return sha256("\0".join(fields).encode()).digest()


class Candidate(NamedTuple):
    """A budget of the entity or of one above it, in ACTIVE or CLOSING, whose period contains the day of the cost."""

    id: UUID
    entity_id: UUID
    department_id: UUID | None
    category: str
    gl_code: str
    time_zone: str
    covers_descendants: bool

    @property
    def named(self) -> int:
        """The number of attributes that it is restricted to: category and GL code, one of them, or none."""
        return bool(self.category) + bool(self.gl_code)


def budget_for(cost: CostAttributes, candidates: Iterable[Candidate]) -> Candidate | None:
    """Return the budget that the cost is charged to, or None if none fits."""
    return next(iter(ranked(cost, candidates)), None)


def ranked(cost: CostAttributes, candidates: Iterable[Candidate]) -> Sequence[Candidate]:
    """Return the budgets that fit the cost; the first is charged, each other one if those before it did not exist.

    A budget fits if it is for the cost's department, for one above it, for the whole entity, or a group budget of an
    entity above it, and if its category and its GL code are empty or those of the cost. The nearest department goes
    first, then the entity, then the nearest entity above it. Of the budgets of one owner, the one that names most goes
    first: category and GL code, one of them, none. Then the oldest.
    """
    fitting = [candidate for candidate in candidates if _fits(cost, candidate)]
    return sorted(fitting, key=lambda candidate: (distance(cost, candidate), -candidate.named, candidate.id))


def _fits(cost: CostAttributes, candidate: Candidate) -> bool:
    if candidate.entity_id == cost.entity_id:
        owned = candidate.department_id is None or candidate.department_id in cost.department_path
    else:
        owned = candidate.covers_descendants and candidate.entity_id in cost.entities_above
    return owned and candidate.category in {"", cost.category} and candidate.gl_code in {"", cost.gl_code}


def distance(cost: CostAttributes, candidate: Candidate) -> int:
    """Return how many levels the owner of a fitting budget is above the cost: departments, then entities."""
    path = cost.department_path
    if candidate.department_id is not None:
        return path.index(candidate.department_id)
    return len(path) + [cost.entity_id, *cost.entities_above].index(candidate.entity_id)


def explain(cost: CostAttributes, candidate: Candidate, fitting: Sequence[Candidate]) -> str:
    """Return in sentences why a fitting budget has its place in the order of preference."""
    levels = distance(cost, candidate)
    if candidate.entity_id != cost.entity_id:
        above = levels - len(cost.department_path)
        owner = f"It is a group budget of the entity {above} level{'s' * (above > 1)} above that of the cost."
    elif candidate.department_id is None:
        owner = "It is a budget of the whole entity" + (
            ", which comes after those of its departments." if levels else "."
        )
    elif levels:
        owner = f"It is a budget of the department {levels} level{'s' * (levels > 1)} above that of the cost."
    else:
        owner = "It is a budget of the department of the cost."
    names = [
        f"{kind} {value!r}"
        for kind, value in (("category", candidate.category), ("GL code", candidate.gl_code))
        if value
    ]
    scope = f"It is for the {' and the '.join(names)}." if names else "It is for every category and GL code."
    equal = [each for each in fitting if (distance(cost, each), each.named) == (levels, candidate.named)]
    age = f"It is number {equal.index(candidate) + 1} of {len(equal)} such budgets by age." if len(equal) > 1 else ""
    return " ".join(filter(None, (owner, scope, age)))


def charge_time(day: date, time_zone: str) -> datetime:
    """Return noon of the day in the time zone, which no clock change affects."""
    return datetime.combine(day, _NOON, ZoneInfo(time_zone)).astimezone(UTC)
