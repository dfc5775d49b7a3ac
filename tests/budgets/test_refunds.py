"""Refunds: they restore the whole chain, at most once, and resolve alerts."""

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

from tests.budgets.budgets_api import BudgetsApi, eur, numbers
from tests.harness.callers import Caller, refusal
from tests.harness.observe import AuditRow, PublishedEvents

AuditRows = Callable[[str], Awaitable[list[AuditRow]]]


class TestRefundCharge:
    async def test_partial_refunds_restore_the_whole_chain(self, api: BudgetsApi) -> None:
        group = await api.open("1000", name="Group")
        team = await api.open("100", name="Team", parent_id=group.id)
        charge = await api.charge(team, "80", reference="PO-1")
        refund = await api.refund(charge, "30", "k1", reason="returned")
        assert (refund.charge_id, refund.budget_id, refund.request_id) == (charge.id, team.id, "k1")
        assert (refund.amount, refund.refundable, refund.reason, refund.actor) == (
            eur("30.00"), eur("50.00"), "returned", "alice",
        )  # fmt: skip
        assert not refund.HasField("original_amount")
        assert [(b.name, b.available_before.amount, b.available_after.amount) for b in refund.chain] == [
            ("Team", "20.00", "50.00"),
            ("Group", "920.00", "950.00"),
        ]
        rest = await api.refund(charge)
        assert (rest.amount, rest.refundable) == (eur("50.00"), eur("0.00"))
        assert [numbers(await api.get(budget))[0] for budget in (team, group)] == ["0.00", "0.00"]
        newest, older, _ = await api.entries(group)
        assert [(e.entry_type, e.charge_id, e.amount.amount) for e in (older, newest)] == [
            (Entry.REFUND, charge.id, "30.00"),
            (Entry.REFUND, charge.id, "50.00"),
        ]
        await api.verify(team, group)

    async def test_a_refund_above_the_charge_is_refused(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        charge, _ = await api.charge(budget, "60"), await api.charge(budget, "40")
        assert (await refusal(api.refund(charge, "60.01"))).reason == "REFUND_EXCEEDS_CHARGE"
        await api.refund(charge, "20")
        refused = await refusal(api.refund(charge, "40.01"))
        assert (refused.metadata["available"], refused.metadata["charge_id"]) == ("40.00", charge.id)
        await api.refund(charge)
        for amount in ("0.01", ""):
            assert (await refusal(api.refund(charge, amount))).reason == "REFUND_EXCEEDS_CHARGE"
        assert numbers(await api.get(budget))[0] == "40.00"

    async def test_a_refunded_amount_can_be_spent_again(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        charge = await api.charge(budget, "100")
        await api.refund(charge, "30")
        assert (await refusal(api.charge(budget, "30.01"))).reason == "BUDGET_EXCEEDED"
        assert await api.charge(budget, "30")

    async def test_a_closed_budget_accepts_refunds(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        charge = await api.charge(budget, "100")
        await api.close(budget)
        assert (await api.refund(charge)).amount == eur("100.00")

    async def test_an_overspent_budget_accepts_refunds(self, api: BudgetsApi) -> None:
        budget = await api.open("10", overspend_policy=Budget.WARN)
        charge = await api.charge(budget, "100")
        assert (await api.refund(charge, "1")).chain[0].overspent

    async def test_a_repeated_key_returns_the_same_refund(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        charge = await api.charge(budget, "60")
        first = await api.refund(charge, "40", "k")
        assert await api.refund(charge, "40", "k") == first
        assert (await refusal(api.refund(charge, "41", "k"))).reason == "IDEMPOTENCY_MISMATCH"
        assert numbers(await api.get(budget))[0] == "20.00"

    async def test_concurrent_refunds_never_exceed_the_charge(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        charge = await api.charge(budget, "50")
        await api.charge(budget, "50")
        outcomes = await asyncio.gather(*(api.refund(charge, "20") for _ in range(10)), return_exceptions=True)
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 2
        assert numbers(await api.get(budget))[0] == "60.00"

    async def test_a_charge_is_found_on_its_own_budget_only(self, api: BudgetsApi) -> None:
        group = await api.open("100", name="Group")
        team = await api.open("100", name="Team", parent_id=group.id)
        charge = await api.charge(team, "10")
        refund = await api.refund(charge, "1")
        assert (await refusal(api.refund(charge, id=group.id))).reason == "ENTRY_NOT_FOUND"
        for entry_id in ("ety_" + uuid4().hex, refund.id):  # a refund is no charge
            assert (await refusal(api.refund(charge, charge_id=entry_id))).reason == "ENTRY_NOT_FOUND"
        hold = await api.hold(team, "5")
        assert (await refusal(api.refund(charge, charge_id=hold.last_entry_id))).reason == "ENTRY_NOT_FOUND"

    async def test_the_charge_of_an_invisible_budget_is_not_found(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        charge = await api.charge(await api.open(), "10")
        stranger = api_for(caller(tenant=uuid4()))
        assert (await refusal(stranger.refund(charge))).reason == "BUDGET_NOT_FOUND"
        own = await stranger.open()
        assert (await refusal(stranger.refund(charge, id=own.id))).reason == "ENTRY_NOT_FOUND"
        manager = api_for(caller("department_manager", entity_scope=[]))
        assert (await refusal(manager.refund(charge))).reason == "BUDGET_NOT_FOUND"


class TestForeignCurrency:
    @pytest.fixture
    async def charge(self, api: BudgetsApi) -> Charge:
        """A charge of 100 USD, converted at 0.9 to 90 EUR."""
        await api.set_rates("USD/EUR 0.9")
        return await api.charge(await api.open(), Money(currency_code="USD", amount="100"))

    async def test_a_refund_uses_the_rate_of_the_charge(self, api: BudgetsApi, charge: Charge) -> None:
        await api.set_rates("USD/EUR 0.5")
        part = await api.refund(charge, Money(currency_code="USD", amount="30"))
        assert (part.amount, part.original_amount.amount, part.refundable) == (eur("27.00"), "30.00", eur("63.00"))
        part = await api.refund(charge, "27")
        assert (part.amount, part.original_amount.amount) == (eur("27.00"), "30.00")
        rest = await api.refund(charge)
        assert (rest.amount, rest.original_amount.amount, rest.refundable) == (eur("36.00"), "40.00", eur("0.00"))
        assert numbers(await api.get(Budget(id=charge.budget_id)))[0] == "0.00"

    async def test_an_amount_below_a_cent_is_refunded_with_the_rest(self, api: BudgetsApi) -> None:
        await api.set_rates("JPY/EUR 0.006")
        budget = await api.open()
        charge = await api.charge(budget, Money(currency_code="JPY", amount="100"))
        amounts = [(await api.refund(charge, Money(currency_code="JPY", amount="1"))).amount.amount for _ in range(5)]
        assert amounts == ["0.01", "0.00", "0.01", "0.00", "0.01"]  # 0.006, 0.012, 0.018, 0.024, 0.030
        assert (await api.refund(charge)).amount == eur("0.57")
        assert numbers(await api.get(budget))[0] == "0.00"
        await api.verify(budget)

    async def test_a_refund_in_a_third_currency_is_refused(self, api: BudgetsApi, charge: Charge) -> None:
        refused = await refusal(api.refund(charge, Money(currency_code="JPY", amount="1")))
        assert (refused.reason, refused.metadata["given"]) == ("CURRENCY_MISMATCH", "JPY")


class TestAlerts:
    async def test_a_refund_resolves_alerts_which_can_be_raised_again(
        self, api: BudgetsApi, published_events: PublishedEvents
    ) -> None:
        group = await api.open("100", name="Group", alert_thresholds_bp=[5000])
        team = await api.open("100", name="Team", parent_id=group.id, alert_thresholds_bp=[8000])
        charge = await api.charge(team, "80")
        assert [len(await api.alerts(budget)) for budget in (team, group)] == [1, 1]
        await api.refund(charge, "0.01")
        assert [a.state for a in await api.alerts(team)] == [Alert.RESOLVED]
        assert [a.state for a in await api.alerts(group)] == [Alert.OPEN]
        await api.refund(charge, "30")
        assert [a.state for a in await api.alerts(group)] == [Alert.RESOLVED]
        second = await api.charge(team, "30.01")
        await api.charge(team, "1")
        for budget in (team, group):
            newest, older = await api.alerts(budget)
            assert (newest.state, older.state, newest.charge_id) == (Alert.OPEN, Alert.RESOLVED, second.id)
        await published_events.at_least(4, BudgetAlertRaised)
        assert len(published_events.of(BudgetAlertRaised)) == 4

    async def test_a_refund_that_stays_above_the_threshold_changes_no_alert(self, api: BudgetsApi) -> None:
        budget = await api.open("100", alert_thresholds_bp=[5000])
        charge = await api.charge(budget, "80")
        await api.refund(charge, "30")
        (alert,) = await api.alerts(budget)
        assert (alert.state, alert.update_time) == (Alert.OPEN, alert.create_time)

    async def test_the_audit_log_contains_the_user_who_refunded(
        self,
        api: BudgetsApi,
        api_for: Callable[[Caller], BudgetsApi],
        caller: Callable[..., Caller],
        audit_rows: AuditRows,
    ) -> None:
        budget = await api.open("100", alert_thresholds_bp=[5000])
        charge = await api.charge(budget, "50")
        bob = api_for(caller(subject="bob"))
        await bob.refund(charge)
        rows = [row for row in await audit_rows("budgets") if row.table == "budget_alerts"]
        assert [(row.action, row.actor, row.trace_id) for row in rows] == [
            ("insert", "alice", api.who.trace.trace_id),
            ("update", "bob", bob.who.trace.trace_id),
        ]
