"""What a budget will have spent, over the wire; and the clock that looks at it every day and raises the alert."""

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
    """So many days from today."""
    return (TODAY + timedelta(days=offset)).isoformat()


async def open_between(api: BudgetsApi, start: int, end: int, amount: str = "1000.00", **given: Any) -> Budget:
    """A budget from a day to before another, counted from today."""
    return await api.open(
        amount, period_type=Budget.CUSTOM, period_start_date=day(start), period_end_date=day(end), **given
    )


async def spend(api: BudgetsApi, budget: Budget, amount: str, days: range) -> None:
    """So much on each of the days."""
    lines = [line(budget, amount, charge_time=noon(day(offset))) for offset in days]
    done = await api.batch(*lines)
    assert all(result.HasField("charge") for result in done.results)


async def forecast(api: BudgetsApi, budget: Budget) -> Forecast:
    return await api.who.call(api.stubs.reports.ForecastBudget, report_pb.ForecastBudgetRequest(id=budget.id))


async def look(admin: Any, budget: Budget) -> None:
    """Let the clock look at the budget now, and wait until it has."""
    where = "where kind = 'forecast' and resource_id = $1"
    budget_id = BUDGET.parse(budget.id)
    set_back = await admin.execute(f"update budgets.timers set due_time = '2026-01-01' {where}", budget_id)
    assert set_back == "UPDATE 1"

    async def looked() -> bool:
        later = "select due_time > now() and attempts = 0 from budgets.timers"
        return bool(await admin.fetchval(f"{later} {where}", budget_id))

    await eventually(looked)


async def alert_of(api: BudgetsApi, budget: Budget, *, open_alert: bool = True) -> list[Alert]:
    """The alerts of the forecast; waits until there is an open one, or none."""
    found: list[Alert] = []

    async def so() -> bool:
        found[:] = await api.alerts(budget, alert_type=Alert.FORECAST)
        return any(alert.state != Alert.RESOLVED for alert in found) == open_alert

    await eventually(so)
    return found


