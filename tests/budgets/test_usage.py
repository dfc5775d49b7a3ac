"""Allocated costs: charged once to the budget that fits best, or recorded as spend that no budget took."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.entry_pb2 import Entry
from billing.budgets.v1.events_pb2 import UnbudgetedSpendRecorded
from billing.budgets.v1.unbudgeted_pb2 import UnbudgetedSpend
from billing.operations.v1.operations_service_pb2 import ListDeadLettersRequest
from billing.type.v1.money_pb2 import Money

from clients.rates import Rates
from eventing.consumer import Consumer
from kit.errors import Conflict, DeadlineExceeded, IdempotencyMismatch, Overloaded, Unavailable
from services.budgets.service.allocated_costs import UNBUDGETED
from tests.budgets.budgets_api import BudgetsApi, eur
from tests.budgets.usage import Replica, Said, allocation, reversal, today, unbudgeted
from tests.harness.callers import Caller
from tests.harness.observe import PublishedEvents, eventually
from tests.harness.services import Budgets


class TestCharge:
    async def test_a_cost_is_charged_to_the_budget_that_fits_best(
        self, api: BudgetsApi, company: str, said: Said
    ) -> None:
        group = await api.open()
        department = await api.department(company)
        ours = await api.open("500", department_id=department, parent_id=group.id)
        cost = allocation(company, "12.34", department_id=department, category="cloud", gl_code="6000")
        await said(cost)
        (entry,) = await api.entries(ours)
        assert (entry.entry_type, entry.amount, entry.budget_id) == (Entry.CHARGE, eur("12.34"), ours.id)
        assert (entry.reference, entry.request_id) == (cost.allocation_id, f"allocation:{cost.allocation_id}")
        assert (entry.actor, entry.description) == ("carol", "Compute")
        assert entry.charge_time.ToDatetime() == datetime.fromisoformat(f"{today()}T12:00:00")
        assert [(await api.get(budget)).spent for budget in (group, ours)] == [eur("12.34")] * 2
        await api.verify(group, ours)
        assert await unbudgeted(api) == []

    async def test_only_active_budgets_of_its_day_and_entity_take_it(
        self, api: BudgetsApi, company: str, said: Said
    ) -> None:
        department = await api.department(company)
        closed = await api.close(await api.open(department_id=department, category="cloud"))
        draft = await api.open(department_id=department, category="cloud", draft=True)
        elsewhere = await api.open(entity_id=await api.company("OTHER"), category="cloud")
        march = await api.open(
            department_id=department, category="cloud", period_type=Budget.MONTHLY, period_start_date="2031-03-01",
            time_zone="Pacific/Kiritimati",
        )  # fmt: skip
        april = await api.open(
            department_id=department, category="cloud", period_type=Budget.MONTHLY, period_start_date="2031-04-01",
            time_zone="Pacific/Pago_Pago",
        )  # fmt: skip
        given = {"department_id": department, "category": "cloud"}
        await said(
            allocation(company, "1", allocation_date="2031-03-01", **given),
            allocation(company, "2", allocation_date="2031-03-31", **given),
            allocation(company, "4", allocation_date="2031-04-01", **given),
            allocation(company, "8", allocation_date="2031-04-30", **given),
            allocation(company, "16", allocation_date="2031-05-01", **given),
        )
        assert [(await api.get(budget)).spent for budget in (march, april)] == [eur("3.00"), eur("12.00")]
        for budget in (closed, draft, elsewhere):
            assert await api.entries(budget) == []
        (left,) = await unbudgeted(api)
        assert (left.amount, left.reason, left.budget_id) == (eur("16.00"), "NO_BUDGET", "")

    async def test_in_another_currency_it_is_converted_at_the_rate_of_its_day(
        self, api: BudgetsApi, company: str, said: Said
    ) -> None:
        budget = await api.open()
        await api.set_rates(f"{today()} USD/EUR 0.9")
        await said(allocation(company, Money(currency_code="USD", amount="100.00")))
        (entry,) = await api.entries(budget)
        assert (entry.amount, entry.original_amount.amount, entry.rate) == (eur("90.00"), "100.00", "0.9")

    async def test_said_again_it_is_charged_once(self, api: BudgetsApi, company: str, said: Said) -> None:
        """Delivered again with the same event id, and published anew with another."""
        budget, event_id = await api.open(), uuid4()
        cost, last = allocation(company), allocation(company)
        await said.publish(cost, event_id=event_id)
        await said.publish(cost, event_id=event_id)
        await said.publish(cost, cost, cost)
        await said(cost, last)
        assert len(await api.entries(budget)) == 2

    async def test_closed_meanwhile_or_joined_by_a_better_one_it_stays_charged_once(
        self, api: BudgetsApi, company: str, said: Said
    ) -> None:
        budget, cost = await api.open(), allocation(company, category="cloud")
        await said(cost)
        better = await api.open(category="cloud")
        await api.close(budget)
        await said(cost, allocation(company, "1", category="cloud"))
        assert [(await api.get(one)).spent for one in (budget, better)] == [eur("10.00"), eur("1.00")]
        assert await unbudgeted(api) == []

    async def test_many_at_once_are_charged_each_once_by_two_replicas(
        self, api: BudgetsApi, company: str, said: Said, replica: Replica
    ) -> None:
        """While the service takes them from NATS, a second one is handed the same."""
        group = await api.open("100000")
        department = await api.department(company)
        ours = await api.open("1000", parent_id=group.id, department_id=department)
        costs = [allocation(company, "3", department_id=department if n % 2 else "") for n in range(200)]
        twice = asyncio.gather(*map(replica.take, costs))
        await said.publish(*costs)
        await twice
        await said.done(*costs)
        assert [(await api.get(budget)).spent for budget in (group, ours)] == [eur("600.00"), eur("300.00")]
        await api.verify(group, ours)


class TestUnbudgeted:
    async def test_what_fits_no_budget_is_recorded_and_told(
        self, api: BudgetsApi, company: str, said: Said, published_events: PublishedEvents
    ) -> None:
        department = await api.department(company)
        cost = allocation(company, department_id=department, category="cloud", gl_code="6000")
        counted = counter("NO_BUDGET")
        await said(cost)
        (spend,) = await unbudgeted(api)
        assert spend.create_time.ToSeconds() > 0
        wanted = UnbudgetedSpend(
            allocation_id=cost.allocation_id,
            entity_id=company,
            department_id=department,
            category="cloud",
            gl_code="6000",
            amount=cost.amount,
            allocation_date=today(),
            reason="NO_BUDGET",
            detail=f"No active budget fits it on {today()}.",
            create_time=spend.create_time,
        )
        assert spend == wanted
        assert (await published_events.first(UnbudgetedSpendRecorded)).spend == spend
        assert published_events.headers(UnbudgetedSpendRecorded)["ce-actor"] == "carol"
        assert counter("NO_BUDGET") >= counted + 1

    async def test_said_again_it_is_recorded_once_also_when_there_is_a_budget_by_then(
        self, api: BudgetsApi, company: str, said: Said, published_events: PublishedEvents
    ) -> None:
        cost = allocation(company)
        await said.publish(cost, cost, cost)
        await said.done(cost)
        budget = await api.open()
        await said(cost, allocation(company))
        assert len(await unbudgeted(api)) == 1
        assert len(await api.entries(budget)) == 1
        await published_events.first(UnbudgetedSpendRecorded)
        assert len(published_events.of(UnbudgetedSpendRecorded)) == 1

    async def test_what_the_budget_refuses_is_recorded_with_its_reason(
        self, api: BudgetsApi, company: str, said: Said
    ) -> None:
        """No other budget is asked then: it is the one that should have taken it."""
        await api.open()
        small = await api.open("5", category="cloud")
        asking = await api.open("5", category="travel", overspend_policy=Budget.REQUIRE_APPROVAL)
        orphan = await api.open(category="rent", parent_id=(parent := await api.open(category="above")).id)
        await api.close(parent)
        dollars = Money(currency_code="USD", amount="1.00")
        yen = Money(currency_code="JPY", amount="1")
        await api.set_rates(f"{today()} JPY/EUR 0.001")
        costs = [
            allocation(company, category="cloud"),
            allocation(company, category="travel"),
            allocation(company, category="rent"),
            allocation(company, dollars, category="cloud"),
            allocation(company, yen, category="cloud"),
        ]
        await said(*costs)
        told = {spend.allocation_id: spend for spend in await unbudgeted(api)}
        assert [(told[cost.allocation_id].reason, told[cost.allocation_id].budget_id) for cost in costs] == [
            ("BUDGET_EXCEEDED", small.id),
            ("APPROVAL_REQUIRED", asking.id),
            ("BUDGET_STATE", orphan.id),
            ("RATE_MISSING", small.id),
            ("AMOUNT_TOO_SMALL", small.id),
        ]
        assert "5.00 EUR available" in told[costs[0].allocation_id].detail
        assert [entry for budget in (small, asking, orphan) for entry in await api.entries(budget)] == []

    async def test_two_replicas_of_which_one_finds_a_budget_do_only_one_of_both(
        self, api: BudgetsApi, company: str, said: Said, replica: Replica
    ) -> None:
        """The budget has room for half of the costs only, and who asks first differs."""
        budget = await api.open("50")
        costs = [allocation(company, "1") for _ in range(100)]
        await asyncio.gather(said.publish(*costs), *map(replica.take, costs[::-1]))
        await said.done(*costs)
        charged = {entry.reference for entry in await api.entries(budget, page_size=1000)}
        left = {spend.allocation_id for spend in await unbudgeted(api, page_size=1000)}
        assert (len(charged), len(left), charged & left) == (50, 50, set())
        await api.verify(budget)

    async def test_an_allocation_that_is_suddenly_another_cost_is_put_aside(
        self, api: BudgetsApi, company: str, said: Said, caller: Callable[..., Caller], budgets: Budgets,
        pauses: None,
    ) -> None:  # fmt: skip
        budget, cost = await api.open(), allocation(company)
        await said(cost)
        changed = allocation(company, "11.00")
        changed.allocation_id = cost.allocation_id
        await said.publish(changed, allocation(company, "0.00"), allocation(company, allocation_date="soon"))
        operator = caller("billing_admin")

        async def letters() -> list[str]:
            listed = await operator.call(budgets.operations.ListDeadLetters, ListDeadLettersRequest())
            told = [letter.error for letter in listed.dead_letters]
            return told if len(told) == 3 else []

        told = await eventually(letters)
        assert any("was used before with another input" in error for error in told)
        assert (await api.get(budget)).spent == eur("10.00")
        assert await unbudgeted(api) == []


def counter(reason: str) -> float:
    return float(UNBUDGETED.labels(reason)._value.get())


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow one another within milliseconds."""
    monkeypatch.setattr(Consumer, "retry_delays_s", (0.01,))


