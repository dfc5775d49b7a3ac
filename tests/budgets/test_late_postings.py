"""Soft close: late postings of a period that was rolled over, and what they correct in the next one."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1 import charge_pb2
from billing.budgets.v1 import ledger_service_pb2 as ledger_pb
from billing.budgets.v1.alert_pb2 import Alert
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.charge_pb2 import Availability
from billing.budgets.v1.entry_pb2 import Entry
from billing.budgets.v1.events_pb2 import BudgetClosed

from kit.ids import BUDGET
from tests.budgets.allocated_costs import CostEvents, allocation, reversal, unbudgeted
from tests.budgets.budgets_api import BudgetsApi, eur, line
from tests.budgets.rolling import below, noon, roll, timers
from tests.harness.callers import refusal
from tests.harness.observe import PublishedEvents, eventually

TODAY = datetime.now(UTC).date()
FIRST = TODAY.replace(day=1)
"""First day of the present month."""
LAST_MONTH = (FIRST - timedelta(days=1)).replace(day=1)
YESTERDAY = (FIRST - timedelta(days=1)).isoformat()
"""Last day of the previous month."""


async def last_month(api: BudgetsApi, amount: str = "1000", /, *, start: date = LAST_MONTH, **given: Any) -> Budget:
    """A budget of the previous month that accepts late postings for 90 days after it."""
    fields = {"rollover": Budget.FULL, "late_posting_days": 90, "recurring": False, **given}
    return await api.open(
        amount, period_type=Budget.MONTHLY, period_start_date=start.isoformat(), **fields
    )  # fmt: skip


async def charge_late(api: BudgetsApi, budget: Budget, amount: str, **given: Any) -> charge_pb2.Charge:
    return await api.charge(budget, amount, charge_time=noon(YESTERDAY), **given)


async def state_of(api: BudgetsApi, budget: Budget) -> tuple[int, str, str, str]:
    """State, spent, carried forward and available."""
    row = await api.get(budget)
    return row.state, row.spent.amount, row.carried_forward.amount, row.available.amount


class TestLatePostings:
    async def test_late_charge_is_accepted_and_lowers_what_was_carried_forward(self, api: BudgetsApi) -> None:
        budget = await last_month(api)
        await charge_late(api, budget, "400")
        done = await roll(api, budget, early=False)
        assert (done.closed.state, done.carried) == (Budget.CLOSING, eur("600.00"))
        charge = await charge_late(api, budget, "100", reference="INV-7", description="Late invoice")
        assert charge.verdict == charge_pb2.Charge.ACCEPTED
        assert [link.available_after for link in charge.chain] == [eur("0.00")]
        assert await state_of(api, budget) == (Budget.CLOSING, "500.00", "500.00", "0.00")
        assert await state_of(api, done.opened) == (Budget.ACTIVE, "0.00", "", "1500.00")
        (out, posted, *_), (received, *_) = await api.entries(budget), await api.entries(done.opened)
        assert (posted.entry_type, posted.amount) == (Entry.CHARGE, eur("100.00"))
        assert (out.entry_type, out.amount, out.counterpart_budget_id) == (
            Entry.ROLLOVER_OUT, eur("-100.00"), done.opened.id,
        )  # fmt: skip
        assert (received.entry_type, received.amount, received.counterpart_budget_id) == (
            Entry.ROLLOVER_IN, eur("-100.00"), budget.id,
        )  # fmt: skip
        assert (received.reference, received.description) == ("INV-7", "Late invoice")
        (seen, _) = await api.verify(budget, done.opened)
        assert {
            seen.carried_forward.amount, seen.carried_forward_by_ledger.amount,
            seen.carried_forward_by_next_ledger.amount, seen.carried_forward_recomputed.amount,
        } == {"500.00"}  # fmt: skip

    @pytest.mark.parametrize("closed", [False, True])
    async def test_refund_after_the_rollover_raises_what_was_carried_forward(
        self,
        api: BudgetsApi,
        closed: bool,  # noqa: FBT001
    ) -> None:
        budget = await last_month(api)
        charge = await charge_late(api, budget, "400")
        done = await roll(api, budget, early=False)
        if closed:
            await api.close(budget)
        await api.refund(charge, "150")
        assert (await state_of(api, budget))[1:] == ("250.00", "750.00", "0.00")
        assert (await api.get(done.opened)).carried == eur("750.00")
        await api.verify(budget, done.opened)

    @pytest.mark.parametrize(
        ("given", "before", "after"),
        [
            ({"rollover": Budget.NONE}, "0.00", "0.00"),
            ({"rollover": Budget.CAPPED, "rollover_cap": eur("250")}, "250.00", "250.00"),
            ({"rollover": Budget.CAPPED, "rollover_cap": eur("550")}, "550.00", "300.00"),
            ({"rollover": Budget.FULL}, "600.00", "300.00"),
        ],
    )
    async def test_the_terms_of_the_rollover_determine_the_correction(
        self, api: BudgetsApi, given: dict[str, Any], before: str, after: str
    ) -> None:
        budget = await last_month(api, **given)
        await charge_late(api, budget, "400")
        done = await roll(api, budget, early=False)
        assert done.carried.amount == before
        await charge_late(api, budget, "300")
        assert (await api.get(done.opened)).carried.amount == after
        await api.verify(budget, done.opened)

    @pytest.mark.parametrize(("carry_overspend", "after"), [(False, "0.00"), (True, "-200.00")])
    async def test_late_overspending_is_carried_forward_if_the_budget_does_so(
        self,
        api: BudgetsApi,
        carry_overspend: bool,  # noqa: FBT001
        after: str,
    ) -> None:
        budget = await last_month(api, overspend_policy=Budget.WARN, carry_overspend=carry_overspend)
        opened = (await roll(api, budget, early=False)).opened
        charge = await charge_late(api, budget, "1200")
        assert charge.verdict == charge_pb2.Charge.ACCEPTED_OVERSPENT or carry_overspend
        assert (await api.get(opened)).carried.amount == after
        await api.verify(budget, opened)

    async def test_nothing_but_postings_of_the_period_is_accepted(self, api: BudgetsApi) -> None:
        budget = await last_month(api)
        await roll(api, budget, early=False)
        assert (await refusal(api.charge(budget, "1"))).reason == "OUTSIDE_PERIOD"
        for call in (
            api.hold(budget, "1"),
            api.update(budget, amount=eur("2000")),
            api.open("1", parent_id=budget.id, period_type=Budget.MONTHLY, period_start_date=LAST_MONTH.isoformat()),
        ):
            error = await refusal(call)
            assert (error.reason, error.metadata["state"]) == ("BUDGET_STATE", "CLOSING")

    async def test_late_charge_is_refused_if_the_next_period_has_used_the_amount(self, api: BudgetsApi) -> None:
        budget = await last_month(api)
        opened = (await roll(api, budget, early=False)).opened
        await api.charge(opened, "1950")
        error = await refusal(charge_late(api, budget, "100"))
        assert (error.reason, error.metadata["budget_id"]) == ("BUDGET_EXCEEDED", opened.id)
        assert (error.metadata["requested"], error.metadata["available"]) == ("100.00", "50.00")
        await charge_late(api, budget, "50")
        assert (await api.get(opened)).available == eur("0.00")
        await api.verify(budget, opened)

    async def test_correction_passes_through_periods_that_were_rolled_over_since(self, api: BudgetsApi) -> None:
        first = await last_month(api)
        second = (await roll(api, first, early=False)).opened
        third = (await roll(api, second)).opened
        await charge_late(api, first, "100")
        charge = await api.charge(second, "10")
        assert [(await api.get(budget)).carried.amount for budget in (first, second, third)] == [
            "-900.00", "-990.00", "1890.00",
        ]  # fmt: skip
        await api.refund(charge)
        assert (await api.get(third)).carried == eur("1900.00")
        await api.verify(first, second, third)

    async def test_each_budget_of_the_chain_corrects_its_next_period(self, api: BudgetsApi) -> None:
        group = await last_month(api, "5000", recurring=True, start=FIRST)
        team = await last_month(
            api, "1000", recurring=True, start=FIRST, parent_id=group.id, rollover=Budget.CAPPED,
            rollover_cap=eur("300"),
        )  # fmt: skip
        opened = (await roll(api, group)).opened
        (team_opened,) = await below(api, opened)
        await api.charge(team, "800")
        assert [(await api.get(budget)).carried.amount for budget in (opened, team_opened)] == ["4200.00", "200.00"]
        await api.verify(group, team, opened, team_opened)

    async def test_release_of_a_hold_that_stayed_below_corrects_the_parent(self, api: BudgetsApi) -> None:
        group = await last_month(api, "1000", recurring=True, start=FIRST)
        team = await last_month(api, "500", start=FIRST, parent_id=group.id)
        hold = await api.hold(team, "200")
        opened = (await roll(api, group)).opened
        assert opened.carried == eur("800.00")
        await api.release(hold, "50")
        assert (await api.get(opened)).carried == eur("850.00")
        moved = await roll(api, team)
        assert moved.opened.held == eur("150.00")
        assert (await api.get(opened)).carried == eur("1000.00")
        await api.verify(group, team, opened, moved.opened)

    async def test_correction_raises_and_resolves_alerts_of_the_next_period(self, api: BudgetsApi) -> None:
        budget = await last_month(api)
        opened = (await roll(api, budget, early=False)).opened
        await api.charge(opened, "800")
        assert await api.alerts(opened, state=Alert.OPEN) == []
        charge = await charge_late(api, budget, "500")
        (alert,) = await api.alerts(opened, state=Alert.OPEN)
        assert (alert.threshold_bp, alert.utilisation_bp) == (5000, 5333)
        await api.refund(charge)
        assert await api.alerts(opened, state=Alert.OPEN) == []

    async def test_alerts_of_a_closing_budget_count_what_its_period_had(self, api: BudgetsApi) -> None:
        budget = await last_month(api, overspend_policy=Budget.WARN)
        await roll(api, budget, early=False)
        for amount, thresholds in (("499", []), ("1", [5000]), ("501", [5000, 8000, 9000, 10000, 10000])):
            await charge_late(api, budget, amount)
            alerts = await api.alerts(budget, state=Alert.OPEN)
            assert sorted(alert.threshold_bp for alert in alerts) == thresholds
        assert max(alert.utilisation_bp for alert in alerts) == 10010

    async def test_batch_of_late_charges_is_all_or_none(self, api: BudgetsApi) -> None:
        budget = await last_month(api)
        opened = (await roll(api, budget, early=False)).opened
        lines = [line(budget, amount, charge_time=noon(YESTERDAY)) for amount in ("600", "300", "200")]
        assert (await refusal(api.batch(*lines, atomic=True))).metadata["line"] == "charges[2]"
        assert (await api.get(opened)).carried == eur("1000.00")
        assert (await api.batch(*lines)).refused_count == 1
        assert (await api.get(opened)).carried == eur("100.00")
        await api.verify(budget, opened)

    async def test_availability_considers_what_was_carried_forward(self, api: BudgetsApi) -> None:
        budget = await last_month(api)
        opened = (await roll(api, budget, early=False)).opened

        async def check(amount: str) -> Availability:
            request = ledger_pb.CheckAvailabilityRequest(id=budget.id, amount=eur(amount), charge_time=noon(YESTERDAY))
            return await api.who.call(api.stubs.ledger.CheckAvailability, request)

        assert (await check("1000")).verdict == Availability.AVAILABLE
        assert (await check("1000.01")).verdict == Availability.EXCEEDED
        await api.charge(opened, "1500")
        assert (await check("600")).verdict == Availability.EXCEEDED

    async def test_late_charges_and_charges_of_the_next_period_are_concurrent(self, api: BudgetsApi) -> None:
        budget = await last_month(api)
        opened = (await roll(api, budget, early=False)).opened
        calls = [charge_late(api, budget, "10") for _ in range(40)] + [api.charge(opened, "50") for _ in range(40)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        accepted = sum(isinstance(outcome, charge_pb2.Charge) for outcome in outcomes)
        rows = [await api.get(each) for each in (budget, opened)]
        assert rows[1].available.amount in {"0.00", "10.00", "20.00", "30.00", "40.00"}
        assert accepted == float(rows[0].spent.amount) / 10 + float(rows[1].spent.amount) / 50
        await api.verify(budget, opened)

    async def test_charge_during_the_rollover_is_not_lost(self, api: BudgetsApi) -> None:
        budget = await last_month(api)
        calls = [charge_late(api, budget, "10") for _ in range(20)]
        rollover = asyncio.ensure_future(roll(api, budget, early=False))
        await asyncio.gather(*calls)
        done = await rollover
        assert (await state_of(api, budget))[:3] == (Budget.CLOSING, "200.00", "800.00")
        await api.verify(budget, done.opened)


class TestAllocatedCosts:
    async def test_cost_of_yesterday_is_charged_to_the_closing_budget(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        budget = await last_month(api)
        opened = (await roll(api, budget, early=False)).opened
        cost = allocation(company, "12.34", allocation_date=YESTERDAY)
        await cost_events(cost)
        assert (await state_of(api, budget))[1:3] == ("12.34", "987.66")
        assert await unbudgeted(api) == []
        await cost_events.publish(reversal(cost))

        async def refunded() -> bool:
            return (await api.get(opened)).carried == eur("1000.00")

        await eventually(refunded)
        await api.verify(budget, opened)

    async def test_cost_of_a_closed_period_is_unbudgeted(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        budget = await last_month(api)
        await roll(api, budget, early=False)
        await api.close(budget)
        await cost_events(allocation(company, "5", allocation_date=YESTERDAY))
        (spend,) = await cost_events.unbudgeted(1)
        assert spend.reason == "NO_BUDGET"


class TestClose:
    async def test_budget_is_closed_when_its_days_are_over(
        self, api: BudgetsApi, admin: Any, published_events: PublishedEvents
    ) -> None:
        budget = await last_month(api)
        await roll(api, budget, early=False)
        ((_, due_time),) = await timers(admin, budget, "late-posting-end")
        assert due_time == datetime.combine(FIRST + timedelta(days=90), datetime.min.time(), UTC)
        await admin.execute(
            "update budgets.timers set due_time = now() where resource_id = $1", BUDGET.parse(budget.id)
        )
        assert (await published_events.first(BudgetClosed)).budget_id == budget.id
        error = await refusal(charge_late(api, budget, "1"))
        assert (error.reason, error.metadata["state"]) == ("BUDGET_STATE", "CLOSED")

    async def test_period_is_locked_earlier_by_closing_it(self, api: BudgetsApi, admin: Any) -> None:
        budget = await last_month(api)
        await roll(api, budget, early=False)
        assert (await api.close(budget)).state == Budget.CLOSED
        assert await timers(admin, budget, "late-posting-end") == []
        assert (await refusal(charge_late(api, budget, "1"))).reason == "BUDGET_STATE"

    async def test_reopened_period_accepts_late_postings_again(self, api: BudgetsApi, admin: Any) -> None:
        budget = await last_month(api)
        opened = (await roll(api, budget, early=False)).opened
        await api.close(budget)
        again = await api.who.call(api.stubs.budgets.ReopenBudget, pb.ReopenBudgetRequest(id=budget.id))
        assert again.state == Budget.CLOSING
        assert len(await timers(admin, budget, "late-posting-end")) == 1
        await charge_late(api, budget, "100")
        assert (await api.get(opened)).carried == eur("900.00")

    async def test_zero_days_close_the_budget_at_the_rollover(
        self, api: BudgetsApi, published_events: PublishedEvents
    ) -> None:
        budget = await last_month(api, late_posting_days=0)
        assert (await roll(api, budget, early=False)).closed.state == Budget.CLOSED
        assert (await published_events.first(BudgetClosed)).budget_id == budget.id

    async def test_five_days_are_the_default_and_ninety_the_maximum(self, api: BudgetsApi) -> None:
        budget = await api.open()
        assert budget.late_posting_days == 5
        assert (await api.update(budget, late_posting_days=0)).late_posting_days == 0
        for days in (-1, 91):
            assert set((await refusal(api.update(budget, late_posting_days=days))).fields) == {"late_posting_days"}
        assert (await roll(api, budget)).opened.late_posting_days == 0
