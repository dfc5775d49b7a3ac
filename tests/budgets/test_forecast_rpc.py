"""ForecastBudget over gRPC, and the timer that checks forecasts daily and raises alerts."""

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from billing.budgets.v1 import alert_service_pb2 as alert_pb
from billing.budgets.v1 import budget_report_service_pb2 as report_pb
from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1 import ledger_service_pb2 as ledger_pb
from billing.budgets.v1.alert_pb2 import Alert
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.events_pb2 import BudgetAlertRaised
from billing.budgets.v1.forecast_pb2 import Forecast
from google.protobuf.timestamp_pb2 import Timestamp

from kit.ids import BUDGET, ENTITY, new
from tests.budgets.budgets_api import BudgetsApi, eur, line
from tests.budgets.rolling import noon, roll, timers
from tests.harness.callers import Caller, refusal
from tests.harness.observe import OutboxEvent, PublishedEvents, eventually

TODAY = datetime.now(UTC).date()


def day(offset: int) -> str:
    """Return the day at this distance from today."""
    return (TODAY + timedelta(days=offset)).isoformat()


async def open_between(api: BudgetsApi, start: int, end: int, amount: str = "1000.00", **given: Any) -> Budget:
    """Create a budget of the days from `start` to before `end`, counted from today."""
    return await api.open(
        amount, period_type=Budget.CUSTOM, period_start_date=day(start), period_end_date=day(end), **given
    )


async def spend(api: BudgetsApi, budget: Budget, amount: str, days: range) -> None:
    """Charge the amount on each of the days."""
    lines = [line(budget, amount, charge_time=noon(day(offset))) for offset in days]
    done = await api.batch(*lines)
    assert all(result.HasField("charge") for result in done.results)


async def forecast(api: BudgetsApi, budget: Budget) -> Forecast:
    return await api.who.call(api.stubs.reports.ForecastBudget, report_pb.ForecastBudgetRequest(id=budget.id))


async def run_forecast_timer(admin: Any, budget: Budget) -> None:
    """Make the forecast timer of the budget due and wait until it has fired."""
    where = "where kind = 'forecast' and resource_id = $1"
    budget_id = BUDGET.parse(budget.id)
    set_back = await admin.execute(f"update budgets.timers set due_time = '2026-01-01' {where}", budget_id)
    assert set_back == "UPDATE 1"

    async def timer_was_reset() -> bool:
        later = "select due_time > now() and attempts = 0 from budgets.timers"
        return bool(await admin.fetchval(f"{later} {where}", budget_id))

    await eventually(timer_was_reset)


async def forecast_alert(api: BudgetsApi, budget: Budget, *, open_alert: bool = True) -> list[Alert]:
    """Wait until a forecast alert is open, or none is; return all forecast alerts."""
    alerts: list[Alert] = []

    async def matches() -> bool:
        alerts[:] = await api.alerts(budget, alert_type=Alert.FORECAST)
        return any(alert.state != Alert.RESOLVED for alert in alerts) == open_alert

    await eventually(matches)
    return alerts


