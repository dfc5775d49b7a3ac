"""Credits of allocated costs: the same part of the charge is refunded, or the unbudgeted spend reduced, once."""

import asyncio
import itertools
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.entry_pb2 import Entry
from billing.budgets.v1.events_pb2 import UnbudgetedSpendRecorded
from billing.type.v1.money_pb2 import Money

from eventing.consumer import Consumer
from kit.errors import Conflict, IdempotencyMismatch
from tests.budgets.allocated_costs import CostEvents, allocation, credit, reversal, unbudgeted
from tests.budgets.budgets_api import BudgetsApi, eur
from tests.budgets.rolling import roll
from tests.budgets.test_late_postings import YESTERDAY, last_month
from tests.harness.events import Replica
from tests.harness.observe import PublishedEvents, eventually

USD = "USD"


async def unbudgeted_amounts(api: BudgetsApi) -> list[str]:
    """Return the amounts of all unbudgeted spend, sorted."""
    return sorted(spend.amount.amount for spend in await unbudgeted(api, page_size=1000))


class TestRefund:
    async def test_credited_part_of_the_charge_is_refunded_once(
        self, api: BudgetsApi, company: str, replica: Replica
    ) -> None:
        group = await api.open()
        budget, cost = await api.open(parent_id=group.id, category="cloud"), allocation(company, category="cloud")
        await replica.handle(cost)
        event = credit(cost, "2.50")
        for _ in range(3):
            await replica.handle(event)
        charge, refund = sorted(await api.entries(budget), key=lambda entry: entry.id)
        assert (refund.entry_type, refund.amount, refund.charge_id) == (Entry.REFUND, eur("2.50"), charge.id)
        assert (refund.reference, refund.description, refund.actor) == (event.allocation_id, "Outage", "carol")
        assert [(await api.get(each)).spent for each in (group, budget)] == [eur("7.50")] * 2
        await api.verify(group, budget)

    async def test_several_credits_and_then_the_reversal_leave_nothing(
        self, api: BudgetsApi, company: str, replica: Replica
    ) -> None:
        await api.set_rates("2026-01-01 USD/EUR 0.915", "2026-11-01 USD/EUR 0.915")
        budget, cost = await api.open(), allocation(company, Money(currency_code=USD, amount="1.00"))
        await replica.handle(cost)
        for number, spent in enumerate(("0.62", "0.31", "0.01"), 1):
            await replica.handle(credit(cost, "0.33"))
            assert ((await api.get(budget)).spent, number) == (eur(spent), number)
        await replica.handle(reversal(cost))
        assert (await api.get(budget)).spent == eur("0.00")
        await api.verify(budget)

    async def test_last_credit_leaves_exactly_nothing(self, api: BudgetsApi, company: str, replica: Replica) -> None:
        await api.set_rates("2026-11-01 USD/EUR 0.915")
        budget, cost = await api.open(), allocation(company, Money(currency_code=USD, amount="0.10"))
        await replica.handle(cost)
        for _ in range(10):
            await replica.handle(credit(cost, "0.01"))
        assert (await api.get(budget)).spent == eur("0.00")
        await api.verify(budget)

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    async def test_credits_and_reversal_in_any_order_leave_nothing(
        self, api: BudgetsApi, company: str, replica: Replica, order: tuple[int, ...]
    ) -> None:
        budget = await api.open("10")
        for cost in (allocation(company), allocation(company, "99.00")):  # the second is refused
            await replica.handle(cost)
            events = credit(cost, "2.50"), credit(cost, "4.00"), reversal(cost)
            for index in order:
                await replica.handle(events[index])
        assert (await api.get(budget)).spent == eur("0.00")
        assert sum(map(Decimal, await unbudgeted_amounts(api))) == 0
        await api.verify(budget)

    async def test_at_most_the_amount_that_no_user_refunded_is_refunded(
        self, api: BudgetsApi, company: str, replica: Replica
    ) -> None:
        budget, cost = await api.open(), allocation(company)
        await replica.handle(cost)
        (charge,) = await api.entries(budget)
        request = pb.RefundChargeRequest(id=budget.id, charge_id=charge.id, amount=eur("8.00"), request_id=uuid4().hex)
        await api.who.call(api.stubs.ledger.RefundCharge, request)
        for _ in range(2):
            await replica.handle(credit(cost, "5.00"))
        assert (await api.get(budget)).spent == eur("0.00")
        assert [entry.amount.amount for entry in await api.entries(budget)] == ["2.00", "8.00", "10.00"]

    async def test_closed_budget_is_refunded(self, api: BudgetsApi, company: str, replica: Replica) -> None:
        budget, cost = await api.open(), allocation(company)
        await replica.handle(cost)
        await api.close(budget)
        await replica.handle(credit(cost, "2.50"))
        assert (await api.get(budget)).spent == eur("7.50")

    @pytest.mark.parametrize("closed", [False, True])
    async def test_credit_after_the_rollover_raises_what_was_carried_forward(
        self,
        api: BudgetsApi,
        company: str,
        replica: Replica,
        closed: bool,  # noqa: FBT001
    ) -> None:
        budget = await last_month(api)
        cost = allocation(company, "400.00", allocation_date=YESTERDAY)
        await replica.handle(cost)
        done = await roll(api, budget, early=False)
        if closed:
            await api.close(budget)
        await replica.handle(credit(cost, "150.00"))
        row = await api.get(budget)
        assert (row.spent, row.carried_forward) == (eur("250.00"), eur("750.00"))
        assert (await api.get(done.opened)).carried == eur("750.00")
        await api.verify(budget, done.opened)


