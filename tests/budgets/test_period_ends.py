"""The end of the period of budgets that do not recur: late postings only, then closed, by the clock."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.events_pb2 import BudgetClosed

from kit.ids import BUDGET
from kit.origin import Origin
from kit.telemetry import Trace
from services.budgets import service
from services.budgets.domain.budgets import BudgetAction
from tests.budgets.budgets_api import BudgetsApi, eur
from tests.budgets.rolling import roll, this_month, timers
from tests.budgets.test_late_postings import last_month
from tests.harness.callers import refusal
from tests.harness.observe import PublishedEvents, eventually, until_blocked
from tests.harness.services import Budgets, Served


@pytest.fixture
def ended(api: BudgetsApi, admin: Any) -> Callable[..., Awaitable[Budget]]:
    """Create a budget whose period has ended, by the clock; wait for its new state."""

    async def create(expected: Budget.State.ValueType = Budget.CLOSING, *, days_ago: int = 0, **given: Any) -> Budget:
        defaults = {
            "period_type": Budget.MONTHLY, "period_start_date": this_month(), "recurring": False,
            "late_posting_days": 90,
        }  # fmt: skip
        budget = await api.open(**{**defaults, **given})
        last = datetime.now(UTC).date() - timedelta(days_ago)
        start, end = (datetime.combine(day, datetime.min.time(), UTC) for day in (last - timedelta(30), last))
        id = BUDGET.parse(budget.id)
        await admin.execute(
            "update budgets.budgets set period_start = $2::timestamptz::date, period_end = $3::timestamptz::date,"
            " period_start_time = $2, period_end_time = $3 where id = $1", id, start, end,
        )  # fmt: skip
        await admin.execute("update budgets.timers set due_time = now() where resource_id = $1", id)

        async def has_ended() -> bool:
            return (await api.get(budget)).state == expected

        await eventually(has_ended)
        return await api.get(budget)

    return create


async def charge_yesterday(api: BudgetsApi, budget: Budget, amount: str) -> None:
    moment = datetime.combine(datetime.now(UTC).date(), datetime.min.time(), UTC) - timedelta(hours=12)
    await api.charge(budget, amount, charge_time=moment)


class TestEndOfPeriod:
    async def test_budget_accepts_late_postings_only(self, api: BudgetsApi, ended: Any, admin: Any) -> None:
        budget = await ended()
        await charge_yesterday(api, budget, "100")
        assert (await api.get(budget)).spent == eur("100.00")
        assert (await refusal(api.charge(budget, "1"))).reason == "OUTSIDE_PERIOD"
        for call in (api.hold(budget, "1"), api.update(budget, amount=eur("2000"))):
            error = await refusal(call)
            assert (error.reason, error.metadata["state"]) == ("BUDGET_STATE", "CLOSING")
        assert len(await timers(admin, budget, "late-posting-end")) == 1
        await api.verify(budget)

    async def test_budget_is_closed_after_its_days_for_late_postings(
        self, api: BudgetsApi, ended: Any, admin: Any, published_events: PublishedEvents
    ) -> None:
        budget = await ended()
        await admin.execute(
            "update budgets.timers set due_time = now() where resource_id = $1", BUDGET.parse(budget.id)
        )
        assert (await published_events.first(BudgetClosed)).budget_id == budget.id
        error = await refusal(charge_yesterday(api, budget, "1"))
        assert (error.reason, error.metadata["state"]) == ("BUDGET_STATE", "CLOSED")

    async def test_budget_that_is_closed_while_its_period_ends_stays_closed(
        self, api: BudgetsApi, budgets_served: Served[Budgets], admin: Any
    ) -> None:
        budget = await last_month(api)
        id, db = BUDGET.parse(budget.id), budgets_served.service.db
        origin = Origin(
            tenant_id=api.who.tenant_id, actor="alice", trace=Trace.from_header(None), deadline=time.monotonic() + 30
        )

        async def end_period() -> None:
            async with db.write(origin) as tx:
                await service.rollovers.end_period(tx, id)

        async with db.write(origin) as tx:
            await service.budgets.change_state(tx, id, BudgetAction.CLOSE)
            ending = asyncio.ensure_future(end_period())
            await until_blocked(admin)
        await ending
        assert (await api.get(budget)).state == Budget.CLOSED

    async def test_without_days_for_late_postings_it_is_closed_at_once(
        self, ended: Any, published_events: PublishedEvents
    ) -> None:
        budget = await ended(Budget.CLOSED, late_posting_days=0)
        assert (await published_events.first(BudgetClosed)).budget_id == budget.id

    async def test_timer_that_fires_after_the_days_for_late_postings_closes_it(
        self, ended: Any, published_events: PublishedEvents
    ) -> None:
        budget = await ended(Budget.CLOSED, late_posting_days=5, days_ago=5)
        assert (await published_events.first(BudgetClosed)).budget_id == budget.id

    async def test_closing_budget_can_be_rolled_over_once(self, api: BudgetsApi, ended: Any) -> None:
        budget = await ended(rollover=Budget.FULL)
        await charge_yesterday(api, budget, "400")
        done = await roll(api, budget, early=False)
        assert (done.closed.state, done.carried) == (Budget.CLOSING, eur("600.00"))
        await charge_yesterday(api, budget, "100")
        assert (await api.get(done.opened)).carried == eur("500.00")
        assert (await refusal(roll(api, budget, early=False))).reason == "PERIOD_OPENED"
        await api.verify(budget, done.opened)

    async def test_custom_period_ends_in_the_same_way(self, api: BudgetsApi, ended: Any) -> None:
        today = datetime.now(UTC).date()
        budget = await ended(
            period_type=Budget.CUSTOM, period_start_date=today.isoformat(),
            period_end_date=(today + timedelta(days=10)).isoformat(),
        )  # fmt: skip
        await charge_yesterday(api, budget, "1")

    async def test_budget_opened_after_its_period_stays_open(self, api: BudgetsApi, admin: Any) -> None:
        budget = await api.open(period_start_date=f"{datetime.now(UTC).year - 2}-01-01")
        assert (budget.state, budget.recurring) == (Budget.ACTIVE, False)
        assert await timers(admin, budget) == []
