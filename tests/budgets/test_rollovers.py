"""Rollovers: amounts carried forward, moved holds and child budgets, once per period."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any
from uuid import uuid4

import grpc
import pytest
from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1 import ledger_service_pb2 as ledger_pb
from billing.budgets.v1.alert_pb2 import Alert
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.entry_pb2 import Entry
from billing.budgets.v1.events_pb2 import BudgetClosed, BudgetRolledOver
from billing.budgets.v1.hold_pb2 import Hold
from billing.budgets.v1.rollover_pb2 import Rollover
from billing.entities.v1.entity_service_pb2 import DeactivateEntityRequest
from billing.type.v1.money_pb2 import Money

from kit.ids import BUDGET
from tests.budgets.budgets_api import BudgetsApi, eur, numbers
from tests.budgets.rolling import YEAR, below, move_back_a_year, noon, roll, series, this_month
from tests.harness.callers import Caller, refusal
from tests.harness.observe import PublishedEvents, eventually


class TestRolloverBudget:
    async def test_rollover_closes_the_budget_and_opens_the_next_period(self, api: BudgetsApi) -> None:
        budget = await api.open(
            "1000", category="cloud", gl_code="6805", rollover=Budget.FULL, alert_thresholds_bp=[7000],
            tolerance_bp=100, overspend_policy=Budget.ALLOW_WITHIN_TOLERANCE, carry_overspend=True,
        )  # fmt: skip
        await api.charge(budget, "400")
        done = await roll(api, budget)
        closed, opened = done.closed, done.opened
        assert (closed.id, closed.state, closed.amount, closed.carried) == (
            budget.id, Budget.CLOSING, eur("1000.00"), eur("-600.00"),
        )  # fmt: skip
        assert (opened.state, opened.amount, opened.carried, opened.available) == (
            Budget.ACTIVE, eur("1000.00"), eur("600.00"), eur("1600.00"),
        )  # fmt: skip
        assert (opened.period_start_date, opened.period_end_date) == (f"{YEAR + 1}-01-01", f"{YEAR + 2}-01-01")
        assert (opened.previous_id, opened.period_number, done.carried) == (budget.id, 1, eur("600.00"))
        for field in (
            "entity_id", "name", "category", "gl_code", "period_type", "time_zone", "overspend_policy", "tolerance_bp",
            "alert_thresholds_bp", "recurring", "rollover", "carry_overspend", "parent_id",
        ):  # fmt: skip
            assert getattr(opened, field) == getattr(budget, field), field
        assert (await api.get(budget), await api.get(opened)) == (closed, opened)
        (outgoing, *_), (incoming,) = await api.entries(budget), await api.entries(opened)
        assert (outgoing.entry_type, outgoing.amount, outgoing.counterpart_budget_id) == (
            Entry.ROLLOVER_OUT,
            eur("600.00"),
            opened.id,
        )
        assert (incoming.entry_type, incoming.amount, incoming.counterpart_budget_id) == (
            Entry.ROLLOVER_IN,
            eur("600.00"),
            budget.id,
        )
        assert (outgoing.budget_amount_after, incoming.budget_amount_after) == (eur("400.00"), eur("1600.00"))
        await api.verify(budget, opened)

    @pytest.mark.parametrize(
        ("given", "spent", "carried"),
        [
            ({}, "400", "0.00"),
            ({"rollover": Budget.FULL}, "400", "600.00"),
            ({"rollover": Budget.CAPPED, "rollover_cap": eur("250")}, "400", "250.00"),
            ({"rollover": Budget.CAPPED, "rollover_cap": eur("250")}, "900", "100.00"),
            ({"rollover": Budget.FULL}, "1500", "0.00"),
            ({"carry_overspend": True}, "1500", "-500.00"),
            ({"rollover": Budget.FULL, "carry_overspend": True}, "1500", "-500.00"),
            ({"rollover": Budget.FULL, "carry_overspend": True}, "2500", "-1500.00"),
        ],
    )
    async def test_carried_forward(self, api: BudgetsApi, given: dict[str, Any], spent: str, carried: str) -> None:
        budget = await api.open("1000", overspend_policy=Budget.WARN, **given)
        await api.charge(budget, spent)
        done = await roll(api, budget)
        assert (done.carried.amount, done.opened.carried.amount) == (carried, carried)
        await api.verify(done.closed, done.opened)

    async def test_utilisation_of_a_budget_overspent_by_what_was_carried_forward_is_not_zero(
        self, api: BudgetsApi
    ) -> None:
        budget = await api.open("1000", overspend_policy=Budget.WARN, carry_overspend=True)
        await api.charge(budget, "2500")
        opened = (await roll(api, budget)).opened
        assert (opened.carried, opened.available, opened.spent) == (eur("-1500.00"), eur("-500.00"), eur("0.00"))
        assert opened.utilisation_bp == 2**31 - 1
        found = await api.who.call(api.stubs.budgets.ListBudgets, pb.ListBudgetsRequest(utilisation_min_bp=10_000))
        assert opened.id in [each.id for each in found.budgets]

    async def test_carried_amount_is_carried_forward_again(self, api: BudgetsApi) -> None:
        budget = await api.open("1000", rollover=Budget.FULL)
        for carried in ("1000.00", "2000.00", "3000.00"):
            done = await roll(api, budget)
            assert done.carried.amount == carried
            await api.verify(done.closed, done.opened)
            budget = done.opened

    async def test_next_amount_can_differ(self, api: BudgetsApi) -> None:
        budget = await api.open("1000")
        assert (await roll(api, budget, next_amount=eur("750"))).opened.amount == eur("750.00")
        other = await api.open("1000")
        in_dollars = await refusal(roll(api, other, next_amount=Money(currency_code="USD", amount="1")))
        assert in_dollars.reason == "CURRENCY_MISMATCH"

    async def test_custom_period_requires_the_next_end(self, api: BudgetsApi) -> None:
        budget = await api.open(
            period_type=Budget.CUSTOM, period_start_date=f"{YEAR}-01-01", period_end_date=f"{YEAR + 1}-03-01"
        )
        for wrong in ("", f"{YEAR + 1}-03-01"):
            assert set((await refusal(roll(api, budget, next_period_end_date=wrong))).fields) == {
                "next_period_end_date"
            }
        opened = (await roll(api, budget, next_period_end_date=f"{YEAR + 1}-04-15")).opened
        assert (opened.period_start_date, opened.period_end_date) == (f"{YEAR + 1}-03-01", f"{YEAR + 1}-04-15")
        month = await api.open(period_type=Budget.MONTHLY)
        error = await refusal(roll(api, month, next_period_end_date=f"{YEAR + 1}-04-15"))
        assert set(error.fields) == {"next_period_end_date"}

    async def test_rollover_before_the_end_requires_early(self, api: BudgetsApi) -> None:
        budget = await api.open()
        error = await refusal(roll(api, budget, early=False))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PERIOD_NOT_OVER")
        assert error.metadata["period_end_time"].startswith(f"{YEAR + 1}-01-01T00:00:00")

    async def test_rollover_after_the_end_does_not_require_early(self, api: BudgetsApi) -> None:
        budget = await api.open(period_start_date=f"{YEAR - 1}-01-01", recurring=False)
        await api.charge(budget, "100", charge_time=noon(f"{YEAR - 1}-06-30"))
        opened = (await roll(api, budget, early=False)).opened
        assert opened.period_start_date == f"{YEAR}-01-01"
        await api.charge(opened, "1")

    async def test_next_period_is_opened_once(self, api: BudgetsApi) -> None:
        budget = await api.open()
        opened = (await roll(api, budget)).opened
        error = await refusal(roll(api, budget))
        assert (error.reason, error.metadata["opened_budget_id"]) == ("PERIOD_OPENED", opened.id)

    async def test_concurrent_rollovers_open_one_budget(self, api: BudgetsApi) -> None:
        budget = await api.open(rollover=Budget.FULL)
        await api.hold(budget, "10")
        outcomes = await asyncio.gather(*(roll(api, budget) for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(outcome, Rollover) for outcome in outcomes) == 1
        assert [b.period_number for b in await series(api, "Cloud")] == [0, 1]
        await api.verify(*await series(api, "Cloud"))

    async def test_repeated_key_returns_the_first_response(self, api: BudgetsApi) -> None:
        budget = await api.open()
        assert await roll(api, budget, "k") == await roll(api, budget, "k")

    @pytest.mark.parametrize("draft", [True, False])
    async def test_only_active_budgets_roll_over(self, api: BudgetsApi, draft: bool) -> None:  # noqa: FBT001
        budget = await api.open(draft=draft)
        if not draft:
            await api.close(budget)
        assert (await refusal(roll(api, budget))).reason == "BUDGET_STATE"

    async def test_invisible_budget_is_not_found(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        budget = await api.open()
        for stranger in (caller("finance", entity_scope=[]), caller("finance", tenant=uuid4())):
            assert (await refusal(roll(api_for(stranger), budget))).reason == "BUDGET_NOT_FOUND"

    async def test_rollover_is_published(self, api: BudgetsApi, published_events: PublishedEvents) -> None:
        done = await roll(api, await api.open("100", rollover=Budget.FULL))
        event = await published_events.first(BudgetRolledOver)
        assert (event.closed_budget_id, event.opened_budget_id) == (done.closed.id, done.opened.id)
        assert (event.entity_id, event.carried) == (api.entity_id, eur("100.00"))
        await api.close(done.closed)
        assert (await published_events.first(BudgetClosed)).budget_id == done.closed.id

    async def test_reopened_budget_stays_rolled_over(self, api: BudgetsApi) -> None:
        done = await roll(api, await api.open("100"))
        await api.close(done.closed)
        again = await api.who.call(api.stubs.budgets.ReopenBudget, pb.ReopenBudgetRequest(id=done.closed.id))
        assert again.state == Budget.CLOSING
        await api.charge(again, "10")
        assert (await refusal(roll(api, again))).reason == "PERIOD_OPENED"
        await api.verify(again, done.opened)

    async def test_changed_carried_amount_fails_verification(self, api: BudgetsApi, admin: Any) -> None:
        opened = (await roll(api, await api.open("100", rollover=Budget.FULL))).opened
        await admin.execute("update budgets.budgets set carried = 999 where id = $1", BUDGET.parse(opened.id))
        verification = await api.who.call(api.stubs.ledger.VerifyBudget, ledger_pb.VerifyBudgetRequest(id=opened.id))
        assert (verification.verified, verification.budget_amount, verification.budget_amount_by_ledger) == (
            False,
            eur("1099.00"),
            eur("200.00"),
        )


class TestHolds:
    async def test_open_holds_move_and_can_be_captured_by_the_old_budget_id(self, api: BudgetsApi, admin: Any) -> None:
        budget = await api.open("1000", recurring=False)
        held, committed = await api.hold(budget, "100"), await api.commit(await api.hold(budget, "200"))
        captured_hold = await api.capture(await api.hold(budget, "50"))
        await move_back_a_year(admin, budget)
        done = await roll(api, budget, early=False)
        assert (done.moved_hold_count, done.opened_budget_count) == (2, 1)
        assert numbers(done.closed) == ("50.00", "0.00", "0.00", "50.00", "950.00")
        assert numbers(done.opened) == ("0.00", "100.00", "200.00", "0.00", "700.00")
        assert {hold.id for hold in await api.holds(done.opened)} == {held.id, committed.id}
        assert [hold.id for hold in await api.holds(budget)] == [captured_hold.id]
        await api.verify(done.closed, done.opened)
        captured = await api.capture(held, "60")
        assert (captured.budget_id, captured.open) == (done.opened.id, eur("40.00"))
        released = await api.release(committed)
        assert (released.budget_id, released.state) == (done.opened.id, Hold.RELEASED)
        assert (await api.get_hold(held)).budget_id == done.opened.id
        assert numbers(await api.get(done.opened)) == ("60.00", "40.00", "0.00", "60.00", "900.00")
        await api.verify(done.closed, done.opened)

    @pytest.mark.parametrize(
        ("rule", "next_amount", "carried"),
        [
            (Budget.NONE, "1000", "0.00"),
            (Budget.NONE, "200", "100.00"),
            (Budget.FULL, "200", "800.00"),
            (Budget.CAPPED, "100", "200.00"),
            (Budget.CAPPED, "1000", "150.00"),
        ],
    )
    async def test_moved_holds_carry_forward_the_amount_they_need(
        self, api: BudgetsApi, rule: Any, next_amount: str, carried: str
    ) -> None:
        cap = eur("150") if rule == Budget.CAPPED else None
        budget = await api.open("1000", rollover=rule, rollover_cap=cap)
        await api.charge(budget, "200")
        await api.hold(budget, "300")
        done = await roll(api, budget, next_amount=eur(next_amount))
        assert done.carried.amount == carried
        assert Decimal(done.opened.available.amount) >= 0
        await api.verify(done.closed, done.opened)

    async def test_moved_holds_carry_forward_the_minimum_within_the_tolerance(self, api: BudgetsApi) -> None:
        policy = Budget.ALLOW_WITHIN_TOLERANCE
        budget = await api.open("100", overspend_policy=policy, tolerance_bp=5000, carry_overspend=True)
        await api.charge(budget, "70")
        await api.hold(budget, "80")
        done = await roll(api, budget, next_amount=eur("10"))
        assert done.carried == eur("43.34")
        await api.verify(done.closed, done.opened)

    async def test_holds_of_budgets_below_count_in_both_chains(self, api: BudgetsApi) -> None:
        group = await api.open("1000", name="Group", rollover=Budget.FULL)
        team = await api.open("500", name="Team", parent_id=group.id, rollover=Budget.FULL)
        unit = await api.open("300", name="Unit", parent_id=team.id)
        await api.charge(unit, "40")
        for budget, amount in ((group, "10"), (team, "20"), (unit, "30")):
            await api.hold(budget, amount)
        await api.commit(await api.hold(unit, "5"))
        done = await roll(api, group)
        assert (done.moved_hold_count, done.opened_budget_count) == (4, 3)
        (new_team,) = await below(api, done.opened)
        (new_unit,) = await below(api, new_team)
        assert [budget.previous_id for budget in (new_team, new_unit)] == [team.id, unit.id]
        assert numbers(done.opened) == ("0.00", "60.00", "5.00", "0.00", "1895.00")
        assert numbers(new_team) == ("0.00", "50.00", "5.00", "0.00", "905.00")
        assert numbers(new_unit) == ("0.00", "30.00", "5.00", "0.00", "265.00")
        assert numbers(done.closed) == ("40.00", "0.00", "0.00", "0.00", "0.00")
        await api.verify(group, team, unit, done.opened, new_team, new_unit)

    async def test_holds_of_a_budget_that_is_not_rolled_over_stay_covered(self, api: BudgetsApi) -> None:
        group = await api.open("100", rollover=Budget.FULL)
        stays = await api.open("100", parent_id=group.id, recurring=False)
        hold = await api.hold(stays, "30")
        await api.hold(group, "20")
        done = await roll(api, group)
        assert (done.carried, done.moved_hold_count, done.opened_budget_count) == (eur("70.00"), 1, 1)
        assert numbers(done.closed) == ("0.00", "30.00", "0.00", "0.00", "0.00")
        assert (await api.get(stays)).state == Budget.ACTIVE
        await api.release(hold)
        await api.verify(group, stays, done.opened)

    async def test_budget_that_is_overspent_when_it_opens_has_alerts(self, api: BudgetsApi) -> None:
        budget = await api.open("1000", overspend_policy=Budget.WARN, carry_overspend=True, alert_thresholds_bp=[8000])
        await api.charge(budget, "2500.00")
        opened = (await roll(api, budget)).opened
        assert (opened.carried, opened.utilisation_bp) == (eur("-1500.00"), 2**31 - 1)
        alerts = {alert.alert_type: (alert.state, alert.threshold_bp) for alert in await api.alerts(opened)}
        assert alerts == {Alert.THRESHOLD: (Alert.OPEN, 8000), Alert.OVERSPEND: (Alert.OPEN, 10_000)}

    async def test_moved_holds_raise_alerts(self, api: BudgetsApi) -> None:
        budget = await api.open("100", alert_thresholds_bp=[5000])
        await api.hold(budget, "60")
        done = await roll(api, budget)
        assert [alert.state for alert in await api.alerts(done.opened)] == [Alert.OPEN]

    async def test_nothing_is_lost_during_concurrent_charges(self, api: BudgetsApi) -> None:
        group = await api.open("10000", name="Group", rollover=Budget.FULL)
        team = await api.open("5000", name="Team", parent_id=group.id, rollover=Budget.FULL)
        holds = [await api.hold(team, "10") for _ in range(20)]

        async def attempt(call: Awaitable[object]) -> None:
            try:
                await call
            except grpc.aio.AioRpcError as error:
                assert error.code() in {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED}, error

        releases = [attempt(api.release(hold)) for hold in holds]
        captures = [attempt(api.capture(hold, "5")) for hold in holds]
        charges = [attempt(api.charge(team, "1")) for _ in range(40)]
        rolling = asyncio.create_task(roll(api, group))
        await asyncio.gather(*releases, *captures, *charges)
        done = await rolling
        (new_team,) = await below(api, done.opened)
        await api.verify(group, team, done.opened, new_team)
        for hold in holds:
            assert (await api.get_hold(hold)).budget_id in {team.id, new_team.id}


class TestTrees:
    async def test_month_rolls_over_within_its_year(self, api: BudgetsApi, admin: Any) -> None:
        year = await api.open("12000", name="Year", recurring=False)
        month = await api.open(
            "1000", name="Month", parent_id=year.id, period_type=Budget.MONTHLY, period_start_date=f"{YEAR}-01-01",
            rollover=Budget.FULL, recurring=False,
        )  # fmt: skip
        await api.charge(month, "300", charge_time=noon(f"{YEAR}-01-10"))
        done = await roll(api, month)
        assert (done.opened.parent_id, done.opened.period_start_date) == (year.id, f"{YEAR}-02-01")
        assert done.carried == eur("700.00")
        await api.charge(done.opened, "1500", charge_time=noon(f"{YEAR}-02-10"))
        assert numbers(await api.get(year)) == ("1800.00", "0.00", "0.00", "0.00", "10200.00")
        await api.verify(year, month, done.opened)

    async def test_holds_of_a_month_do_not_change_the_year(self, api: BudgetsApi) -> None:
        year = await api.open(
            "12000", name="Years", period_type=Budget.CUSTOM, period_start_date=f"{YEAR}-01-01",
            period_end_date=f"{YEAR + 2}-01-01",
        )  # fmt: skip
        month = await api.open("1000", parent_id=year.id, period_type=Budget.MONTHLY, period_start_date=this_month())
        await api.hold(month, "100")
        before = await api.get(year)
        done = await roll(api, month)
        assert done.opened.held == eur("100.00")
        assert await api.get(year) == before
        await api.verify(year, month, done.opened)

    async def test_last_month_rolls_over_with_the_year(self, api: BudgetsApi) -> None:
        year = await api.open("12000", name="Year")
        december = await api.open(
            "1000", parent_id=year.id, period_type=Budget.MONTHLY, period_start_date=f"{YEAR}-12-01"
        )
        summer = await api.open(
            "1000", parent_id=year.id, period_type=Budget.MONTHLY, period_start_date=f"{YEAR}-06-01", recurring=False
        )
        error = await refusal(roll(api, december))
        assert (error.reason, error.metadata["parent_id"]) == ("PARENT_NOT_ROLLED_OVER", year.id)
        done = await roll(api, year)
        (january,) = await below(api, done.opened)
        assert (january.period_start_date, january.previous_id) == (f"{YEAR + 1}-01-01", december.id)
        assert (await api.get(december)).state == Budget.CLOSING
        assert (await api.get(summer)).state == Budget.ACTIVE

    async def test_late_budget_is_opened_below_the_next_year(self, api: BudgetsApi) -> None:
        year = await api.open("100", name="Year")
        late = await api.open("50", parent_id=year.id, recurring=False)
        await api.hold(late, "30")
        next_year = (await roll(api, year)).opened
        done = await roll(api, late)
        assert done.opened.parent_id == next_year.id
        assert numbers(await api.get(next_year)) == ("0.00", "30.00", "0.00", "0.00", "70.00")
        await api.verify(year, late, next_year, done.opened)

    async def test_late_budget_is_not_opened_if_its_holds_have_no_room(self, api: BudgetsApi) -> None:
        year = await api.open("100", name="Year")
        late = await api.open("50", parent_id=year.id, recurring=False)
        await api.hold(late, "30")
        next_year = (await roll(api, year, next_amount=eur("20"))).opened
        error = await refusal(roll(api, late))
        assert (error.reason, error.metadata["budget_id"]) == ("BUDGET_EXCEEDED", next_year.id)
        await api.verify(year, late, next_year)

    async def test_months_anchored_on_the_31st(self, api: BudgetsApi) -> None:
        budget = await api.open(period_type=Budget.MONTHLY, period_start_date=f"{YEAR + 1}-01-31", recurring=False)
        ends = [budget.period_end_date]
        for _ in range(3):
            budget = (await roll(api, budget)).opened
            ends.append(budget.period_end_date)
        assert [end[5:] for end in ends] == ["02-28" if (YEAR + 1) % 4 else "02-29", "03-31", "04-30", "05-31"]

    async def test_deactivated_entity_gets_no_next_period(self, api: BudgetsApi, admin: Any) -> None:
        budget = await api.open()
        entity = api.entity_id
        await api.who.call(api.entities.entities.DeactivateEntity, DeactivateEntityRequest(id=entity))

        async def closed() -> bool:
            return (await api.get(budget)).state == Budget.CLOSED

        await eventually(closed)
        await admin.execute("update budgets.budgets set state = 'ACTIVE' where id = $1", BUDGET.parse(budget.id))
        done = await roll(api, budget)
        assert (done.closed.state, done.HasField("opened"), done.opened_budget_count) == (Budget.CLOSED, False, 0)


class TestValidateOnly:
    async def test_dry_run_returns_the_result_and_stores_nothing(
        self, api: BudgetsApi, outbox_events: Callable[[str], Awaitable[Sequence[Any]]]
    ) -> None:
        group = await api.open("100", name="Group", rollover=Budget.FULL, alert_thresholds_bp=[9000])
        team = await api.open("100", name="Team", parent_id=group.id)
        hold = await api.hold(team, "10")
        before = await api.get(group), await api.get(team)
        preview = await roll(api, group, "k", validate_only=True)
        assert (preview.carried, preview.moved_hold_count, preview.opened_budget_count) == (eur("100.00"), 1, 2)
        assert (preview.opened.id, preview.opened.held) == ("", eur("10.00"))
        assert (await api.get(group), await api.get(team)) == before
        assert len(await series(api, "Group")) == 1
        assert (await api.get_hold(hold)).budget_id == team.id
        assert len(await api.entries(group)) == 1
        assert await outbox_events("budgets") == []
        assert (await roll(api, group, "k")).carried == eur("100.00")
