"""Summaries: sums over budgets by entity, department, category or currency."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple
from uuid import UUID

from kit.money import BP, round_together
from services.budgets.domain.budgets import BudgetState


class GroupBy(StrEnum):
    """BudgetSummary.GroupBy."""

    ENTITY = "ENTITY"
    DEPARTMENT = "DEPARTMENT"
    CATEGORY = "CATEGORY"
    CURRENCY = "CURRENCY"


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryQuery:
    """Which budgets are summed, and how they are grouped; None matches every budget."""

    entity_ids: Collection[UUID]
    """Owners; empty: all."""
    period_date: date | None
    """A day of the period."""
    start_date: date | None
    """The period ends after this day."""
    end_date: date | None
    """The period starts before this day."""
    state: BudgetState | None
    """None: all but drafts."""
    group_by: GroupBy
    each_group_alone: bool
    """Leave a budget out only if a budget above it is in the same group."""


class Summary(NamedTuple):
    """The sums of the budgets of one group in one currency."""

    entity_id: UUID | None
    department_id: UUID | None
    category: str | None
    currency: str
    budgets: int
    overspent: int
    amount: Decimal
    carried: Decimal
    spent: Decimal
    held: Decimal
    committed: Decimal
    captured: Decimal
    fx_effect: Decimal
    """Without that of charges and captures for which it is unknown."""
    fx_unknown: int
    """The number of charges and captures whose FX effect is unknown."""

    @property
    def available(self) -> Decimal:
        """What is left of amount and carried forward; negative if overspent."""
        return self.amount + self.carried - self.spent - self.held - self.committed

    @property
    def compliance_bp(self) -> int:
        """Share of the budgets that are not overspent, in basis points, rounded down."""
        return (self.budgets - self.overspent) * BP // self.budgets


def round_effects(summaries: Sequence[Summary]) -> Sequence[Summary]:
    """Round the FX effects so that those of one currency sum to the same total for every grouping."""
    rounded: dict[int, Summary] = {}
    for currency in {summary.currency for summary in summaries}:
        indexes = [index for index, summary in enumerate(summaries) if summary.currency == currency]
        effects = round_together([Fraction(summaries[index].fx_effect) for index in indexes], currency)
        for index, effect in zip(indexes, effects, strict=True):
            rounded[index] = summaries[index]._replace(fx_effect=effect)
    return [rounded[index] for index in range(len(summaries))]