class TestForecast:
    async def test_budget_that_will_be_exhausted(self, api: BudgetsApi) -> None:
        budget = await open_between(api, -70, 30)
        await spend(api, budget, "10", range(-70, 0))
        await api.hold(budget, "40")
        await api.commit(await api.hold(budget, "20"))
        result = await forecast(api, budget)
        assert (result.budget_id, result.amount, result.spent) == (budget.id, eur("1000.00"), eur("700.00"))
        assert (result.held, result.committed) == (eur("40.00"), eur("20.00"))
        assert (result.method, result.days_observed) == (Forecast.LEVEL, 70)
        assert (result.expected, result.low) == (eur("1000.00"), eur("1000.00"))
        assert result.high == eur("1020.00"), "the commitments may add to the usual spend"
        assert (result.utilisation_bp, result.runs_out_date) == (10000, "")
        await spend(api, budget, "10", range(-10, 0))
        result = await forecast(api, budget)
        assert result.spent == eur("800.00")
        assert 1100 < float(result.expected.amount) < 1500
        assert float(result.low.amount) <= float(result.expected.amount) <= float(result.high.amount)
        assert result.utilisation_bp == int(float(result.expected.amount) * 10)
        assert day(0) < result.runs_out_date < day(30)
        for part in (f"{result.expected.amount} EUR", day(29), "1000.00 EUR", result.runs_out_date):
            assert part in result.explanation

    async def test_amount_is_expected_without_any_spend(self, api: BudgetsApi) -> None:
        budget = await open_between(api, -70, 30)
        result = await forecast(api, budget)
        assert (result.method, result.expected, result.low) == (Forecast.PLAN, eur("1000.00"), eur("0.00"))
        assert result.days_observed == 0

    async def test_days_before_creation_count_only_after_late_costs(self, api: BudgetsApi) -> None:
        budget = await open_between(api, -200, 100, "100000")
        await spend(api, budget, "10", range(-20, 0))
        result = await forecast(api, budget)
        assert (result.days_observed, result.expected) == (20, eur("1200.00"))

    async def test_charges_of_budgets_below_and_refunds_count(self, api: BudgetsApi) -> None:
        year = await open_between(api, -70, 30, "5000")
        below = await open_between(api, -70, 30, "2000", parent_id=year.id, name="Below")
        await spend(api, below, "10", range(-70, 0))
        charge = await api.charge(year, "70", charge_time=noon(day(-35)))
        await api.refund(charge)
        result = await forecast(api, year)
        assert (result.days_observed, result.spent) == (70, eur("700.00"))
        assert float(result.expected.amount) > 950
        assert (await forecast(api, below)).expected == eur("1000.00")

    async def test_days_are_in_the_time_zone_of_the_budget(self, api: BudgetsApi) -> None:
        zone = "Pacific/Kiritimati"
        today = datetime.now(ZoneInfo(zone)).date()
        start = (today - timedelta(days=10)).isoformat()
        end = (today + timedelta(days=10)).isoformat()
        budget = await api.open(period_type=Budget.CUSTOM, period_start_date=start, period_end_date=end, time_zone=zone)
        second = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)) + timedelta(days=1, minutes=30)
        stamp = Timestamp()
        stamp.FromDatetime(second.astimezone(UTC))
        await api.charge(budget, "10", charge_time=stamp)
        assert (await forecast(api, budget)).days_observed == 9, "in UTC it was the day before"

    async def test_closed_budget_has_its_actual_spend(self, api: BudgetsApi) -> None:
        budget = await open_between(api, -30, -5)
        await spend(api, budget, "10", range(-20, -10))
        charge = await api.charge(budget, "50", charge_time=noon(day(-6)))
        await api.close(budget)
        await api.refund(charge, "20")
        result = await forecast(api, budget)
        assert (result.method, result.expected, result.spent) == (Forecast.ACTUAL, eur("130.00"), eur("130.00"))
        assert result.explanation == f"130.00 EUR were spent until {day(-6)}, 13 % of 1000.00 EUR."

    async def test_nothing_more_is_expected_of_a_budget_closed_early(self, api: BudgetsApi) -> None:
        budget = await open_between(api, -30, 30)
        await spend(api, budget, "10", range(-30, 0))
        assert (await forecast(api, await api.close(budget))).expected == eur("300.00")

    async def test_forecast_of_an_invisible_budget_is_not_found(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        budget = await open_between(api, -10, 10)
        confined = api_for(caller("viewer", entity_scope=[ENTITY.format(new())]))
        assert (await refusal(forecast(confined, budget))).reason == "BUDGET_NOT_FOUND"
        assert (await refusal(forecast(api_for(caller(tenant=uuid4())), budget))).reason == "BUDGET_NOT_FOUND"


class TestEarlierPeriods:
    async def test_earlier_periods_of_the_series_count(self, api: BudgetsApi) -> None:
        first = await open_between(api, -100, 0, "2000")
        await spend(api, first, "10", range(-100, 0))
        opened = (await roll(api, first, early=False, next_period_end_date=day(50))).opened
        result = await forecast(api, await api.update(opened, name="Servers", category="servers"))
        assert (result.days_observed, result.spent) == (100, eur("0.00"))
        assert result.expected == eur("500.00")

    async def test_budgets_of_the_same_kind_count_without_a_series(self, api: BudgetsApi) -> None:
        kind = {"category": "cloud"}
        before = await open_between(api, -100, -40, name="Winter", **kind)
        later = await open_between(api, -40, -1, name="Spring", **kind)
        other = await open_between(api, -40, -1, name="Spring too", **kind)
        await spend(api, before, "10", range(-100, -40))
        for budget in (later, other):
            await spend(api, budget, "10", range(-40, -1))
        budget = await open_between(api, -1, 49, name="Spring too", **kind)
        result = await forecast(api, budget)
        assert result.days_observed == 100
        assert 450 < float(result.expected.amount) < 500, "only one of the two spring budgets counts"

    @pytest.mark.parametrize(
        ("differs", "end"),
        [
            ({"category": "travel"}, -1),
            ({"gl_code": "6100"}, -1),
            ({}, -2),
        ],
    )
    async def test_other_budgets_do_not_count(self, api: BudgetsApi, differs: dict[str, Any], end: int) -> None:
        kind = {"category": "cloud", "name": "Cloud"}
        other = await open_between(api, -100, end, **{**kind, **differs})
        await spend(api, other, "10", range(-100, end))
        budget = await open_between(api, -1, 49, **kind)
        await api.charge(budget, "1", charge_time=noon(day(-1)))
        assert (await forecast(api, budget)).days_observed == 1

    async def test_draft_of_the_same_days_does_not_count(self, api: BudgetsApi) -> None:
        other = await open_between(api, -100, -1, name="Servers", category="cloud")
        await open_between(api, -100, -1, name="Cloud", category="cloud", draft=True)
        await spend(api, other, "10", range(-100, -1))
        budget = await open_between(api, -1, 49, name="Cloud", category="cloud")
        assert (await forecast(api, budget)).days_observed == 100

    async def test_budgets_without_a_category_match_by_name(self, api: BudgetsApi) -> None:
        other = await open_between(api, -100, -1, name="Travel")
        await spend(api, other, "10", range(-100, -1))
        assert (await forecast(api, await open_between(api, -1, 49, name="Cloud"))).method == Forecast.PLAN
        assert (await forecast(api, await open_between(api, -1, 49, name="Travel"))).days_observed == 100


class TestAlert:
    async def overspending(self, api: BudgetsApi, **given: Any) -> Budget:
        budget = await open_between(api, -30, 30, "900", alert_thresholds_bp=[9900], **given)
        await spend(api, budget, "20", range(-30, 0))
        return budget

    async def test_alert_is_raised_once_by_the_timer_and_not_by_the_call(
        self,
        api: BudgetsApi,
        admin: Any,
        published_events: PublishedEvents,
        outbox_events: Callable[[str], Awaitable[list[OutboxEvent]]],
    ) -> None:
        budget = await self.overspending(api)
        expected = (await forecast(api, budget)).expected
        assert await api.alerts(budget) == []
        await run_forecast_timer(admin, budget)
        (alert,) = await api.alerts(budget)
        assert (alert.alert_type, alert.threshold_bp, alert.state) == (Alert.FORECAST, 10000, Alert.OPEN)
        assert (alert.used, alert.spent, alert.amount) == (expected, eur("600.00"), eur("900.00"))
        assert (alert.utilisation_bp, alert.charge_id) == (int(float(expected.amount) / 900 * 10000), "")
        event = await published_events.first(BudgetAlertRaised)
        assert (event.alert.id, event.alert.used, event.alert.utilisation_bp) == (
            alert.id, alert.used, alert.utilisation_bp,
        )  # fmt: skip
        await api.charge(budget, "1")
        await run_forecast_timer(admin, budget)
        assert [again.id for again in await api.alerts(budget)] == [alert.id]
        types = [event.type for event in await outbox_events("budgets")]
        assert types.count(BudgetAlertRaised.DESCRIPTOR.full_name) == 1

    async def test_higher_amount_resolves_the_alert_and_a_lower_one_raises_it_again(
        self, api: BudgetsApi, admin: Any
    ) -> None:
        budget = await self.overspending(api)
        await run_forecast_timer(admin, budget)
        await api.update(budget, amount=eur("5000"))
        (alert,) = await forecast_alert(api, budget, open_alert=False)
        await api.update(budget, amount=eur("900"))
        again, first = await forecast_alert(api, budget)
        assert (first.id, first.state, again.state) == (alert.id, Alert.RESOLVED, Alert.OPEN)

    async def test_sufficient_refund_resolves_the_alert(self, api: BudgetsApi, admin: Any) -> None:
        budget = await self.overspending(api)
        await run_forecast_timer(admin, budget)
        await forecast_alert(api, budget)
        for charge in (await api.entries(budget, page_size=1000))[:25]:
            request = ledger_pb.RefundChargeRequest(id=budget.id, charge_id=charge.id, request_id=uuid4().hex)
            await api.who.call(api.stubs.ledger.RefundCharge, request)
        await run_forecast_timer(admin, budget)
        assert [alert.state for alert in await api.alerts(budget)] == [Alert.RESOLVED]

    async def test_forecast_alert_is_independent_of_the_thresholds(self, api: BudgetsApi, admin: Any) -> None:
        budget = await self.overspending(api)
        await run_forecast_timer(admin, budget)
        await api.update(budget, alert_thresholds_bp=[5000])
        await run_forecast_timer(admin, budget)
        states = {alert.alert_type: alert.state for alert in await api.alerts(budget)}
        assert states == {Alert.FORECAST: Alert.OPEN, Alert.THRESHOLD: Alert.OPEN}

    async def test_sufficient_budget_keeps_its_other_alerts(self, api: BudgetsApi, admin: Any) -> None:
        budget = await open_between(api, -30, 30, "5000", alert_thresholds_bp=[1000])
        await spend(api, budget, "20", range(-30, 0))
        await run_forecast_timer(admin, budget)
        assert [(one.alert_type, one.state) for one in await api.alerts(budget)] == [(Alert.THRESHOLD, Alert.OPEN)]

    async def test_days_without_spend_resolve_the_alert(self, api: BudgetsApi, admin: Any) -> None:
        budget = await self.overspending(api)
        await run_forecast_timer(admin, budget)
        later = "update budgets.budgets set period_start = period_start - 300 where id = $1"
        entries = (
            "update budgets.budget_entries set charge_time = charge_time - interval '300 days' where budget_id = $1"
        )
        async with admin.acquire() as connection, connection.transaction():
            await connection.execute(
                "set local session_replication_role = replica"
            )  # entries are immutable: disable their trigger
            await connection.execute(later, BUDGET.parse(budget.id))
            await connection.execute(entries, BUDGET.parse(budget.id))
        await run_forecast_timer(admin, budget)
        assert [alert.state for alert in await api.alerts(budget)] == [Alert.RESOLVED]

    async def test_acknowledged_alert_is_not_raised_again(self, api: BudgetsApi, admin: Any) -> None:
        budget = await self.overspending(api)
        await run_forecast_timer(admin, budget)
        (alert,) = await api.alerts(budget)
        await api.who.call(api.stubs.alerts.AcknowledgeAlert, alert_pb.AcknowledgeAlertRequest(id=alert.id))
        await api.charge(budget, "1")
        await run_forecast_timer(admin, budget)
        assert [again.state for again in await api.alerts(budget)] == [Alert.ACKNOWLEDGED]

    async def test_less_than_a_week_raises_no_alert(self, api: BudgetsApi, admin: Any) -> None:
        budget = await open_between(api, -6, 30, "900")
        await spend(api, budget, "30", range(-6, 0))
        result = await forecast(api, budget)
        assert (result.days_observed, result.utilisation_bp > 10000) == (6, True)
        await run_forecast_timer(admin, budget)
        assert await api.alerts(budget, alert_type=Alert.FORECAST) == []

    async def test_alert_of_a_closed_budget_stays_open(self, api: BudgetsApi, admin: Any) -> None:
        budget = await self.overspending(api)
        await run_forecast_timer(admin, budget)
        await api.close(budget)
        assert [alert.state for alert in await api.alerts(budget)] == [Alert.OPEN]

    async def test_check_does_not_change_the_budget_resource(self, api: BudgetsApi, admin: Any) -> None:
        budget = await api.get(await self.overspending(api))
        await run_forecast_timer(admin, budget)
        assert await api.get(budget) == budget

    async def test_budget_without_new_entries_is_not_computed_again(self, api: BudgetsApi, admin: Any) -> None:
        budget = await open_between(api, -30, 30, "5000")
        await spend(api, budget, "20", range(-30, 0))
        await run_forecast_timer(admin, budget)
        unnoticed_change = "update budgets.budgets set amount = 700 where id = $1"
        await admin.execute(unnoticed_change, BUDGET.parse(budget.id))
        await run_forecast_timer(admin, budget)
        assert await api.alerts(budget, alert_type=Alert.FORECAST) == []
        await api.charge(budget, "1")
        await run_forecast_timer(admin, budget)
        assert len(await api.alerts(budget, alert_type=Alert.FORECAST)) == 1


class TestForecastTimer:
    async def due(self, admin: Any, budget: Budget) -> datetime | None:
        rows = await timers(admin, budget, "forecast")
        return rows[0][1] if rows else None

    @pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
    async def test_timer_is_due_in_the_first_hour_of_the_next_day_in_the_zone(
        self, api: BudgetsApi, admin: Any, zone: str
    ) -> None:
        budget = await open_between(api, -10, 10, time_zone=zone)
        due = await self.due(admin, budget)
        assert due
        local = due.astimezone(ZoneInfo(zone))
        assert (local.date() - datetime.now(ZoneInfo(zone)).date(), local.hour) == (timedelta(days=1), 0)

    async def test_timer_is_set_only_for_active_budgets_during_their_period(self, api: BudgetsApi, admin: Any) -> None:
        draft = await open_between(api, -10, 10, draft=True)
        assert await self.due(admin, draft) is None
        await api.who.call(api.stubs.budgets.ActivateBudget, pb.ActivateBudgetRequest(id=draft.id))
        assert await self.due(admin, draft)
        await api.close(draft)
        assert await self.due(admin, draft) is None
        await api.who.call(api.stubs.budgets.ReopenBudget, pb.ReopenBudgetRequest(id=draft.id))
        assert await self.due(admin, draft)
        assert await self.due(admin, await open_between(api, -10, 1)) is None, "today is the last day"

    async def test_timer_of_a_future_period_is_due_after_its_first_day(self, api: BudgetsApi, admin: Any) -> None:
        due = await self.due(admin, await open_between(api, 5, 50))
        assert due
        assert due.date() == date.fromisoformat(day(6))

    async def test_budget_of_the_next_period_has_a_timer(self, api: BudgetsApi, admin: Any) -> None:
        budget = await open_between(api, -30, -1)
        opened = (await roll(api, budget, early=False, next_period_end_date=day(50))).opened
        assert await self.due(admin, budget) is None
        assert await self.due(admin, opened)