class TestPassingFailures:
    async def test_while_rates_cannot_be_asked_for_it_waits(
        self, api: BudgetsApi, company: str, said: Said, monkeypatch: pytest.MonkeyPatch, pauses: None
    ) -> None:
        """Neither charged nor recorded nor put aside, but tried again until it can be said what is right."""
        budget = await api.open()
        await api.set_rates(f"{today()} USD/EUR 0.5")
        failing = [Unavailable("entities"), DeadlineExceeded(), Conflict(), Overloaded()] * 2
        find = Rates.find

        async def fail_at_first(rates: Rates, *asked: Any) -> Any:
            if failing:
                raise failing.pop()
            return await find(rates, *asked)

        monkeypatch.setattr(Rates, "find", fail_at_first)
        await said(allocation(company, Money(currency_code="USD", amount="10.00")))
        assert (await api.get(budget)).spent == eur("5.00")
        assert failing == []
        assert await unbudgeted(api) == []


class TestReversed:
    async def test_what_was_charged_comes_back_once(self, api: BudgetsApi, company: str, said: Said) -> None:
        budget, cost, last = await api.open(), allocation(company), allocation(company, "1.00")
        await said(cost)
        back = reversal(cost)
        await said.publish(back, back, back)
        await refunded(api, budget)
        await said.publish(back, reversal(last))
        await said(cost, last)
        charge, refund = sorted(
            (entry for entry in await api.entries(budget) if entry.amount == eur("10.00")), key=lambda entry: entry.id
        )
        assert (refund.entry_type, refund.charge_id) == (Entry.REFUND, charge.id)
        assert (refund.reference, refund.description) == (back.allocation_id, "Metered twice")
        await api.verify(budget)

    async def test_it_comes_back_to_a_budget_that_was_closed_since(
        self, api: BudgetsApi, company: str, said: Said
    ) -> None:
        budget, cost = await api.open(), allocation(company)
        await said(cost)
        await api.close(budget)
        await said.publish(reversal(cost))
        assert (await refunded(api, budget)).spent == eur("0.00")

    async def test_what_was_refunded_by_hand_does_not_come_back_again(
        self, api: BudgetsApi, company: str, said: Said, replica: Replica
    ) -> None:
        budget, cost, other = await api.open(), allocation(company), allocation(company)
        await said(cost, other)
        charges = {entry.reference: entry for entry in await api.entries(budget)}
        by_hand = charges[cost.allocation_id]
        request = pb.RefundChargeRequest(id=budget.id, charge_id=by_hand.id, request_id=uuid4().hex)
        await api.who.call(api.stubs.ledger.RefundCharge, request)
        await replica.take(reversal(cost))
        await replica.take(reversal(other))
        assert (await api.get(budget)).spent == eur("0.00")
        assert len(await api.entries(budget)) == 4

    async def test_what_no_budget_took_is_followed_by_its_opposite(
        self, api: BudgetsApi, company: str, said: Said, published_events: PublishedEvents
    ) -> None:
        cost = allocation(company, category="cloud", allocation_date="2031-03-01")
        await said(cost)
        back = reversal(cost)
        await said.publish(back, back)
        opposite, spend = await said.unbudgeted(2)
        assert (opposite.allocation_id, opposite.reversed_allocation_id) == (back.allocation_id, cost.allocation_id)
        assert (opposite.amount, opposite.detail) == (eur("-10.00"), "Metered twice")
        for field in ("entity_id", "department_id", "category", "gl_code", "allocation_date", "reason", "budget_id"):
            assert getattr(opposite, field) == getattr(spend, field)
        told = await published_events.at_least(2, UnbudgetedSpendRecorded)
        assert [event.spend for event in told] == [spend, opposite]
        await said.publish(back)
        await said(cost, allocation(company))
        assert len(await unbudgeted(api)) == 3

    async def test_by_a_second_reversal_nothing_comes_back(
        self, api: BudgetsApi, company: str, replica: Replica
    ) -> None:
        budget = await api.open("10")
        for cost in (allocation(company), allocation(company, "99.00")):  # the second is refused
            await replica.take(cost)
            await replica.take(reversal(cost))
            with pytest.raises(IdempotencyMismatch):
                await replica.take(reversal(cost))
        assert len(await api.entries(budget)) == len(await unbudgeted(api)) == 2

    async def test_said_before_the_allocation_nothing_is_charged_or_recorded(
        self, api: BudgetsApi, company: str, said: Said, replica: Replica
    ) -> None:
        budget, cost = await api.open(), allocation(company)
        await said.publish(reversal(cost))
        await said.done(cost)
        await replica.take(cost)
        await said(cost, allocation(company, "1.00"))
        assert [entry.amount for entry in await api.entries(budget)] == [eur("1.00")]
        assert await unbudgeted(api) == []

    async def test_said_together_with_the_allocation_nothing_is_left_of_it(
        self, api: BudgetsApi, company: str, said: Said, pauses: None
    ) -> None:
        budget = await api.open("300")
        costs = [allocation(company) for _ in range(50)]
        await asyncio.gather(said.publish(*map(reversal, costs)), said.publish(*costs))
        await said.done(*costs)

        async def nothing_left() -> bool:
            left = [Decimal(spend.amount.amount) for spend in await unbudgeted(api, page_size=1000)]
            return (await api.get(budget)).spent == eur("0.00") and sum(left) == 0

        await eventually(nothing_left)
        await api.verify(budget)


async def refunded(api: BudgetsApi, budget: Budget) -> Budget:
    """The budget as soon as something came back to it."""

    async def came_back() -> bool:
        return any(entry.entry_type == Entry.REFUND for entry in await api.entries(budget))

    await eventually(came_back)
    return await api.get(budget)
