"""Use cases of alerts: acknowledge, and raise or resolve them after a change of a budget."""

from collections.abc import Collection
from decimal import Decimal
from uuid import UUID

from eventing import outbox
from eventing.timers import set_timer
from kit import clock, ids
from kit.db import WriteSession
from services.budgets import domain, events, ledger, store
from services.budgets.domain.alerts import REACHED_BY_USE, AlertAction, AlertThreshold
from services.budgets.domain.balances import ZERO, Balance
from services.budgets.domain.budgets import FORECAST_TIMER, BudgetState
from services.budgets.domain.postings import AlertRaised
from services.budgets.models.alerts import AlertRow
from services.budgets.models.budgets import BudgetRow


async def acknowledge(tx: WriteSession, alert_id: UUID) -> AlertRow:
    """Acknowledge an alert. Raises AlertNotFound, AlertStateForbids."""
    alert = await store.alerts.lock(tx, alert_id)
    alert.state = domain.alerts.advance(alert.id, alert.state, AlertAction.ACKNOWLEDGE)
    await store.alerts.save(tx, alert)
    return alert


async def settle(tx: WriteSession, budget: BudgetRow) -> None:
    """Raise the alerts of the thresholds that a locked budget has reached, and resolve those of all others."""
    await store.budgets.save(tx, budget)
    balance = budget.balance.before_carrying(budget.carried_forward or ZERO)
    reached = domain.alerts.reached(balance)
    unresolved = await store.alerts.find_unresolved(tx, budget.id)
    left = [each for each in unresolved if each.type in REACHED_BY_USE and each not in reached]
    ledger.resolve_alerts(tx, budget.id, left, clock.now())
    raise_new(tx, balance, reached)
    if budget.state is BudgetState.ACTIVE:
        set_timer(tx, FORECAST_TIMER, budget.id, clock.now())  # the forecast depends on the amount


def raise_new(
    tx: WriteSession, balance: Balance, reached: Collection[AlertThreshold], *, expected: Decimal | None = None
) -> None:
    """Raise the alerts of thresholds that have none open; `expected` if only the expected spend has reached them."""
    now = clock.now()
    raised = []
    for threshold in domain.alerts.ordered(reached):
        alert = domain.alerts.new(balance, threshold, id=ids.new(), now=now, expected=expected)
        event = events.published.budget_alert_raised(AlertRaised(alert, balance.terms))
        raised.append((alert, outbox.new_row(tx.origin, event)))
    ledger.raise_alerts(tx, raised)