class TestForecast:
    async def test_a_budget_that_will_not_suffice(self, api: BudgetsApi) -> None:
        budget = await open_between(api, -70, 30)
        await spend(api, budget, "10", range(-70, 0))
        await api.hold(budget, "40")
        await api.commit(await api.hold(budget, "20"))
        told = await forecast(api, budget)
        assert (told.budget_id, told.amount, told.spent) == (budget.id, eur("1000.00"), eur("700.00"))
        assert (told.held, told.committed) == (eur("40.00"), eur("20.00"))
        assert (told.method, told.days_observed) == (Forecast.LEVEL, 70)
        assert (told.expected, told.low) == (eur("1000.00"), eur("1000.00"))
        assert told.high == eur("1020.00"), "what is committed may come on top"
        assert (told.utilisation_bp, told.runs_out_date) == (10000, "")
        await spend(api, budget, "10", range(-10, 0))
        told = await forecast(api, budget)
        assert told.spent == eur("800.00")
        assert 1100 < float(told.expected.amount) < 1500
        assert float(told.low.amount) <= float(told.expected.amount) <= float(told.high.amount)
        assert told.utilisation_bp == int(float(told.expected.amount) * 10)
        assert day(0) < told.runs_out_date < day(30)
        for said in (f"{told.expected.amount} EUR", day(29), "1000.00 EUR", told.runs_out_date):
            assert said in told.explanation

    async def test_without_any_spend_it_is_the_amount(self, api: BudgetsApi) -> None:
        budget = await open_between(api, -70, 30)
        told = await forecast(api, budget)
        assert (told.method, told.expected, told.low) == (Forecast.PLAN, eur("1000.00"), eur("0.00"))
        assert told.days_observed == 0

    async def test_days_before_it_was_made_say_nothing_unless_they_were_brought_in(self, api: BudgetsApi) -> None:
        budget = await open_between(api, -200, 100, "100000")
        await spend(api, budget, "10", range(-20, 0))
        told = await forecast(api, budget)
        assert (told.days_observed, told.expected) == (20, eur("1200.00"))

    async def test_charges_of_budgets_below_and_refunds_count(self, api: BudgetsApi) -> None:
        year = await open_between(api, -70, 30, "5000")
        below = await open_between(api, -70, 30, "2000", parent_id=year.id, name="Below")
        await spend(api, below, "10", range(-70, 0))
        charge = await api.charge(year, "70", charge_time=noon(day(-35)))
        await api.refund(charge)
        told = await forecast(api, year)
        assert (told.days_observed, told.spent) == (70, eur("700.00"))
        assert float(told.expected.amount) > 950
        assert (await forecast(api, below)).expected == eur("1000.00")

    async def test_a_day_is_one_of_the_budgets_zone(self, api: BudgetsApi) -> None:
        zone = "Pacific/Kiritimati"
        today = datetime.now(ZoneInfo(zone)).date()
        start = (today - timedelta(days=10)).isoformat()
        end = (today + timedelta(days=10)).isoformat()
        budget = await api.open(period_type=Budget.CUSTOM, period_start_date=start, period_end_date=end, time_zone=zone)
        second = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)) + timedelta(days=1, minutes=30)
        stamp = Timestamp()
        stamp.FromDatetime(second.astimezone(UTC))
        await api.charge(budget, "10", charge_time=stamp)
        assert (await forecast(api, budget)).days_observed == 9, "at UTC it was the day before"

    async def test_of_a_closed_budget_it_is_what_was_spent_whenever_it_came_back(self, api: BudgetsApi) -> None:
        budget = await open_between(api, -30, -5)
        await spend(api, budget, "10", range(-20, -10))
        charge = await api.charge(budget, "50", charge_time=noon(day(-6)))
        await api.close(budget)
        await api.refund(charge, "20")
        told = await forecast(api, budget)
        assert (told.method, told.expected, told.spent) == (Forecast.ACTUAL, eur("130.00"), eur("130.00"))
        assert told.explanation == f"130.00 EUR were spent until {day(-6)}, 13 % of 1000.00 EUR."

    async def test_closed_before_its_end_nothing_more_is_expected(self, api: BudgetsApi) -> None:
        budget = await open_between(api, -30, 30)
        await spend(api, budget, "10", range(-30, 0))
        assert (await forecast(api, await api.close(budget))).expected == eur("300.00")

    async def test_nobody_else_sees_it(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        budget = await open_between(api, -10, 10)
        confined = api_for(caller("viewer", entity_scope=[ENTITY.format(new())]))
        assert (await refusal(forecast(confined, budget))).reason == "BUDGET_NOT_FOUND"
        assert (await refusal(forecast(api_for(caller(tenant=uuid4())), budget))).reason == "BUDGET_NOT_FOUND"


class TestEarlierPeriods:
    async def test_those_that_it_came_from(self, api: BudgetsApi) -> None:
        first = await open_between(api, -100, 0, "2000")
        await spend(api, first, "10", range(-100, 0))
        opened = (await roll(api, first, early=False, next_period_end_date=day(50))).opened
        told = await forecast(api, await api.update(opened, name="Servers", category="servers"))
        assert (told.days_observed, told.spent) == (100, eur("0.00"))
        assert told.expected == eur("500.00")

    async def test_those_of_the_same_owner_and_category_where_it_came_from_none(self, api: BudgetsApi) -> None:
        kind = {"category": "cloud"}
        before = await open_between(api, -100, -40, name="Winter", **kind)
        later = await open_between(api, -40, -1, name="Spring", **kind)
        beside = await open_between(api, -40, -1, name="Spring too", **kind)
        await spend(api, before, "10", range(-100, -40))
        for budget in (later, beside):
            await spend(api, budget, "10", range(-40, -1))
        budget = await open_between(api, -1, 49, name="Spring too", **kind)
        told = await forecast(api, budget)
        assert told.days_observed == 100
        assert 450 < float(told.expected.amount) < 500, "one of the two in spring"

    @pytest.mark.parametrize(
        ("differs", "end"),
        [
            ({"category": "travel"}, -1),
            ({"gl_code": "6100"}, -1),
            ({}, -2),
        ],
    )
    async def test_others_are_not_looked_at(self, api: BudgetsApi, differs: dict[str, Any], end: int) -> None:
        kind = {"category": "cloud", "name": "Cloud"}
        other = await open_between(api, -100, end, **{**kind, **differs})
        await spend(api, other, "10", range(-100, end))
        budget = await open_between(api, -1, 49, **kind)
        await api.charge(budget, "1", charge_time=noon(day(-1)))
        assert (await forecast(api, budget)).days_observed == 1

    async def test_a_draft_of_the_same_days_hides_none(self, api: BudgetsApi) -> None:
        other = await open_between(api, -100, -1, name="Servers", category="cloud")
        await open_between(api, -100, -1, name="Cloud", category="cloud", draft=True)
        await spend(api, other, "10", range(-100, -1))
        budget = await open_between(api, -1, 49, name="Cloud", category="cloud")
        assert (await forecast(api, budget)).days_observed == 100

    async def test_without_a_category_the_name_is_the_kind(self, api: BudgetsApi) -> None:
        other = await open_between(api, -100, -1, name="Travel")
        await spend(api, other, "10", range(-100, -1))
        assert (await forecast(api, await open_between(api, -1, 49, name="Cloud"))).method == Forecast.PLAN
        assert (await forecast(api, await open_between(api, -1, 49, name="Travel"))).days_observed == 100


class TestAlert:
    async def too_fast(self, api: BudgetsApi, **given: Any) -> Budget:
        budget = await open_between(api, -30, 30, "900", alert_thresholds_bp=[9900], **given)
        await spend(api, budget, "20", range(-30, 0))
        return budget

    async def test_is_raised_once_by_the_clock_and_not_by_asking(
        self,
        api: BudgetsApi,
        admin: Any,
        published_events: PublishedEvents,
        outbox_events: Callable[[str], Awaitable[list[OutboxEvent]]],
    ) -> None:
        budget = await self.too_fast(api)
        expected = (await forecast(api, budget)).expected
        assert await api.alerts(budget) == []
        await look(admin, budget)
        (alert,) = await api.alerts(budget)
        assert (alert.alert_type, alert.threshold_bp, alert.state) == (Alert.FORECAST, 10000, Alert.OPEN)
        assert (alert.used, alert.spent, alert.amount) == (expected, eur("600.00"), eur("900.00"))
        assert (alert.utilisation_bp, alert.charge_id) == (int(float(expected.amount) / 900 * 10000), "")
        said = await published_events.first(BudgetAlertRaised)
        assert (said.alert.id, said.alert.used, said.alert.utilisation_bp) == (
            alert.id, alert.used, alert.utilisation_bp,
        )  # fmt: skip
        await api.charge(budget, "1")
        await look(admin, budget)
        assert [again.id for again in await api.alerts(budget)] == [alert.id]
        types = [event.type for event in await outbox_events("budgets")]
        assert types.count(BudgetAlertRaised.DESCRIPTOR.full_name) == 1

    async def test_a_higher_amount_resolves_it_and_a_lower_one_raises_it_anew(
        self, api: BudgetsApi, admin: Any
    ) -> None:
        budget = await self.too_fast(api)
        await look(admin, budget)
        await api.update(budget, amount=eur("5000"))
        (alert,) = await alert_of(api, budget, open_alert=False)
        await api.update(budget, amount=eur("900"))
        again, first = await alert_of(api, budget)
        assert (first.id, first.state, again.state) == (alert.id, Alert.RESOLVED, Alert.OPEN)

    async def test_a_refund_that_makes_it_suffice_resolves_it(self, api: BudgetsApi, admin: Any) -> None:
        budget = await self.too_fast(api)
        await look(admin, budget)
        await alert_of(api, budget)
        for charge in (await api.entries(budget, page_size=1000))[:25]:
            request = ledger_pb.RefundChargeRequest(id=budget.id, charge_id=charge.id, request_id=uuid4().hex)
            await api.who.call(api.stubs.ledger.RefundCharge, request)
        await look(admin, budget)
        assert [alert.state for alert in await api.alerts(budget)] == [Alert.RESOLVED]

    async def test_it_is_none_of_the_marks_that_use_passes(self, api: BudgetsApi, admin: Any) -> None:
        budget = await self.too_fast(api)
        await look(admin, budget)
        await api.update(budget, alert_thresholds_bp=[5000])
        await look(admin, budget)
        states = {alert.alert_type: alert.state for alert in await api.alerts(budget)}
        assert states == {Alert.FORECAST: Alert.OPEN, Alert.THRESHOLD: Alert.OPEN}

    async def test_that_it_suffices_resolves_no_other_alert(self, api: BudgetsApi, admin: Any) -> None:
        budget = await open_between(api, -30, 30, "5000", alert_thresholds_bp=[1000])
        await spend(api, budget, "20", range(-30, 0))
        await look(admin, budget)
        assert [(one.alert_type, one.state) for one in await api.alerts(budget)] == [(Alert.THRESHOLD, Alert.OPEN)]

    async def test_days_without_spend_resolve_it(self, api: BudgetsApi, admin: Any) -> None:
        budget = await self.too_fast(api)
        await look(admin, budget)
        later = "update budgets.budgets set period_start = period_start - 300 where id = $1"
        entries = (
            "update budgets.budget_entries set charge_time = charge_time - interval '300 days' where budget_id = $1"
        )
        async with admin.acquire() as connection, connection.transaction():
            await connection.execute("set local session_replication_role = replica")  # what is recorded never changes
            await connection.execute(later, BUDGET.parse(budget.id))
            await connection.execute(entries, BUDGET.parse(budget.id))
        await look(admin, budget)
        assert [alert.state for alert in await api.alerts(budget)] == [Alert.RESOLVED]

    async def test_acknowledged_it_is_not_raised_again(self, api: BudgetsApi, admin: Any) -> None:
        budget = await self.too_fast(api)
        await look(admin, budget)
        (alert,) = await api.alerts(budget)
        await api.who.call(api.stubs.alerts.AcknowledgeAlert, alert_pb.AcknowledgeAlertRequest(id=alert.id))
        await api.charge(budget, "1")
        await look(admin, budget)
        assert [again.state for again in await api.alerts(budget)] == [Alert.ACKNOWLEDGED]

    async def test_less_than_a_week_warns_of_nothing(self, api: BudgetsApi, admin: Any) -> None:
        budget = await open_between(api, -6, 30, "900")
        await spend(api, budget, "30", range(-6, 0))
        told = await forecast(api, budget)
        assert (told.days_observed, told.utilisation_bp > 10000) == (6, True)
        await look(admin, budget)
        assert await api.alerts(budget, alert_type=Alert.FORECAST) == []

    async def test_of_a_closed_budget_it_stays_as_it_is(self, api: BudgetsApi, admin: Any) -> None:
        budget = await self.too_fast(api)
        await look(admin, budget)
        await api.close(budget)
        assert [alert.state for alert in await api.alerts(budget)] == [Alert.OPEN]

    async def test_a_look_changes_nothing_that_callers_see(self, api: BudgetsApi, admin: Any) -> None:
        budget = await api.get(await self.too_fast(api))
        await look(admin, budget)
        assert await api.get(budget) == budget

    async def test_what_nothing_has_moved_is_not_looked_at_again(self, api: BudgetsApi, admin: Any) -> None:
        budget = await open_between(api, -30, 30, "5000")
        await spend(api, budget, "20", range(-30, 0))
        await look(admin, budget)
        unnoticed = "update budgets.budgets set amount = 700 where id = $1"
        await admin.execute(unnoticed, BUDGET.parse(budget.id))
        await look(admin, budget)
        assert await api.alerts(budget, alert_type=Alert.FORECAST) == []
        await api.charge(budget, "1")
        await look(admin, budget)
        assert len(await api.alerts(budget, alert_type=Alert.FORECAST)) == 1


class TestWhenItLooks:
    async def due(self, admin: Any, budget: Budget) -> datetime | None:
        found = await timers(admin, budget, "forecast")
        return found[0][1] if found else None

    @pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
    async def test_in_the_first_hour_of_the_next_day_of_its_zone(self, api: BudgetsApi, admin: Any, zone: str) -> None:
        budget = await open_between(api, -10, 10, time_zone=zone)
        due = await self.due(admin, budget)
        assert due
        local = due.astimezone(ZoneInfo(zone))
        assert (local.date() - datetime.now(ZoneInfo(zone)).date(), local.hour) == (timedelta(days=1), 0)

    async def test_only_while_it_is_active_and_its_period_lasts(self, api: BudgetsApi, admin: Any) -> None:
        draft = await open_between(api, -10, 10, draft=True)
        assert await self.due(admin, draft) is None
        await api.who.call(api.stubs.budgets.ActivateBudget, pb.ActivateBudgetRequest(id=draft.id))
        assert await self.due(admin, draft)
        await api.close(draft)
        assert await self.due(admin, draft) is None
        await api.who.call(api.stubs.budgets.ReopenBudget, pb.ReopenBudgetRequest(id=draft.id))
        assert await self.due(admin, draft)
        assert await self.due(admin, await open_between(api, -10, 1)) is None, "today is the last day"

    async def test_not_before_a_day_of_its_period_has_passed(self, api: BudgetsApi, admin: Any) -> None:
        due = await self.due(admin, await open_between(api, 5, 50))
        assert due
        assert due.date() == date.fromisoformat(day(6))

    async def test_at_the_budget_of_the_next_period(self, api: BudgetsApi, admin: Any) -> None:
        budget = await open_between(api, -30, -1)
        opened = (await roll(api, budget, early=False, next_period_end_date=day(50))).opened
        assert await self.due(admin, budget) is None
        assert await self.due(admin, opened)