class TestUnbudgeted:
    async def test_credit_gets_a_row_of_its_own(
        self, api: BudgetsApi, company: str, cost_events: CostEvents, published_events: PublishedEvents
    ) -> None:
        cost = allocation(company, category="cloud", allocation_date="2026-03-01")
        await cost_events(cost)
        event = credit(cost, "2.50")
        await cost_events.publish(event, event)
        row, spend = await cost_events.unbudgeted(2)
        assert (row.allocation_id, row.credited_allocation_id, row.reversed_allocation_id) == (
            event.allocation_id, cost.allocation_id, "",
        )  # fmt: skip
        assert (row.amount, row.detail) == (eur("-2.50"), "Outage")
        for field in ("entity_id", "department_id", "category", "gl_code", "allocation_date", "reason", "budget_id"):
            assert getattr(row, field) == getattr(spend, field)
        published = await published_events.at_least(2, UnbudgetedSpendRecorded)
        assert [event.spend for event in published] == [spend, row]

    async def test_reversal_is_of_the_amount_that_was_not_credited(
        self, api: BudgetsApi, company: str, replica: Replica
    ) -> None:
        cost = allocation(company)
        for event in (cost, credit(cost, "2.50"), credit(cost, "4.00"), reversal(cost)):
            await replica.handle(event)
        assert await unbudgeted_amounts(api) == ["-2.50", "-3.50", "-4.00", "10.00"]

    async def test_concurrent_credits_and_a_reversal_leave_nothing(
        self, api: BudgetsApi, company: str, cost_events: CostEvents, replica: Replica
    ) -> None:
        cost = allocation(company)
        await cost_events(cost)
        events = [*(credit(cost, "2.00") for _ in range(4)), reversal(cost)]
        await asyncio.gather(cost_events.publish(*events), *map(replica.handle, events), return_exceptions=True)

        async def nothing_left() -> bool:
            return sum(map(Decimal, await unbudgeted_amounts(api))) == 0

        await eventually(nothing_left)
        for event in events:
            await replica.handle(event)
        assert await nothing_left()


class TestOrder:
    async def test_credit_that_arrives_before_its_cost_waits_for_it(
        self,
        api: BudgetsApi,
        company: str,
        cost_events: CostEvents,
        replica: Replica,
        logs: list[dict[str, Any]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(Consumer, "retry_delays_s", (0.01,))
        budget, cost = await api.open(), allocation(company)
        event = credit(cost, "2.50")
        with pytest.raises(Conflict):
            await replica.handle(event)
        event_id = uuid4()
        await cost_events.publish(event, event_id=event_id)

        async def was_retried() -> bool:
            failures = [line for line in logs if line["event"] == "event failed" and line["event_id"] == str(event_id)]
            return len(failures) > 1

        await eventually(was_retried)
        await cost_events(cost)

        async def spent() -> bool:
            return (await api.get(budget)).spent == eur("7.50")

        await eventually(spent)

    async def test_credit_of_a_cost_that_was_reversed_before_it_arrived_has_no_effect(
        self, api: BudgetsApi, company: str, replica: Replica
    ) -> None:
        budget, cost = await api.open(), allocation(company)
        for event in (reversal(cost), credit(cost, "2.50"), cost):
            await replica.handle(event)
        assert await api.entries(budget) == []
        assert await unbudgeted_amounts(api) == []

    async def test_credit_with_other_contents_is_refused(self, api: BudgetsApi, company: str, replica: Replica) -> None:
        await api.open("10", overspend_policy=Budget.BLOCK)
        for cost in (allocation(company), allocation(company, "99.00")):  # the second is refused
            event = credit(cost, "2.50")
            await replica.handle(cost)
            await replica.handle(event)
            event.amount.amount = "2.60"
            with pytest.raises(IdempotencyMismatch):
                await replica.handle(event)
