"""What budgets will have spent when their periods end, and the alerts of those for which it will not suffice."""

from collections.abc import Sequence
from uuid import UUID
from zoneinfo import ZoneInfo

from kit import clock
from kit.db import ReadSession, WriteSession
from services.budgets import domain, ledger, service, store
from services.budgets.domain.alerts import FORECAST
from services.budgets.domain.budgets import BudgetState
from services.budgets.domain.forecast import Forecast, ForecastInput
from services.budgets.domain.forecast_warnings import WARNS_AFTER_DAYS, ForecastResult
from services.budgets.models.budgets import BudgetRow


async def forecast(tx: ReadSession, budget: BudgetRow) -> ForecastResult:
    """The forecast of a budget, from what was spent in its period and in those before it."""
    earlier = await store.reports.previous_periods(tx, budget) if budget.previous_id else await _line_before(tx, budget)
    known = [budget, *earlier]
    spends = await store.reports.spend_by_day(tx, [one.id for one in known], budget.time_zone)
    zone = ZoneInfo(budget.time_zone)
    today = clock.now().astimezone(zone).date()
    ended = budget.state is BudgetState.CLOSED
    balance = budget.balance
    course = ForecastInput(
        start=budget.period_start,
        end=budget.period_end,
        today=max(today, budget.period_end) if ended else today,
        limit=balance.total,
        currency=budget.currency_code,
        committed=balance.committed,
    )
    # Before the first of them was made nothing could be charged, but for what was brought in later: silence of that
    # time says nothing.
    made = min(one.create_time for one in known).astimezone(zone).date()
    since = min([max(known[-1].period_start, made), *(day for day, _ in spends)])
    return ForecastResult(
        balance, course, domain.forecast.forecast(course, [(day, spent) for day, spent in spends], since=since)
    )


async def _line_before(tx: ReadSession, budget: BudgetRow) -> Sequence[BudgetRow]:
    """The budgets of the same kind that lie one after the other before it, without a gap, newest first.

    Of several for the same days one is taken, so that nothing counts twice: that of the same name, if there is one.
    """
    ending: dict[object, BudgetRow] = {}
    for candidate in await store.reports.of_same_kind(tx, budget):
        if candidate.name == budget.name or candidate.period_end not in ending:
            ending[candidate.period_end] = candidate
    line: list[BudgetRow] = []
    start = budget.period_start
    while start in ending:
        line.append(ending[start])
        start = line[-1].period_start
    return line


async def check_forecast(tx: WriteSession, budget_id: UUID) -> None:
    """Raise the alert of a budget that is expected to be overspent, or resolve it; and look again on the next day.

    Where nothing has moved the budget since the last look nothing is computed: a day without spend makes no budget
    worse, and whether it makes one better matters only while there is an alert. The budget is locked at the end only,
    so that charges don't wait for the arithmetic.
    """
    budget = await store.budgets.get(tx, budget_id)
    seen = budget.ledger_version
    found = None
    if budget.forecast_version != seen or FORECAST in await store.alerts.unresolved(tx, budget_id):
        found = await forecast(tx, budget)
    budget = (await store.budgets.lock_many(tx, [budget_id]))[budget_id]
    if budget.state is not BudgetState.ACTIVE:
        return
    if found:
        _settle(tx, budget, found.forecast)
        if found.forecast.days_observed >= WARNS_AFTER_DAYS:
            await store.budgets.set_forecast_version(tx, budget, seen)
    await service.budgets.set_forecast_timer(tx, budget)


def _settle(tx: WriteSession, budget: BudgetRow, foreseen: Forecast) -> None:
    if domain.forecast_warnings.warns(budget.balance, foreseen):
        expected = domain.forecast_warnings.expected(foreseen)
        service.alerts.raise_new(tx, budget.balance, [FORECAST], expected=expected)
    else:
        ledger.resolve_alerts(tx, budget.id, [FORECAST], clock.now())
