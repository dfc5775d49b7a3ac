"""Budgets as the budgets service returns them. Pure."""

from dataclasses import dataclass
from uuid import UUID

from kit.money import Money


@dataclass(frozen=True, slots=True)
class BudgetSnapshot:
    """Current amounts of a budget, and whether it accepts a requested amount."""

    id: UUID
    name: str
    entity_id: UUID
    department_id: UUID | None
    currency: str
    amount: Money
    spent: Money
    held: Money
    committed: Money
    available: Money
    requested: Money | None
    """The requested amount in the budget's currency."""
    approval_required: bool
    """True if the budget accepts the requested amount only with an approval."""
