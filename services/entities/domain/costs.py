"""The rules of what costs add up to: the groups, their sums, and what these are in another currency."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import StrEnum
from itertools import groupby
from typing import Any, Final, NamedTuple, TypeAlias

from kit.money import DIGITS_MAX, Money, exponent
from services.entities.domain.rates import RATE_DIGITS
from services.entities.errors.allocations import TooManyCostGroups

LINES_MAX: Final = 10_000
"""Most groups, each counted once for every currency in it."""

_EXACT: Final = Context(prec=2 * DIGITS_MAX + RATE_DIGITS, rounding=ROUND_HALF_EVEN)
"""Holds a sum times a rate without rounding, so that it is rounded once."""


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


Key: TypeAlias = tuple[Any, ...]
"""What a group is of, in the order in which was asked: ids, texts, the first day of a month."""


class Line(NamedTuple):
    """Costs of one group that arose in one currency."""

    key: Key
    currency: str
    booked: Decimal
    """In the currency of the books."""
    original: Decimal
    """In the currency in which they arose."""
    entries: int
    reversals: int


@dataclass(frozen=True, slots=True)
class CostSum:
    """Costs added up."""

    cost: Decimal = Decimal(0)
    """In the currency of the books, or in that into which they were converted."""
    entries: int = 0
    """Allocations and reversals."""
    reversals: int = 0
    originals: Mapping[str, Decimal] = field(default_factory=dict)
    """By the currency in which they arose, in the order of the alphabet."""

    @property
    def allocations(self) -> int:
        """How many of the entries are no reversals."""
        return self.entries - self.reversals


def check_group_count(lines: Collection[object]) -> None:
    """Raise TooManyCostGroups where there are more than an answer may have."""
    if len(lines) > LINES_MAX:
        raise TooManyCostGroups(LINES_MAX)


def group_sums(lines: Iterable[Line]) -> Sequence[tuple[Key, CostSum]]:
    """The groups with their sums; lines of one group stand side by side."""
    return [(key, _sum_of(list(of_group))) for key, of_group in groupby(lines, lambda line: line.key)]


def _sum_of(lines: Sequence[Line]) -> CostSum:
    return total(CostSum(line.booked, line.entries, line.reversals, {line.currency: line.original}) for line in lines)


def total(sums: Iterable[CostSum]) -> CostSum:
    """All of them together."""
    cost, entries, reversals, originals = Decimal(0), 0, 0, dict[str, Decimal]()
    for each in sums:
        cost += each.cost
        entries += each.entries
        reversals += each.reversals
        for currency, original in each.originals.items():
            originals[currency] = originals.get(currency, Decimal(0)) + original
    return CostSum(cost, entries, reversals, dict(sorted(originals.items())))


def conversion_date(end: date, today: date) -> date:
    """The day whose rate converts the sums of a period: its last one, or today while that is still to come."""
    return min(end - timedelta(days=1), today)


def convert(cost: Decimal, rate: Decimal, currency: str) -> Money:
    """A sum at a rate, rounded once, half to even, to the last digit of the currency."""
    unit = Decimal(1).scaleb(-(exponent(currency) or 0))
    return Money(_EXACT.multiply(cost, rate).quantize(unit, ROUND_HALF_EVEN, _EXACT), currency)
