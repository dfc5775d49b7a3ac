"""Builders of the events that the budgets service publishes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, Final
from uuid import UUID

from billing.budgets.v1.events_pb2 import (
    ApprovalFundsSettled,
    ApprovalHoldsMoved,
    BudgetAlertRaised,
    BudgetClosed,
    BudgetExhausted,
    BudgetHoldExpired,
    BudgetRolledOver,
    PeriodLockChanged,
    UnbudgetedSpendRecorded,
)
from google.protobuf.message import Message

from contract.values import date_text, money_to_proto
from eventing import outbox
from eventing.outbox import OutboxRow
from kit import ids
from kit.origin import Origin
from services.budgets import convert, domain
from services.budgets.domain.approval_holds import SETTLEMENTS, ApprovalOutcome
from services.budgets.domain.balances import Balance, Terms
from services.budgets.domain.postings import AlertRaised, ApprovalHoldSettled, HoldExpired, LedgerEvent
from services.budgets.models.period_locks import PeriodLockRow
from services.budgets.models.unbudgeted import UnbudgetedRow

_APPROVALS_PER_EVENT_MAX: Final = 500
"""So that an event is far smaller than the largest message of NATS."""


def ledger_event(origin: Origin, event: LedgerEvent) -> OutboxRow:
    """Return the outbox row of an event of the ledger."""
    return outbox.new_row(origin, _BUILDERS[type(event)](event))


def budget_alert_raised(event: AlertRaised) -> BudgetAlertRaised:
    """A budget has reached an alert threshold, or is expected to."""
    return BudgetAlertRaised(
        alert=convert.alerts.to_proto(event.alert),
        entity_id=ids.ENTITY.format(event.terms.entity_id),
        department_id=ids.DEPARTMENT.format_optional(event.terms.department_id),
    )


def _budget_exhausted(event: domain.postings.BudgetExhausted) -> BudgetExhausted:
    return BudgetExhausted(
        budget_id=ids.BUDGET.format(event.terms.id),
        entity_id=ids.ENTITY.format(event.terms.entity_id),
        department_id=ids.DEPARTMENT.format_optional(event.terms.department_id),
    )


def period_lock_changed(row: PeriodLockRow, previous: date | None) -> PeriodLockChanged:
    """The lock of an entity or of the tenant was set or changed; `previous` is its former date."""
    return PeriodLockChanged(
        entity_id=ids.ENTITY.format_optional(row.entity_id),
        locked_until_date=row.locked_until.isoformat(),
        previous_date=date_text(previous),
        reason=row.reason,
    )


def budget_closed(terms: Terms) -> BudgetClosed:
    """A budget accepts no further charges."""
    return BudgetClosed(
        budget_id=ids.BUDGET.format(terms.id),
        entity_id=ids.ENTITY.format(terms.entity_id),
        department_id=ids.DEPARTMENT.format_optional(terms.department_id),
    )


def _budget_hold_expired(event: HoldExpired) -> BudgetHoldExpired:
    return BudgetHoldExpired(
        hold=convert.holds.to_proto(event.hold),
        entity_id=ids.ENTITY.format(event.terms.entity_id),
        department_id=ids.DEPARTMENT.format_optional(event.terms.department_id),
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


def approval_holds_moved(closed_id: UUID, opened_id: UUID, approval_ids: Sequence[UUID]) -> Iterator[Message]:
    """A rollover has moved holds of approval requests."""
    for start in range(0, len(approval_ids), _APPROVALS_PER_EVENT_MAX):
        yield ApprovalHoldsMoved(
            closed_budget_id=ids.BUDGET.format(closed_id),
            opened_budget_id=ids.BUDGET.format(opened_id),
            approval_ids=map(ids.APPROVAL.format, approval_ids[start : start + _APPROVALS_PER_EVENT_MAX]),
        )


def unbudgeted_spend_recorded(row: UnbudgetedRow) -> UnbudgetedSpendRecorded:
    """No budget accepted a cost, or such a cost was reversed."""
    return UnbudgetedSpendRecorded(spend=convert.unbudgeted.to_proto(row))


def _approval_hold_settled(event: ApprovalHoldSettled) -> ApprovalFundsSettled:
    hold = event.hold
    return ApprovalFundsSettled(
        approval_id=ids.APPROVAL.format_optional(hold.approval_id),
        round=int(hold.request_id.rpartition(":")[2]),
        budget_id=ids.BUDGET.format(hold.budget_id),
        hold_id=ids.HOLD.format(hold.id),
        funds=ApprovalFundsSettled.Funds.Value(SETTLEMENTS[event.entry_type]),
    )


def approval_funds_settled(outcome: ApprovalOutcome, *, raised: bool, problem: str = "") -> ApprovalFundsSettled:
    """A budget was increased for an approval request, or the approved request could not be applied."""
    return ApprovalFundsSettled(
        approval_id=ids.APPROVAL.format(outcome.approval_id),
        round=outcome.round,
        budget_id=ids.BUDGET.format(outcome.budget_id),
        funds=ApprovalFundsSettled.RAISED if raised else ApprovalFundsSettled.FAILED,
        problem=problem,
    )


_BUILDERS: Final[Mapping[type[LedgerEvent], Callable[[Any], Message]]] = {
    AlertRaised: budget_alert_raised,
    domain.postings.BudgetExhausted: _budget_exhausted,
    HoldExpired: _budget_hold_expired,
    ApprovalHoldSettled: _approval_hold_settled,
}
