"""Automatic rollover of recurring budgets, alone and with the budgets below, and the default start of a period."""

from datetime import UTC, date, datetime
from typing import Any

import pytest
from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from google.protobuf.field_mask_pb2 import FieldMask

from kit.ids import BUDGET
from tests.budgets.budgets_api import BudgetsApi, eur
from tests.budgets.rolling import YEAR, move_back_a_year, noon, roll, series, this_month, timers
from tests.harness.callers import refusal
from tests.harness.observe import eventually


class TestAutomaticRollover:
    async def wait_for(self, api: BudgetsApi, name: str, count: int) -> list[Budget]:
        async def opened() -> list[Budget]:
            budgets = await series(api, name)
            return budgets if len(budgets) >= count else []

        return await eventually(opened)

    async def test_next_period_is_opened_at_the_end(self, api: BudgetsApi, admin: Any) -> None:
        budget = await api.open("1000", rollover=Budget.FULL, recurring=False)
        await api.charge(budget, "100")
        await api.hold(budget, "50")
        await move_back_a_year(admin, budget)
        await api.update(budget, recurring=True)
        closed, opened = await self.wait_for(api, "Cloud", 2)
        assert (closed.state, opened.state, opened.carried) == (Budget.CLOSED, Budget.ACTIVE, eur("900.00"))
        assert (opened.period_start_date, opened.held) == (f"{YEAR}-01-01", eur("50.00"))
        (entry, *_) = await api.entries(opened)
        assert entry.actor == "service:budgets"
        await api.verify(closed, opened)

    async def test_missed_periods_are_opened_up_to_the_current_one(self, api: BudgetsApi) -> None:
        await api.open(
            "100",
            name="Old",
            period_type=Budget.QUARTERLY,
            period_start_date=f"{YEAR - 3}-01-31",
            rollover=Budget.FULL,
            recurring=True,
        )
        today = datetime.now(UTC).date().isoformat()

        async def caught_up() -> bool:
            return (await series(api, "Old"))[-1].period_end_date > today

        await eventually(caught_up)
        budgets = await series(api, "Old")
        assert [b.state for b in budgets] == [Budget.CLOSED] * (len(budgets) - 1) + [Budget.ACTIVE]
        assert [b.period_end_date for b in budgets[:-1]] == [b.period_start_date for b in budgets[1:]]
        assert budgets[-1].period_start_date <= today
        assert budgets[-1].carried.amount == f"{100 * (len(budgets) - 1)}.00"
        await api.verify(*budgets)

    async def test_late_months_roll_over_before_their_year(self, api: BudgetsApi, admin: Any) -> None:
        year = await api.open("12000", name="Year", recurring=False, rollover=Budget.FULL)
        month = await api.open(
            "1000", name="Month", parent_id=year.id, period_type=Budget.MONTHLY, period_start_date=f"{YEAR}-01-01",
            recurring=False,
        )  # fmt: skip
        await api.charge(month, "300", charge_time=noon(f"{YEAR}-01-10"))
        ids = [BUDGET.parse(budget.id) for budget in (year, month)]
        await move_back_a_year(admin, year, month)
        await admin.execute("update budgets.budgets set recurring = true where id = any($1)", ids)
        await api.update(year, recurring=True)  # sets the timer of the year only
        _, this_year = await self.wait_for(api, "Year", 2)
        months = await self.wait_for(api, "Month", datetime.now(UTC).month + 12)
        assert this_year.carried == eur("11700.00")
        assert {b.parent_id for b in months[:12]} == {year.id}
        assert {b.parent_id for b in months[12:]} == {this_year.id}
        assert months[-1].period_start_date == this_month()
        await api.verify(year, this_year, *months)

    async def test_timer_follows_the_state(self, api: BudgetsApi, admin: Any) -> None:
        budget = await api.open()
        assert await timers(admin, budget) == [("rollover", datetime(YEAR + 1, 1, 1, tzinfo=UTC))]
        await api.update(budget, recurring=False)
        assert len(await timers(admin, budget)) == 1  # it ends the period
        await api.update(budget, update_mask=FieldMask(paths=["recurring"]), recurring=True)
        assert len(await timers(admin, budget)) == 1
        await api.close(budget)
        assert await timers(admin, budget) == []
        again = await api.who.call(api.stubs.budgets.ReopenBudget, pb.ReopenBudgetRequest(id=budget.id))
        assert len(await timers(admin, budget)) == 1
        opened = (await roll(api, again)).opened
        assert await timers(admin, budget) == []
        assert await timers(admin, opened) == [("rollover", datetime(YEAR + 2, 1, 1, tzinfo=UTC))]

    async def test_draft_has_no_timer_until_activation(self, api: BudgetsApi, admin: Any) -> None:
        draft = await api.open(draft=True)
        assert await timers(admin, draft) == []
        await api.who.call(api.stubs.budgets.ActivateBudget, pb.ActivateBudgetRequest(id=draft.id))
        assert len(await timers(admin, draft)) == 1

    async def test_past_budget_does_not_recur_by_default(self, api: BudgetsApi, admin: Any) -> None:
        past = await api.open(period_start_date=f"{YEAR - 3}-01-01")
        assert not past.recurring
        assert await timers(admin, past) == []

    async def test_custom_period_does_not_recur(self, api: BudgetsApi) -> None:
        budget = await api.open(
            period_type=Budget.CUSTOM, period_start_date=f"{YEAR}-01-01", period_end_date=f"{YEAR + 1}-03-01"
        )
        assert set((await refusal(api.update(budget, recurring=True))).fields) == {"recurring"}

    async def test_retried_and_cancelled_timers_have_no_effect(self, api: BudgetsApi, admin: Any) -> None:
        budget = await api.open(name="Once", recurring=False)
        await move_back_a_year(admin, budget)
        done = await roll(api, budget, early=False)
        await admin.execute(
            "insert into budgets.timers (tenant_id, kind, resource_id, due_time)"
            " select tenant_id, 'rollover', id, now() from budgets.budgets where id = $1",
            BUDGET.parse(budget.id),
        )

        async def fired() -> bool:
            return not await timers(admin, budget)

        await eventually(fired)
        assert [b.id for b in await series(api, "Once")] == [budget.id, done.opened.id]


