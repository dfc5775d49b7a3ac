"""Alerts of budgets: acknowledged by users, raised and resolved when budgets change."""

from decimal import Decimal
from uuid import UUID

from eventing import outbox
from eventing.timers import set_timer
from kit import clock
from kit.db import WriteSession
from services.budgets import domain, events, store
from services.budgets.domain.alerts import AlertAction
from services.budgets.domain.balances import Balance
from services.budgets.domain.budgets import FORECAST_TIMER, BudgetState
from services.budgets.domain.marks import PASSED_BY_USE, Mark
from services.budgets.models.alerts import AlertRow
from services.budgets.models.budgets import BudgetRow


async def acknowledge(tx: WriteSession, alert_id: UUID) -> AlertRow:
    """Say that somebody takes care of an alert."""
    alert = await store.alerts.lock(tx, alert_id)
    alert.state = domain.alerts.advance(alert.id, alert.state, AlertAction.ACKNOWLEDGE)
    await tx.flush()
    return alert


async def settle(tx: WriteSession, budget: BudgetRow) -> None:
    """Resolve the alerts of the marks that a locked budget is no longer past, and raise those it is past now."""
    await tx.flush()
    passed = domain.marks.marks_passed(budget.balance)
    await store.alerts.resolve(tx, budget.id, PASSED_BY_USE, passed)
    await tx.flush()
    await raise_new(tx, budget.balance, passed)
    if budget.state is BudgetState.ACTIVE:
        set_timer(tx, FORECAST_TIMER, budget.id, clock.now())  # more or less may suffice now


async def raise_new(tx: WriteSession, balance: Balance, passed: set[Mark], *, expected: Decimal | None = None) -> None:
    """Raise the alerts of the marks that have none open, and say so; `expected` where only that has passed them."""
    for alert in await store.alerts.insert_new(tx, balance, passed, expected=expected):
        mark = Mark(alert.alert_type, alert.threshold_bp)
        event = events.published.budget_alert_raised(
            balance, mark, alert.id, alert.charge_id, alert.create_time, expected=expected
        )
        outbox.append(tx, event)
