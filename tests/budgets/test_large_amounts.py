"""Amounts that are too large to be stored are refused one by one: entered, converted or carried forward."""

from decimal import Decimal
from typing import Any

import pytest
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.hold_pb2 import Hold
from billing.type.v1.money_pb2 import Money
from google.protobuf.timestamp_pb2 import Timestamp

from clients.rates import Rates
from eventing.consumer import Consumer
from services.budgets import domain
from services.budgets.domain.balances import LARGEST, Movement
from services.budgets.domain.budgets import OverspendPolicy, Rollover
from services.budgets.domain.entries import EntryType
from services.budgets.domain.rollovers import CARRIED_MAX
from services.budgets.errors.budgets import BudgetExceeded, UsedTooLarge
from tests.budgets.allocated_costs import CostEvents, allocation, today, unbudgeted
from tests.budgets.budgets_api import BudgetsApi, eur, line
from tests.budgets.test_domain import NOW, balance
from tests.harness.callers import refusal


def chf(amount: str) -> Money:
    return Money(currency_code="CHF", amount=amount)


def noon(day: str) -> Timestamp:
    moment = Timestamp()
    moment.FromJsonString(f"{day}T12:00:00Z")
    return moment


class TestConverted:
    async def test_charge_too_large_at_the_rate_of_the_first_day_is_refused_alone_in_its_batch(
        self, api: BudgetsApi
    ) -> None:
        budget = await api.open("1000")
        first_day = budget.period_start_date
        await api.set_rates(f"{first_day} CHF/EUR 999999999999", "CHF/EUR 999999999998")
        refused = await refusal(api.charge(budget, chf("101.00"), charge_time=noon(first_day)))
        assert refused.reason == "AMOUNT_TOO_LARGE"
        assert (refused.metadata["amount"], refused.metadata["rate_date"]) == ("101.00", first_day)
        batch = await api.batch(line(budget, "1.00"), line(budget, chf("101.00")), line(budget, "2.00"))
        assert (batch.accepted_count, batch.results[1].refusal.reason) == (2, "AMOUNT_TOO_LARGE")
        atomic = await refusal(api.batch(line(budget, "1.00"), line(budget, chf("101.00")), atomic=True))
        assert atomic.metadata["line_reason"] == "AMOUNT_TOO_LARGE"
        for act in (api.hold(budget, chf("101.00")), api.capture(await api.hold(budget, "1.00"), chf("101.00"))):
            assert (await refusal(act)).reason == "AMOUNT_TOO_LARGE"
        assert (await api.get(budget)).spent == eur("3.00")

    async def test_charge_at_the_rate_of_today_is_refused_if_it_is_too_large_at_that_of_the_first_day(
        self, api: BudgetsApi
    ) -> None:
        budget = await api.open("1000")
        await api.set_rates(f"{budget.period_start_date} CHF/EUR 999999999999", "CHF/EUR 9999999999")
        refused = await refusal(api.charge(budget, chf("101.00")))
        assert (refused.reason, refused.metadata["rate_date"]) == ("AMOUNT_TOO_LARGE", budget.period_start_date)

    async def test_largest_amounts_at_the_largest_rate_are_refused(self, api: BudgetsApi) -> None:
        budget = await api.open("1000", overspend_policy=Budget.WARN)
        await api.set_rates("CHF/EUR 999999999999")
        assert (await refusal(api.charge(budget, chf("9999999999999.99")))).reason == "AMOUNT_TOO_LARGE"
        assert [hold.state for hold in await api.holds(budget)] == list[Hold.State.ValueType]()

    async def test_charge_beyond_what_can_be_stored_is_refused_with_that_reason(self, api: BudgetsApi) -> None:
        budget = await api.open("9999999999999", overspend_policy=Budget.WARN)
        largest = "9999999999999.99"
        accepted = (await api.batch(*(line(budget, largest) for _ in range(11)))).accepted_count
        assert accepted == 9
        refused = await refusal(api.charge(budget, largest))
        assert (refused.reason, refused.metadata["requested"]) == ("AMOUNT_TOO_LARGE", largest)
        assert (refused.metadata["used"], refused.metadata["largest"]) == ("89999999999999.91", "99999999999999.00")
        assert (await api.get(budget)).available == eur("-80000000000000.91")


class TestAllocatedCosts:
    async def test_cost_that_is_too_large_is_listed_as_unbudgeted_spend(
        self, api: BudgetsApi, company: str, cost_events: CostEvents
    ) -> None:
        budget = await api.open("1000")
        await api.set_rates(f"{today()} CHF/EUR 999999999999")
        await cost_events(allocation(company, chf("101.00")), allocation(company, "1.00"))
        (spend,) = await unbudgeted(api)
        assert (spend.reason, spend.budget_id, spend.amount) == ("AMOUNT_TOO_LARGE", budget.id, chf("101.00"))
        assert (await api.get(budget)).spent == eur("1.00")

    async def test_cost_whose_event_is_dead_lettered_is_listed_as_unbudgeted_spend(
        self, api: BudgetsApi, company: str, cost_events: CostEvents, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*_: Any) -> Any:
            raise RuntimeError("an unforeseen fault")

        monkeypatch.setattr(Consumer, "retry_delays_s", (0.01,))
        monkeypatch.setattr(Rates, "find", fail)
        await api.open("1000")
        cost = allocation(company, chf("10.00"))
        await cost_events.publish(cost)
        (spend,) = await cost_events.unbudgeted(1)
        assert (spend.allocation_id, spend.reason, spend.amount) == (cost.allocation_id, "FAILED", chf("10.00"))


class TestBalances:
    def test_what_is_carried_forward_can_be_stored_with_any_amount(self) -> None:
        for carried, expected in ((LARGEST, CARRIED_MAX), (-LARGEST * 2, -LARGEST)):
            budget = balance("9999999999999.99", policy=OverspendPolicy.WARN, carried=carried)
            assert (
                domain.rollovers.carried_forward(
                    budget, rollover=Rollover.FULL, cap=None, carry_overspend=True, moved_holds=Decimal(0),
                    next_amount=budget.amount,
                )
                == expected
            )  # fmt: skip
        assert Decimal("9999999999999.99") + CARRIED_MAX <= LARGEST

    @pytest.mark.parametrize("policy", OverspendPolicy)
    def test_no_policy_and_no_approval_allow_more_than_can_be_stored(self, policy: OverspendPolicy) -> None:
        chain = [balance("9000000000000", LARGEST - 1, policy=policy, tolerance_bp=10_000, carried=CARRIED_MAX)]
        refusal = BudgetExceeded if policy is OverspendPolicy.BLOCK else UsedTooLarge
        with pytest.raises(refusal):
            domain.balances.decide(chain, EntryType.CHARGE, Movement(spent=Decimal(2)), NOW, approved=True)
