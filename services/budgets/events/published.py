"""What the budgets service says, and what it does about what others say."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from billing.budgets.v1.events_pb2 import (
    ApprovalFundsSettled,
    BudgetAlertRaised,
    BudgetClosed,
    BudgetExhausted,
    BudgetHoldExpired,
    BudgetRolledOver,
    UnbudgetedSpendRecorded,
)

from contract.values import money_to_proto
from kit import ids
from services.budgets import convert
from services.budgets.domain.balances import Balance, Terms
from services.budgets.domain.entries import EntryType
from services.budgets.domain.funds import SETTLEMENTS, Ended
from services.budgets.domain.marks import Mark
from services.budgets.models.unbudgeted import UnbudgetedRow
from services.budgets.store.group import StoredHold


def budget_alert_raised(
    balance: Balance,
    mark: Mark,
    alert_id: UUID,
    entry_id: UUID | None,
    at: datetime,
    *,
    expected: Decimal | None = None,
) -> BudgetAlertRaised:
    """A budget passed a mark, or is `expected` to."""
    return BudgetAlertRaised(
        alert=convert.alerts.raised_to_proto(balance, mark, alert_id, entry_id, at, expected=expected),
        entity_id=ids.ENTITY.format(balance.terms.entity_id),
        department_id=ids.DEPARTMENT.format_optional(balance.terms.department_id),
    )


def budget_exhausted(terms: Terms) -> BudgetExhausted:
    """A budget has nothing left."""
    return BudgetExhausted(
        budget_id=ids.BUDGET.format(terms.id),
        entity_id=ids.ENTITY.format(terms.entity_id),
        department_id=ids.DEPARTMENT.format_optional(terms.department_id),
    )


def budget_closed(terms: Terms) -> BudgetClosed:
    """A budget takes no charge any more."""
    return BudgetClosed(
        budget_id=ids.BUDGET.format(terms.id),
        entity_id=ids.ENTITY.format(terms.entity_id),
        department_id=ids.DEPARTMENT.format_optional(terms.department_id),
    )


def budget_hold_expired(stored: StoredHold, terms: Terms) -> BudgetHoldExpired:
    """A hold was given back by the clock."""
    return BudgetHoldExpired(
        hold=convert.holds.hold_to_proto(stored),
        entity_id=ids.ENTITY.format(terms.entity_id),
        department_id=ids.DEPARTMENT.format_optional(terms.department_id),
    )


def budget_rolled_over(closed: Terms, opened: Balance) -> BudgetRolledOver:
    """The next period of a budget was opened."""
    return BudgetRolledOver(
        closed_budget_id=ids.BUDGET.format(closed.id),
        opened_budget_id=ids.BUDGET.format(opened.terms.id),
        entity_id=ids.ENTITY.format(closed.entity_id),
        department_id=ids.DEPARTMENT.format_optional(closed.department_id),
        carried=money_to_proto(opened.money(opened.carried)),
    )


def unbudgeted_spend_recorded(row: UnbudgetedRow) -> UnbudgetedSpendRecorded:
    """No budget took a cost, or such a cost was taken back."""
    return UnbudgetedSpendRecorded(spend=convert.usage.unbudgeted_to_proto(row))


def approval_hold_settled(stored: StoredHold, entry_type: EntryType) -> ApprovalFundsSettled:
    """The hold of an approval request was committed or given back, as that ended."""
    return ApprovalFundsSettled(
        approval_id=ids.APPROVAL.format_optional(stored.approval_id),
        round=int(stored.request_id.rpartition(":")[2]),
        budget_id=ids.BUDGET.format(stored.hold.budget_id),
        hold_id=ids.HOLD.format(stored.hold.id),
        funds=ApprovalFundsSettled.Funds.Value(SETTLEMENTS[entry_type]),
    )


def approval_funds_settled(ended: Ended, *, raised: bool, problem: str = "") -> ApprovalFundsSettled:
    """A budget was raised for an approval request, or could not follow it."""
    return ApprovalFundsSettled(
        approval_id=ids.APPROVAL.format(ended.approval_id),
        round=ended.round,
        budget_id=ids.BUDGET.format(ended.budget_id),
        funds=ApprovalFundsSettled.RAISED if raised else ApprovalFundsSettled.FAILED,
        problem=problem,
    )
