"""Cost reports: queries, groups, sums and their conversion to another currency."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from itertools import groupby
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from kit.money import Money, round_together
from services.entities.domain.rates import Conversion, DerivedRate
from services.entities.errors.allocations import TooManyCostGroups

GROUPS_MAX: Final = 10_000
"""Most groups of a report, each counted once per currency."""
SETTLING_TIME: Final = timedelta(minutes=1)
"""Twice the longest duration of a call: transactions that began longer ago have ended."""


class Tree(StrEnum):
    """DepartmentCosts.Tree."""

    POSTED = "POSTED"
    CURRENT = "CURRENT"


class DepartmentGroupBy(StrEnum):
    """DepartmentCosts.GroupBy."""

    CATEGORY = "CATEGORY"
    GL_CODE = "GL_CODE"
    MONTH = "MONTH"
    DEPARTMENT = "DEPARTMENT"


class SummaryGroupBy(StrEnum):
    """CostSummary.GroupBy."""

    ENTITY = "ENTITY"
    DEPARTMENT = "DEPARTMENT"
    CATEGORY = "CATEGORY"
    GL_CODE = "GL_CODE"
    MONTH = "MONTH"


@dataclass(frozen=True, slots=True, kw_only=True)
class DepartmentCostQuery:
    """Input of GetDepartmentCosts."""

    department_id: UUID
    start: date
    end: date
    """First day after the period."""
    group_by: Sequence[DepartmentGroupBy]
    include_descendants: bool
    tree: Tree
    currency: str = ""
    """Currency of the sums; empty: that of the entity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSummaryQuery:
    """Input of SummarizeCosts."""

    entity_ids: Collection[UUID]
    """Empty: all."""
    start: date
    end: date
    """First day after the period."""
    group_by: Sequence[SummaryGroupBy]
    currency: str = ""
    """Currency of the converted sums; empty: sums are not converted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationStreamQuery:
    """Input of StreamAllocations."""

    start: datetime | None
    end: datetime
    entity_ids: Collection[UUID]
    """Empty: all."""
    after: UUID | None
    """The last allocation that the caller has received."""


GroupKey: TypeAlias = tuple[Any, ...]
"""What the costs of a group have in common, in the order of `group_by`: ids, texts, the first day of a month."""


class DepartmentSubtotal(NamedTuple):
    """Costs of one group in one original currency."""

    key: GroupKey
    currency: str
    booked: Decimal
    """In the entity's currency."""
    original: Decimal
    """In the original currency."""
    entries: int
    reversals: int


class EntitySubtotal(NamedTuple):
    """Costs of one group of entities with the same currency."""

    key: GroupKey
    currency: str
    cost: Decimal
    entries: int
    reversals: int


@dataclass(frozen=True, slots=True)
class CostSum:
    """A sum of costs."""

    cost: Decimal = Decimal(0)
    """In the entity's currency, or in the one that it was converted to."""
    entries: int = 0
    """Number of allocations and reversals."""
    reversals: int = 0
    originals: Mapping[str, Decimal] = field(default_factory=dict)
    """The sum of each original currency, sorted by currency."""

    @property
    def allocations(self) -> int:
        """Number of entries that are not reversals."""
        return self.entries - self.reversals


@dataclass(frozen=True, slots=True)
class AppliedRate:
    """A conversion, and the rate that a report used for it."""

    conversion: Conversion
    rate: DerivedRate


@dataclass(frozen=True, slots=True)
class DepartmentCosts:
    """Result of GetDepartmentCosts."""

    entity_id: UUID
    groups: Sequence[tuple[GroupKey, CostSum]]
    """Empty if the query has no `group_by`."""
    total: CostSum
    rate: AppliedRate
    """From the entity's currency to the currency of all sums."""


@dataclass(frozen=True, slots=True)
class CostSummary:
    """One group of the result of SummarizeCosts."""

    subtotal: EntitySubtotal
    converted: Money | None
    """None if no currency was requested."""


def check_group_count(subtotals: Collection[object]) -> None:
    """Raise TooManyCostGroups if a report would have more than GROUPS_MAX groups."""
    if len(subtotals) > GROUPS_MAX:
        raise TooManyCostGroups(GROUPS_MAX)


def group_sums(subtotals: Iterable[DepartmentSubtotal]) -> Sequence[tuple[GroupKey, CostSum]]:
    """Return the sum of each group. The subtotals of a group must be adjacent."""
    groups = groupby(subtotals, lambda subtotal: subtotal.key)
    return [(key, total(map(_sum_of, group))) for key, group in groups]


def _sum_of(subtotal: DepartmentSubtotal) -> CostSum:
    originals = {subtotal.currency: subtotal.original}
    return CostSum(subtotal.booked, subtotal.entries, subtotal.reversals, originals)


def total(sums: Iterable[CostSum]) -> CostSum:
    """Add up sums in the same currency."""
    cost, entries, reversals, originals = Decimal(0), 0, 0, dict[str, Decimal]()
    for each in sums:
        cost += each.cost
        entries += each.entries
        reversals += each.reversals
        for currency, original in each.originals.items():
            originals[currency] = originals.get(currency, Decimal(0)) + original
    return CostSum(cost, entries, reversals, dict(sorted(originals.items())))


def conversion_date(end: date, today: date) -> date:
    """Return the day whose rate converts the sums of a period: its last day, or today if that is earlier."""
    return min(end - timedelta(days=1), today)


def convert_sums(sums: Sequence[CostSum], rate: AppliedRate) -> Sequence[CostSum]:
    """Return sums with their costs converted; the originals stay as they are.

    The converted costs sum to the total of all, which is converted exactly and rounded once.
    """
    costs = convert_all([each.cost for each in sums], [rate.rate.rate] * len(sums), rate.conversion.target)
    return [replace(each, cost=cost.amount) for each, cost in zip(sums, costs, strict=True)]


def convert_all(costs: Sequence[Decimal], rates: Sequence[Decimal], currency: str) -> Sequence[Money]:
    """Return each cost at its rate, rounded so that they sum to their exact total, rounded once."""
    exact = [Fraction(cost) * Fraction(rate) for cost, rate in zip(costs, rates, strict=True)]
    return [Money(amount, currency) for amount in round_together(exact, currency)]


def stream_end(now: datetime) -> datetime:
    """Return the time before which no further allocation can appear in a stream."""
    return now - SETTLING_TIME
