"""Cost reports: queries, groups, sums and their conversion to another currency."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import StrEnum
from itertools import groupby
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from kit.money import DIGITS_MAX, Money, unit
from services.entities.domain.rates import RATE_DIGITS, Conversion, DerivedRate
from services.entities.errors.allocations import TooManyCostGroups

GROUPS_MAX: Final = 10_000
"""Most groups of a report, each counted once per currency."""
SETTLING_TIME: Final = timedelta(minutes=1)
"""Twice the longest duration of a call: transactions that began longer ago have ended."""

_EXACT: Final = Context(prec=2 * DIGITS_MAX + RATE_DIGITS, rounding=ROUND_HALF_EVEN)
"""Precise enough for a sum times a rate without rounding, so that it is rounded only once."""


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


def convert(cost: Decimal, rate: Decimal, currency: str) -> Money:
    """Return a sum converted at a rate, rounded once, half to even, to the unit of the currency."""
    return Money(_EXACT.multiply(cost, rate).quantize(unit(currency), ROUND_HALF_EVEN, _EXACT), currency)


def convert_sum(cost_sum: CostSum, rate: AppliedRate) -> CostSum:
    """Return a sum with its cost converted; the originals stay as they are."""
    cost = convert(cost_sum.cost, rate.rate.rate, rate.conversion.target).amount
    return CostSum(cost, cost_sum.entries, cost_sum.reversals, cost_sum.originals)


def stream_end(now: datetime) -> datetime:
    """Return the time before which no further allocation can appear in a stream."""
    return now - SETTLING_TIME
