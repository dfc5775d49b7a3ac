"""Allocated costs: charged once to the budget that fits best, or recorded as unbudgeted spend."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.entry_pb2 import Entry
from billing.budgets.v1.events_pb2 import UnbudgetedSpendRecorded
from billing.budgets.v1.unbudgeted_pb2 import UnbudgetedSpend
from billing.entities.v1.department_service_pb2 import MoveDepartmentRequest
from billing.operations.v1.operations_service_pb2 import ListDeadLettersRequest
from billing.type.v1.money_pb2 import Money

from clients.rates import Rates
from eventing.consumer import Consumer
from kit.errors import Conflict, DeadlineExceeded, IdempotencyMismatch, Overloaded, Unavailable
from services.budgets.service.allocated_costs import UNBUDGETED
from tests.budgets.allocated_costs import CostEvents, allocation, reversal, today, unbudgeted
from tests.budgets.budgets_api import BudgetsApi, eur
from tests.harness.callers import Caller, refusal
from tests.harness.events import Replica
from tests.harness.observe import PublishedEvents, eventually
from tests.harness.services import Budgets


class TestCharge:
    async def test_a_cost_is_charged_to_the_budget_that_fits_best(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        group = await api.open()
        department = await api.department(company)
        ours = await api.open("500", department_id=department, parent_id=group.id)
        cost = allocation(company, "12.34", department_id=department, category="cloud", gl_code="6000")
        await cost_events(cost)
        (entry,) = await api.entries(ours)
        assert (entry.entry_type, entry.amount, entry.budget_id) == (Entry.CHARGE, eur("12.34"), ours.id)
        assert (entry.reference, entry.request_id) == (cost.allocation_id, f"allocation:{cost.allocation_id}")
        assert (entry.actor, entry.description) == ("carol", "Compute")
        assert entry.charge_time.ToDatetime() == datetime.fromisoformat(f"{today()}T12:00:00")
        assert [(await api.get(budget)).spent for budget in (group, ours)] == [eur("12.34")] * 2
        await api.verify(group, ours)
        assert await unbudgeted(api) == []

    async def test_a_cost_is_charged_to_the_nearest_department_above_that_has_a_budget(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        engineering = await api.department(company)
        platform = await api.department(company, "PLAT", engineering)
        whole, ours = await api.open("5000"), await api.open(department_id=engineering)
        path = [engineering, platform]
        await cost_events(allocation(company, "900.00", department_id=platform, department_path=path))
        assert [(await api.get(one)).spent for one in (whole, ours)] == [eur("0.00"), eur("900.00")]
        preview = await api.cost_budget(company, department_id=platform)
        assert preview.budget.id == ours.id
        assert preview.explanation == (
            "It is a budget of the department 1 level above that of the cost. It is for every category and GL code."
        )
        assert [match.budget_id for match in preview.matches] == [ours.id, whole.id]
        assert await unbudgeted(api) == []

    async def test_preview_names_the_budget_that_a_cost_is_charged_to(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        department = await api.department(company)
        await api.open()
        general = await api.open(department_id=department)
        cloud = await api.open(department_id=department, category="cloud")
        await api.open(department_id=department, category="cloud", gl_code="7000")
        await api.open(department_id=department, category="cloud")
        for category, expected in (("cloud", cloud), ("travel", general)):
            preview = await api.cost_budget(company, department_id=department, category=category, gl_code="6000")
            assert preview.budget.id == expected.id
            given = {"department_id": department, "category": category, "gl_code": "6000"}
            await cost_events(allocation(company, "1.00", **given))
            assert (await api.get(expected)).spent == eur("1.00")
        preview = await api.cost_budget(company, department_id=department, category="cloud")
        assert preview.matches[0].explanation == (
            "It is a budget of the department of the cost. It is for the category 'cloud'."
            " It is number 1 of 2 such budgets by age."
        )

    async def test_preview_follows_the_departments_of_the_day_of_the_cost(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        year = datetime.now(UTC).year
        first, moved = f"{year}-01-01", f"{year}-02-01"
        old, new = [await api.department(company, code, start_date=first) for code in ("OLD", "NEW")]
        team = await api.department(company, "TEAM", old, start_date=first)
        budgets = {old: await api.open(department_id=old), new: await api.open(department_id=new)}
        move = MoveDepartmentRequest(id=team, new_parent_id=new, effective_date=moved)
        await api.who.call(api.entities.departments.MoveDepartment, move)
        for day, parent in ((first, old), (moved, new)):
            preview = await api.cost_budget(company, department_id=team, allocation_date=day)
            assert preview.budget.id == budgets[parent].id

    async def test_preview_states_that_no_budget_fits(self, api: BudgetsApi, company: str) -> None:
        preview = await api.cost_budget(company, allocation_date="2001-01-01")
        assert not preview.HasField("budget")
        assert (
            preview.explanation == "No budget that accepts charges fits it on 2001-01-01; it would be unbudgeted spend."
        )
        assert (await refusal(api.cost_budget("ent_" + "0" * 32))).reason == "OWNER_NOT_FOUND"

    async def test_preview_shows_no_budget_outside_of_the_scope(
        self, api: BudgetsApi, company: str, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        engineering = await api.department(company)
        platform = await api.department(company, "PLAT", engineering)
        await api.open(department_id=engineering)
        manager = api_for(caller("department_manager", department_scope=[platform]))
        preview = await manager.cost_budget(company, department_id=platform)
        assert not preview.HasField("budget")
        assert not preview.matches
        assert preview.explanation == "It would be charged to a budget that you may not see."
        assert (await refusal(manager.cost_budget(company, department_id=engineering))).reason == "OWNER_NOT_FOUND"

    async def test_only_active_budgets_of_its_day_and_entity_are_charged(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        department = await api.department(company)
        closed = await api.close(await api.open(department_id=department, category="cloud"))
        draft = await api.open(department_id=department, category="cloud", draft=True)
        foreign = await api.open(entity_id=await api.company("OTHER"), category="cloud")
        march = await api.open(
            department_id=department, category="cloud", period_type=Budget.MONTHLY, period_start_date="2031-03-01",
            time_zone="Pacific/Kiritimati",
        )  # fmt: skip
        april = await api.open(
            department_id=department, category="cloud", period_type=Budget.MONTHLY, period_start_date="2031-04-01",
            time_zone="Pacific/Pago_Pago",
        )  # fmt: skip
        given = {"department_id": department, "category": "cloud"}
        await cost_events(
            allocation(company, "1", allocation_date="2031-03-01", **given),
            allocation(company, "2", allocation_date="2031-03-31", **given),
            allocation(company, "4", allocation_date="2031-04-01", **given),
            allocation(company, "8", allocation_date="2031-04-30", **given),
            allocation(company, "16", allocation_date="2031-05-01", **given),
        )
        assert [(await api.get(budget)).spent for budget in (march, april)] == [eur("3.00"), eur("12.00")]
        for budget in (closed, draft, foreign):
            assert await api.entries(budget) == []
        (left,) = await unbudgeted(api)
        assert (left.amount, left.reason, left.budget_id) == (eur("16.00"), "NO_BUDGET", "")

    async def test_a_cost_in_a_foreign_currency_is_converted_at_the_rate_of_its_day(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        budget = await api.open()
        await api.set_rates(f"{today()} USD/EUR 0.9")
        await cost_events(allocation(company, Money(currency_code="USD", amount="100.00")))
        (entry,) = await api.entries(budget)
        assert (entry.amount, entry.original_amount.amount, entry.rate) == (eur("90.00"), "100.00", "0.9")

    async def test_a_repeated_event_is_charged_once(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        """Redelivered with the same event id, and published again with another one."""
        budget, event_id = await api.open(), uuid4()
        cost, last = allocation(company), allocation(company)
        await cost_events.publish(cost, event_id=event_id)
        await cost_events.publish(cost, event_id=event_id)
        await cost_events.publish(cost, cost, cost)
        await cost_events(cost, last)
        assert len(await api.entries(budget)) == 2

    async def test_a_repeated_event_is_charged_once_although_the_budgets_changed(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        budget, cost = await api.open(), allocation(company, category="cloud")
        await cost_events(cost)
        better = await api.open(category="cloud")
        await api.close(budget)
        await cost_events(cost, allocation(company, "1", category="cloud"))
        assert [(await api.get(one)).spent for one in (budget, better)] == [eur("10.00"), eur("1.00")]
        assert await unbudgeted(api) == []

    async def test_two_replicas_charge_each_concurrent_cost_once(
        self, api: BudgetsApi, company: str, cost_events: CostEvents, replica: Replica
    ) -> None:
        """The service consumes the events from NATS while a second replica handles the same events."""
        group = await api.open("100000")
        department = await api.department(company)
        ours = await api.open("1000", parent_id=group.id, department_id=department)
        costs = [allocation(company, "3", department_id=department if n % 2 else "") for n in range(200)]
        second = asyncio.gather(*map(replica.handle, costs))
        await cost_events.publish(*costs)
        await second
        await cost_events.done(*costs)
        assert [(await api.get(budget)).spent for budget in (group, ours)] == [eur("600.00"), eur("300.00")]
        await api.verify(group, ours)


class TestUnbudgeted:
    async def test_a_cost_without_a_budget_is_recorded_and_published(
        self, api: BudgetsApi, company: str, cost_events: CostEvents, published_events: PublishedEvents
    ) -> None:
        department = await api.department(company)
        cost = allocation(company, department_id=department, category="cloud", gl_code="6000")
        counted = counter("NO_BUDGET")
        await cost_events(cost)
        (spend,) = await unbudgeted(api)
        assert spend.create_time.ToSeconds() > 0
        expected = UnbudgetedSpend(
            allocation_id=cost.allocation_id,
            entity_id=company,
            department_id=department,
            category="cloud",
            gl_code="6000",
            amount=cost.amount,
            allocation_date=today(),
            reason="NO_BUDGET",
            detail=f"No budget that accepts charges fits it on {today()}.",
            create_time=spend.create_time,
        )
        assert spend == expected
        assert (await published_events.first(UnbudgetedSpendRecorded)).spend == spend
        assert published_events.headers(UnbudgetedSpendRecorded)["ce-actor"] == "carol"
        assert counter("NO_BUDGET") >= counted + 1

    async def test_a_repeated_event_is_recorded_once_even_if_there_is_a_budget_by_then(
        self, api: BudgetsApi, company: str, cost_events: CostEvents, published_events: PublishedEvents
    ) -> None:
        cost = allocation(company)
        await cost_events.publish(cost, cost, cost)
        await cost_events.done(cost)
        budget = await api.open()
        await cost_events(cost, allocation(company))
        assert len(await unbudgeted(api)) == 1
        assert len(await api.entries(budget)) == 1
        await published_events.first(UnbudgetedSpendRecorded)
        assert len(published_events.of(UnbudgetedSpendRecorded)) == 1

    async def test_a_refused_cost_is_recorded_with_its_reason(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        """No other budget is charged instead."""
        await api.open()
        small = await api.open("5", category="cloud")
        approval = await api.open("5", category="travel", overspend_policy=Budget.REQUIRE_APPROVAL)
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
        await cost_events(*costs)
        spends = {spend.allocation_id: spend for spend in await unbudgeted(api)}
        assert [(spends[cost.allocation_id].reason, spends[cost.allocation_id].budget_id) for cost in costs] == [
            ("BUDGET_EXCEEDED", small.id),
            ("APPROVAL_REQUIRED", approval.id),
            ("BUDGET_STATE", orphan.id),
            ("RATE_MISSING", small.id),
            ("AMOUNT_TOO_SMALL", small.id),
        ]
        assert "5.00 EUR available" in spends[costs[0].allocation_id].detail
        assert [entry for budget in (small, approval, orphan) for entry in await api.entries(budget)] == []

    async def test_two_replicas_charge_or_record_a_cost_but_never_both(
        self, api: BudgetsApi, company: str, cost_events: CostEvents, replica: Replica
    ) -> None:
        """The budget has room for half of the costs, and the order of the replicas differs."""
        budget = await api.open("50")
        costs = [allocation(company, "1") for _ in range(100)]
        await asyncio.gather(cost_events.publish(*costs), *map(replica.handle, costs[::-1]))
        await cost_events.done(*costs)
        charged = {entry.reference for entry in await api.entries(budget, page_size=1000)}
        left = {spend.allocation_id for spend in await unbudgeted(api, page_size=1000)}
        assert (len(charged), len(left), charged & left) == (50, 50, set())
        await api.verify(budget)

    async def test_an_allocation_id_with_different_contents_is_dead_lettered(
        self, api: BudgetsApi, company: str, cost_events: CostEvents, caller: Callable[..., Caller], budgets: Budgets,
        short_retry_delays: None,
    ) -> None:  # fmt: skip
        budget, cost = await api.open(), allocation(company)
        await cost_events(cost)
        changed = allocation(company, "11.00")
        changed.allocation_id = cost.allocation_id
        await cost_events.publish(changed, allocation(company, "0.00"), allocation(company, allocation_date="soon"))
        operator = caller("billing_admin")

        async def all_errors() -> list[str]:
            page = await operator.call(budgets.operations.ListDeadLetters, ListDeadLettersRequest())
            errors = [letter.error for letter in page.dead_letters]
            return errors if len(errors) == 3 else []

        errors = await eventually(all_errors)
        assert any("was used before with another input" in error for error in errors)
        assert (await api.get(budget)).spent == eur("10.00")
        assert await unbudgeted(api) == []


def counter(reason: str) -> float:
    return float(UNBUDGETED.labels(reason)._value.get())


@pytest.fixture
def short_retry_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry failed events within milliseconds."""
    monkeypatch.setattr(Consumer, "retry_delays_s", (0.01,))


