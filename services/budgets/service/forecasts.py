"""Use cases of forecasts: the forecast of a budget, and the alert if it will be overspent."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from kit import clock, dates
from kit.db import ReadSession, WriteSession
from services.budgets import domain, ledger, service, store
from services.budgets.domain.alerts import FORECAST
from services.budgets.domain.budgets import BudgetState
from services.budgets.domain.forecast import Forecast, ForecastInput
from services.budgets.domain.forecast_warnings import WARNING_DAYS_MIN, ForecastResult
from services.budgets.models.budgets import BudgetRow


async def forecast(tx: ReadSession, budget: BudgetRow) -> ForecastResult:
    """Return the forecast of a budget, based on the spend in its period and in earlier ones."""
    previous = (
        await store.reports.list_previous(tx, budget) if budget.previous_id else await _list_predecessors(tx, budget)
    )
    budgets = [budget, *previous]
    spend = await store.reports.spend_by_day(tx, [each.id for each in budgets], budget.time_zone)
    today = dates.date_in(budget.time_zone, clock.now())
    balance = budget.balance
    forecast_input = ForecastInput(
        start=budget.period_start,
        end=budget.period_end,
        today=max(today, budget.period_end) if budget.state in {BudgetState.CLOSING, BudgetState.CLOSED} else today,
        limit=balance.total,
        currency=budget.currency_code,
        committed=balance.committed,
    )
    # Days before the first budget was created are not days without spend, unless costs were charged to them later.
    created = dates.date_in(budget.time_zone, min(each.create_time for each in budgets))
    since = min([max(budgets[-1].period_start, created), *(day for day, _ in spend)])
    return ForecastResult(balance, forecast_input, domain.forecast.forecast(forecast_input, spend, since=since))


async def _list_predecessors(tx: ReadSession, budget: BudgetRow) -> Sequence[BudgetRow]:
    """Return budgets of the same kind whose periods precede the budget's without a gap, latest first.

    If several end on the same day, only one counts: the one with the same name, if there is one.
    """
    by_end: dict[date, BudgetRow] = {}
    for candidate in await store.reports.list_earlier_of_same_kind(tx, budget):
        if candidate.name == budget.name or candidate.period_end not in by_end:
            by_end[candidate.period_end] = candidate
    predecessors: list[BudgetRow] = []
    start = budget.period_start
    while start in by_end:
        predecessors.append(by_end[start])
        start = predecessors[-1].period_start
    return predecessors


async def check_forecast(tx: WriteSession, budget_id: UUID) -> None:
    """Raise the FORECAST alert of a budget that will be overspent, or resolve it, and set the timer for the next day.

    Computes nothing if no entry was recorded since the last check: days without spend make no budget worse, and
    whether they make one better matters only while there is an alert. The budget is locked after the computation, so
    that charges don't wait for it.
    """
    budget = await store.budgets.get(tx, budget_id)
    version = budget.ledger_version
    result = None
    if budget.forecast_version != version or FORECAST in await store.alerts.find_unresolved(tx, budget_id):
        result = await forecast(tx, budget)
    budget = (await store.budgets.lock_many(tx, [budget_id]))[budget_id]
    if budget.state is not BudgetState.ACTIVE:
        return
    if result:
        _settle_alert(tx, budget, result.forecast)
        if result.forecast.days_observed >= WARNING_DAYS_MIN:
            await store.budgets.set_forecast_version(tx, budget, version)
    service.budgets.set_forecast_timer(tx, budget)


def _settle_alert(tx: WriteSession, budget: BudgetRow, forecast: Forecast) -> None:
    if domain.forecast_warnings.warns(budget.balance, forecast):
        expected = domain.forecast_warnings.expected(forecast)
        service.alerts.raise_new(tx, budget.balance, [FORECAST], expected=expected)
    else:
        ledger.resolve_alerts(tx, budget.id, [FORECAST], clock.now())