class TestUpdateOfRollover:
    async def test_cap_is_allowed_only_with_capped(self, api: BudgetsApi) -> None:
        budget = await api.open("1000")
        assert set((await refusal(api.update(budget, rollover=Budget.CAPPED))).fields) == {"rollover_cap"}
        assert set((await refusal(api.update(budget, rollover_cap=eur("5")))).fields) == {"rollover_cap"}
        capped = await api.update(budget, rollover=Budget.CAPPED, rollover_cap=eur("5"))
        assert capped.rollover_cap == eur("5.00")
        assert (await api.update(budget, rollover_cap=eur("7"))).rollover_cap == eur("7.00")
        assert not (await api.update(budget, rollover=Budget.FULL)).HasField("rollover_cap")


class TestDefaultStart:
    @pytest.mark.parametrize("period_type", [Budget.MONTHLY, Budget.QUARTERLY, Budget.ANNUAL])
    async def test_default_start_is_that_of_the_current_fiscal_period(self, api: BudgetsApi, period_type: Any) -> None:
        entity = await api.company("FY", fiscal_year_start_month=2)
        budget = await api.open(entity_id=entity, period_type=period_type, period_start_date="")
        today = datetime.now(UTC).date()
        assert budget.period_start_date <= today.isoformat() < budget.period_end_date
        started = date.fromisoformat(budget.period_start_date)
        months = {Budget.MONTHLY: 1, Budget.QUARTERLY: 3, Budget.ANNUAL: 12}[period_type]
        assert (started.day, (started.month - 2) % months) == (1, 0)

    async def test_custom_period_requires_a_start(self, api: BudgetsApi) -> None:
        error = await refusal(
            api.open(period_type=Budget.CUSTOM, period_start_date="", period_end_date=f"{YEAR + 1}-01-01")
        )
        assert set(error.fields) == {"period_start_date"}
