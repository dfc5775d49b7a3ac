"""How budgets are added up. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from kit.money import BP
from services.budgets.domain.budgets import BudgetState


class GroupBy(StrEnum):
    """BudgetSummary.GroupBy."""

    ENTITY = "ENTITY"
    DEPARTMENT = "DEPARTMENT"
    CATEGORY = "CATEGORY"
    CURRENCY = "CURRENCY"


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryQuery:
    """Which budgets are to be added up, and how."""

    entity_ids: Collection[UUID]
    period_date: date | None
    start_date: date | None
    end_date: date | None
    state: BudgetState | None
    group_by: GroupBy
    each_group_alone: bool


class Summary(NamedTuple):
    """Budgets of one group and one currency."""

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

    @property
    def compliance_bp(self) -> int:
        """The share of the budgets that don't use more than they have, in basis points, rounded down."""
        return (self.budgets - self.overspent) * BP // self.budgets
