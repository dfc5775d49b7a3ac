"""Refunds: what was charged comes back to the whole chain, at most once, and alerts are armed again."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest
from billing.budgets.v1.alert_pb2 import Alert
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.charge_pb2 import Charge
from billing.budgets.v1.entry_pb2 import Entry
from billing.budgets.v1.events_pb2 import BudgetAlertRaised
from billing.type.v1.money_pb2 import Money

from tests.budgets.conftest import Desk, eur, numbers
from tests.harness.callers import Caller, refusal
from tests.harness.outside import AuditRow, Heard

AuditRows = Callable[[str], Awaitable[list[AuditRow]]]


class TestRefundCharge:
    async def test_a_part_and_then_the_rest_come_back_to_the_whole_chain(self, desk: Desk) -> None:
        group = await desk.open("1000", name="Group")
        team = await desk.open("100", name="Team", parent_id=group.id)
        charge = await desk.charge(team, "80", reference="PO-1")
        refund = await desk.refund(charge, "30", "k1", reason="returned")
        assert (refund.charge_id, refund.budget_id, refund.request_id) == (charge.id, team.id, "k1")
        assert (refund.amount, refund.refundable, refund.reason, refund.actor) == (
            eur("30.00"), eur("50.00"), "returned", "alice",
        )  # fmt: skip
        assert not refund.HasField("original_amount")
        assert [(b.name, b.available_before.amount, b.available_after.amount) for b in refund.chain] == [
            ("Team", "20.00", "50.00"),
            ("Group", "920.00", "950.00"),
        ]
        rest = await desk.refund(charge)
        assert (rest.amount, rest.refundable) == (eur("50.00"), eur("0.00"))
        assert [numbers(await desk.get(budget))[0] for budget in (team, group)] == ["0.00", "0.00"]
        newest, older, _ = await desk.entries(group)
        assert [(e.entry_type, e.charge_id, e.amount.amount) for e in (older, newest)] == [
            (Entry.REFUND, charge.id, "30.00"),
            (Entry.REFUND, charge.id, "50.00"),
        ]
        await desk.verify(team, group)

    async def test_no_more_comes_back_than_was_charged(self, desk: Desk) -> None:
        budget = await desk.open("100")
        charge, _ = await desk.charge(budget, "60"), await desk.charge(budget, "40")
        assert (await refusal(desk.refund(charge, "60.01"))).reason == "REFUND_EXCEEDS_CHARGE"
        await desk.refund(charge, "20")
        refused = await refusal(desk.refund(charge, "40.01"))
        assert (refused.metadata["available"], refused.metadata["charge_id"]) == ("40.00", charge.id)
        await desk.refund(charge)
        for again in ("0.01", ""):
            assert (await refusal(desk.refund(charge, again))).reason == "REFUND_EXCEEDS_CHARGE"
        assert numbers(await desk.get(budget))[0] == "40.00"

    async def test_what_came_back_may_be_spent_again(self, desk: Desk) -> None:
        budget = await desk.open("100")
        charge = await desk.charge(budget, "100")
        await desk.refund(charge, "30")
        assert (await refusal(desk.charge(budget, "30.01"))).reason == "BUDGET_EXCEEDED"
        assert await desk.charge(budget, "30")

    async def test_a_closed_budget_takes_its_money_back(self, desk: Desk) -> None:
        budget = await desk.open("100")
        charge = await desk.charge(budget, "100")
        await desk.close(budget)
        assert (await desk.refund(charge)).amount == eur("100.00")

    async def test_an_overspent_budget_takes_its_money_back(self, desk: Desk) -> None:
        budget = await desk.open("10", overspend_policy=Budget.WARN)
        charge = await desk.charge(budget, "100")
        assert (await desk.refund(charge, "1")).chain[0].overspent

    async def test_a_refund_is_answered_the_same_again_and_made_once(self, desk: Desk) -> None:
        budget = await desk.open("100")
        charge = await desk.charge(budget, "60")
        first = await desk.refund(charge, "40", "k")
        assert await desk.refund(charge, "40", "k") == first
        assert (await refusal(desk.refund(charge, "41", "k"))).reason == "IDEMPOTENCY_MISMATCH"
        assert numbers(await desk.get(budget))[0] == "20.00"

    async def test_refunds_at_the_same_moment_never_give_back_too_much(self, desk: Desk) -> None:
        budget = await desk.open("100")
        charge = await desk.charge(budget, "50")
        await desk.charge(budget, "50")
        outcomes = await asyncio.gather(*(desk.refund(charge, "20") for _ in range(10)), return_exceptions=True)
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 2
        assert numbers(await desk.get(budget))[0] == "60.00"

    async def test_a_charge_is_found_on_its_own_budget_only(self, desk: Desk) -> None:
        group = await desk.open("100", name="Group")
        team = await desk.open("100", name="Team", parent_id=group.id)
        charge = await desk.charge(team, "10")
        refund = await desk.refund(charge, "1")
        assert (await refusal(desk.refund(charge, id=group.id))).reason == "ENTRY_NOT_FOUND"
        for entry_id in ("ety_" + uuid4().hex, refund.id):  # a refund is no charge
            assert (await refusal(desk.refund(charge, charge_id=entry_id))).reason == "ENTRY_NOT_FOUND"
        hold = await desk.hold(team, "5")
        assert (await refusal(desk.refund(charge, charge_id=hold.last_entry_id))).reason == "ENTRY_NOT_FOUND"

    async def test_anothers_charge_is_not_found(
        self, desk: Desk, desk_of: Callable[[Caller], Desk], caller: Callable[..., Caller]
    ) -> None:
        charge = await desk.charge(await desk.open(), "10")
        stranger = desk_of(caller(tenant=uuid4()))
        assert (await refusal(stranger.refund(charge))).reason == "BUDGET_NOT_FOUND"
        own = await stranger.open()
        assert (await refusal(stranger.refund(charge, id=own.id))).reason == "ENTRY_NOT_FOUND"
        manager = desk_of(caller("department_manager", entity_scope=[]))
        assert (await refusal(manager.refund(charge))).reason == "BUDGET_NOT_FOUND"


class TestInAnotherCurrency:
    @pytest.fixture
    async def charge(self, desk: Desk) -> Charge:
        """100 USD at 0.9 to the EUR."""
        await desk.set_rates("USD/EUR 0.9")
        return await desk.charge(await desk.open(), Money(currency_code="USD", amount="100"))

    async def test_it_comes_back_at_the_rate_of_the_charge(self, desk: Desk, charge: Charge) -> None:
        await desk.set_rates("USD/EUR 0.5")
        part = await desk.refund(charge, Money(currency_code="USD", amount="30"))
        assert (part.amount, part.original_amount.amount, part.refundable) == (eur("27.00"), "30.00", eur("63.00"))
        part = await desk.refund(charge, "27")
        assert (part.amount, part.original_amount.amount) == (eur("27.00"), "30.00")
        rest = await desk.refund(charge)
        assert (rest.amount, rest.original_amount.amount, rest.refundable) == (eur("36.00"), "40.00", eur("0.00"))
        assert numbers(await desk.get(Budget(id=charge.budget_id)))[0] == "0.00"

    async def test_what_is_less_than_a_cent_comes_back_with_the_rest(self, desk: Desk) -> None:
        await desk.set_rates("JPY/EUR 0.006")
        budget = await desk.open()
        charge = await desk.charge(budget, Money(currency_code="JPY", amount="100"))
        amounts = [(await desk.refund(charge, Money(currency_code="JPY", amount="1"))).amount.amount for _ in range(5)]
        assert amounts == ["0.01", "0.00", "0.01", "0.00", "0.01"]  # 0.006, 0.012, 0.018, 0.024, 0.030
        assert (await desk.refund(charge)).amount == eur("0.57")
        assert numbers(await desk.get(budget))[0] == "0.00"
        await desk.verify(budget)

    async def test_in_a_third_currency_it_is_refused(self, desk: Desk, charge: Charge) -> None:
        refused = await refusal(desk.refund(charge, Money(currency_code="JPY", amount="1")))
        assert (refused.reason, refused.metadata["given"]) == ("CURRENCY_MISMATCH", "JPY")


class TestAlerts:
    async def test_what_comes_back_resolves_alerts_and_arms_them_again(self, desk: Desk, heard: Heard) -> None:
        group = await desk.open("100", name="Group", alert_thresholds_bp=[5000])
        team = await desk.open("100", name="Team", parent_id=group.id, alert_thresholds_bp=[8000])
        charge = await desk.charge(team, "80")
        assert [len(await desk.alerts(budget)) for budget in (team, group)] == [1, 1]
        await desk.refund(charge, "0.01")
        assert [a.state for a in await desk.alerts(team)] == [Alert.RESOLVED]
        assert [a.state for a in await desk.alerts(group)] == [Alert.OPEN]
        await desk.refund(charge, "30")
        assert [a.state for a in await desk.alerts(group)] == [Alert.RESOLVED]
        again = await desk.charge(team, "30.01")
        await desk.charge(team, "1")
        for budget in (team, group):
            newest, older = await desk.alerts(budget)
            assert (newest.state, older.state, newest.charge_id) == (Alert.OPEN, Alert.RESOLVED, again.id)
        await heard.at_least(4, BudgetAlertRaised)
        assert len(heard.of(BudgetAlertRaised)) == 4

    async def test_a_refund_that_leaves_the_mark_passed_changes_no_alert(self, desk: Desk) -> None:
        budget = await desk.open("100", alert_thresholds_bp=[5000])
        charge = await desk.charge(budget, "80")
        await desk.refund(charge, "30")
        (alert,) = await desk.alerts(budget)
        assert (alert.state, alert.update_time) == (Alert.OPEN, alert.create_time)

    async def test_the_audit_names_who_gave_it_back(
        self, desk: Desk, desk_of: Callable[[Caller], Desk], caller: Callable[..., Caller], audit_rows: AuditRows
    ) -> None:
        budget = await desk.open("100", alert_thresholds_bp=[5000])
        charge = await desk.charge(budget, "50")
        bob = desk_of(caller(subject="bob"))
        await bob.refund(charge)
        rows = [row for row in await audit_rows("budgets") if row.table == "budget_alerts"]
        assert [(row.action, row.actor, row.trace_id) for row in rows] == [
            ("insert", "alice", desk.who.trace.trace_id),
            ("update", "bob", bob.who.trace.trace_id),
        ]