class TestTransientFailures:
    async def test_a_cost_waits_while_rates_are_unavailable(
        self,
        api: BudgetsApi,
        company: str,
        cost_events: CostEvents,
        monkeypatch: pytest.MonkeyPatch,
        short_retry_delays: None,
    ) -> None:
        """It is retried until the rate can be read, and neither recorded as unbudgeted nor dead-lettered."""
        budget = await api.open()
        await api.set_rates(f"{today()} USD/EUR 0.5")
        failing = [Unavailable("entities"), DeadlineExceeded(), Conflict(), Overloaded()] * 2
        find = Rates.find

        async def fail_at_first(rates: Rates, *arguments: Any) -> Any:
            if failing:
                raise failing.pop()
            return await find(rates, *arguments)

        monkeypatch.setattr(Rates, "find", fail_at_first)
        await cost_events(allocation(company, Money(currency_code="USD", amount="10.00")))
        assert (await api.get(budget)).spent == eur("5.00")
        assert failing == []
        assert await unbudgeted(api) == []


class TestReversed:
    async def test_a_reversed_charge_is_refunded_once(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        budget, cost, last = await api.open(), allocation(company), allocation(company, "1.00")
        await cost_events(cost)
        reversal_event = reversal(cost)
        await cost_events.publish(reversal_event, reversal_event, reversal_event)
        await refunded(api, budget)
        await cost_events.publish(reversal_event, reversal(last))
        await cost_events(cost, last)
        charge, refund = sorted(
            (entry for entry in await api.entries(budget) if entry.amount == eur("10.00")), key=lambda entry: entry.id
        )
        assert (refund.entry_type, refund.charge_id) == (Entry.REFUND, charge.id)
        assert (refund.reference, refund.description) == (reversal_event.allocation_id, "Metered twice")
        await api.verify(budget)

    async def test_a_reversed_charge_of_a_closed_budget_is_refunded(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        budget, cost = await api.open(), allocation(company)
        await cost_events(cost)
        await api.close(budget)
        await cost_events.publish(reversal(cost))
        assert (await refunded(api, budget)).spent == eur("0.00")

    async def test_a_charge_that_was_refunded_manually_is_not_refunded_again(
        self, api: BudgetsApi, company: str, cost_events: CostEvents, replica: Replica
    ) -> None:
        budget, cost, other = await api.open(), allocation(company), allocation(company)
        await cost_events(cost, other)
        charges = {entry.reference: entry for entry in await api.entries(budget)}
        manual = charges[cost.allocation_id]
        request = pb.RefundChargeRequest(id=budget.id, charge_id=manual.id, request_id=uuid4().hex)
        await api.who.call(api.stubs.ledger.RefundCharge, request)
        await replica.handle(reversal(cost))
        await replica.handle(reversal(other))
        assert (await api.get(budget)).spent == eur("0.00")
        assert len(await api.entries(budget)) == 4

    async def test_reversed_unbudgeted_spend_gets_a_row_of_the_opposite_amount(
        self, api: BudgetsApi, company: str, cost_events: CostEvents, published_events: PublishedEvents
    ) -> None:
        cost = allocation(company, category="cloud", allocation_date="2031-03-01")
        await cost_events(cost)
        reversal_event = reversal(cost)
        await cost_events.publish(reversal_event, reversal_event)
        opposite, spend = await cost_events.unbudgeted(2)
        assert (opposite.allocation_id, opposite.reversed_allocation_id) == (
            reversal_event.allocation_id,
            cost.allocation_id,
        )
        assert (opposite.amount, opposite.detail) == (eur("-10.00"), "Metered twice")
        for field in ("entity_id", "department_id", "category", "gl_code", "allocation_date", "reason", "budget_id"):
            assert getattr(opposite, field) == getattr(spend, field)
        published = await published_events.at_least(2, UnbudgetedSpendRecorded)
        assert [event.spend for event in published] == [spend, opposite]
        await cost_events.publish(reversal_event)
        await cost_events(cost, allocation(company))
        assert len(await unbudgeted(api)) == 3

    async def test_a_second_reversal_has_no_effect(self, api: BudgetsApi, company: str, replica: Replica) -> None:
        budget = await api.open("10")
        for cost in (allocation(company), allocation(company, "99.00")):  # the second is refused
            await replica.handle(cost)
            await replica.handle(reversal(cost))
            with pytest.raises(IdempotencyMismatch):
                await replica.handle(reversal(cost))
        assert len(await api.entries(budget)) == len(await unbudgeted(api)) == 2

    async def test_an_allocation_that_was_reversed_before_it_arrived_has_no_effect(
        self, api: BudgetsApi, company: str, cost_events: CostEvents, replica: Replica
    ) -> None:
        budget, cost = await api.open(), allocation(company)
        await cost_events.publish(reversal(cost))
        await cost_events.done(cost)
        await replica.handle(cost)
        await cost_events(cost, allocation(company, "1.00"))
        assert [entry.amount for entry in await api.entries(budget)] == [eur("1.00")]
        assert await unbudgeted(api) == []

    async def test_an_allocation_and_its_reversal_at_once_leave_nothing(
        self, api: BudgetsApi, company: str, cost_events: CostEvents, short_retry_delays: None
    ) -> None:
        budget = await api.open("300")
        costs = [allocation(company) for _ in range(50)]
        await asyncio.gather(cost_events.publish(*map(reversal, costs)), cost_events.publish(*costs))
        await cost_events.done(*costs)

        async def nothing_left() -> bool:
            left = [Decimal(spend.amount.amount) for spend in await unbudgeted(api, page_size=1000)]
            return (await api.get(budget)).spent == eur("0.00") and sum(left) == 0

        await eventually(nothing_left)
        await api.verify(budget)


async def refunded(api: BudgetsApi, budget: Budget) -> Budget:
    """Wait until something was refunded; return the budget."""

    async def has_refund() -> bool:
        return any(entry.entry_type == Entry.REFUND for entry in await api.entries(budget))

    await eventually(has_refund)
    return await api.get(budget)
