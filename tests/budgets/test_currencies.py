"""Charges in a foreign currency: converted at the rate of their day, which is stored with them."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.charge_pb2 import Availability
from billing.budgets.v1.hold_pb2 import Hold
from billing.type.v1.money_pb2 import Money
from google.protobuf.timestamp_pb2 import Timestamp

from tests.budgets.budgets_api import BudgetsApi, eur, line, numbers
from tests.harness.callers import Caller, refusal
from tests.harness.observe import eventually

PLAN, DAY = "2026-01-01 USD/EUR 0.8", "2026-06-01 USD/EUR 0.9"


def usd(amount: str) -> Money:
    return Money(currency_code="USD", amount=amount)


def at(text: str) -> Timestamp:
    moment = Timestamp()
    moment.FromJsonString(text)
    return moment


JUNE = at("2026-06-01T12:00:00Z")


@pytest.fixture
async def budget(api: BudgetsApi) -> Budget:
    """A budget of 1,000 EUR for 2026, with a rate of 1 January and one of 1 June."""
    await api.set_rates(PLAN, DAY)
    return await api.open("1000", period_start_date="2026-01-01")


class TestCharge:
    async def test_the_amount_is_converted_and_the_original_stored_with_its_rate(
        self, api: BudgetsApi, budget: Budget
    ) -> None:
        charge = await api.charge(budget, usd("100"), charge_time=JUNE)
        assert (charge.amount, charge.original_amount) == (eur("90.00"), usd("100.00"))
        assert (charge.rate, charge.rate_date) == ("0.9", "2026-06-01")
        assert charge.chain[0].available_after == eur("910.00")
        (entry,) = await api.entries(budget)
        assert (entry.amount, entry.original_amount) == (eur("90.00"), usd("100.00"))
        assert (entry.rate, entry.rate_date, entry.fx_effect) == ("0.9", "2026-06-01", eur("10.00"))
        await api.verify(budget)

    async def test_a_charge_in_the_budgets_currency_has_no_rate(self, api: BudgetsApi, budget: Budget) -> None:
        await api.charge(budget, usd("1"), charge_time=JUNE)
        charge = await api.charge(budget, "100", charge_time=JUNE)
        assert (charge.rate, charge.rate_date, charge.HasField("original_amount")) == ("", "", False)
        entry, _ = await api.entries(budget)
        assert not entry.HasField("fx_effect")

    async def test_a_foreign_charge_counts_in_the_budgets_currency_on_the_whole_chain(
        self, api: BudgetsApi, budget: Budget
    ) -> None:
        team = await api.open("1000", period_start_date="2026-01-01", parent_id=budget.id)
        await api.charge(budget, "910.01", charge_time=JUNE)
        refused = await refusal(api.charge(team, usd("100"), charge_time=JUNE))
        assert (refused.reason, refused.metadata["budget_id"]) == ("BUDGET_EXCEEDED", budget.id)
        assert (refused.metadata["requested"], refused.metadata["currency_code"]) == ("90.00", "EUR")

    async def test_the_day_is_that_of_the_budgets_time_zone(self, api: BudgetsApi) -> None:
        await api.set_rates(PLAN, DAY, "2026-06-02 USD/EUR 0.5")
        budget = await api.open(period_start_date="2026-01-01", time_zone="Pacific/Auckland")
        early, late = at("2026-06-01T11:59:59Z"), at("2026-06-01T12:00:00Z")
        charges = [await api.charge(budget, usd("10"), charge_time=moment) for moment in (early, late)]
        assert [(c.amount.amount, c.rate_date) for c in charges] == [("9.00", "2026-06-01"), ("5.00", "2026-06-02")]

    async def test_fx_effect_is_unset_if_the_rate_of_the_first_day_is_unknown(self, api: BudgetsApi) -> None:
        await api.set_rates(DAY)
        budget = await api.open(period_start_date="2026-01-01")
        await api.charge(budget, usd("10"), charge_time=JUNE)
        (entry,) = await api.entries(budget)
        assert entry.rate == "0.9"
        assert not entry.HasField("fx_effect")

    async def test_a_missing_rate_is_named_with_its_day(self, api: BudgetsApi, budget: Budget) -> None:
        yen = Money(currency_code="JPY", amount="1000")
        for act in (api.charge(budget, yen, charge_time=JUNE), api.charge(budget, yen, charge_time=JUNE)):
            refused = await refusal(act)
            assert (refused.reason, refused.metadata) == (
                "RATE_MISSING",
                {"from_currency_code": "JPY", "to_currency_code": "EUR", "rate_date": "2026-06-01"},
            )
        assert (await api.get(budget)).spent.amount == "0.00"
        await api.set_rates("2026-05-31 EUR/JPY 160")
        assert (await api.charge(budget, yen, charge_time=JUNE)).amount == eur("6.25")

    async def test_an_amount_below_the_smallest_unit_is_refused(self, api: BudgetsApi, budget: Budget) -> None:
        await api.set_rates("2026-06-01 JPY/EUR 0.005")
        yen = Money(currency_code="JPY", amount="1")
        refused = await refusal(api.charge(budget, yen, charge_time=JUNE))
        assert refused.reason == "AMOUNT_TOO_SMALL"
        assert (refused.metadata["given"], refused.metadata["currency_code"]) == ("JPY", "EUR")

    async def test_concurrent_first_charges_in_a_foreign_currency_are_all_converted(
        self, api: BudgetsApi, budget: Budget
    ) -> None:
        charges = await asyncio.gather(*(api.charge(budget, usd("10"), charge_time=JUNE) for _ in range(20)))
        assert {charge.amount.amount for charge in charges} == {"9.00"}
        assert (await api.get(budget)).spent.amount == "180.00"

    async def test_each_tenant_has_its_own_rates(
        self, api: BudgetsApi, budget: Budget, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        await api.charge(budget, usd("10"), charge_time=JUNE)
        other = api_for(caller(tenant=uuid4()))
        theirs = await other.open(period_start_date="2026-01-01")
        assert (await refusal(other.charge(theirs, usd("10"), charge_time=JUNE))).reason == "RATE_MISSING"


class TestChangedRates:
    async def change_rates(self, api: BudgetsApi, budget: Budget, *rates: str, expected: str) -> None:
        """Set rates, and wait until 10 USD are converted to the expected amount."""
        await api.set_rates(*rates)

        async def in_use() -> bool:
            request = pb.CheckAvailabilityRequest(id=budget.id, amount=eur("1"), charge_time=JUNE)
            request.lines.add(amount=usd("10"))
            availability = await api.who.call(api.stubs.ledger.CheckAvailability, request)
            return bool(availability.lines[0].amount.amount == expected)

        await eventually(in_use)

    async def test_a_replaced_rate_applies_to_later_charges(self, api: BudgetsApi, budget: Budget) -> None:
        before = await api.charge(budget, usd("10"), "k", charge_time=JUNE)
        await self.change_rates(api, budget, "2026-06-01 USD/EUR 0.7", expected="7.00")
        assert (await api.charge(budget, usd("10"), charge_time=JUNE)).amount == eur("7.00")
        assert await api.charge(budget, usd("10"), "k", charge_time=JUNE) == before
        assert (await api.batch(line(budget, usd("10"), "k", charge_time=JUNE))).results[0].charge == before
        assert [e.rate for e in await api.entries(budget)] == ["0.7", "0.9"]

    async def test_a_repeated_key_returns_its_charge_after_its_rate_is_gone(
        self, api: BudgetsApi, budget: Budget
    ) -> None:
        before = await api.charge(budget, usd("0.01"), "k", charge_time=JUNE)
        await self.change_rates(api, budget, "2026-06-01 USD/EUR 0.1", expected="1.00")
        assert (await refusal(api.charge(budget, usd("0.01"), charge_time=JUNE))).reason == "AMOUNT_TOO_SMALL"
        assert await api.charge(budget, usd("0.01"), "k", charge_time=JUNE) == before
        assert (await refusal(api.charge(budget, usd("0.02"), "k", charge_time=JUNE))).reason == "IDEMPOTENCY_MISMATCH"
        response = await api.batch(line(budget, usd("0.01"), "k", charge_time=JUNE), atomic=True)
        assert (response.results[0].charge, response.results[0].replayed) == (before, True)


class TestHolds:
    async def test_a_hold_is_converted_and_captured_in_either_currency(self, api: BudgetsApi, budget: Budget) -> None:
        await api.set_rates("USD/EUR 0.9")
        current = await api.open("1000")
        hold = await api.hold(current, usd("100"))
        assert (hold.amount, hold.original_amount, hold.rate) == (eur("90.00"), usd("100.00"), "0.9")
        assert hold.rate_date
        assert await api.get_hold(hold) == hold
        assert (await api.capture(hold, usd("50"))).captured == eur("45.00")
        assert (await api.capture(hold, "40")).open == eur("5.00")
        exceeded = await refusal(api.capture(hold, usd("5.60")))
        assert (exceeded.metadata["requested"], exceeded.metadata["available"]) == ("5.60", "5.56")
        entry = (await api.entries(current))[1]
        assert (entry.original_amount, entry.rate, entry.amount) == (usd("50.00"), "0.9", eur("45.00"))
        assert numbers(await api.get(current))[:4] == ("85.00", "5.00", "0.00", "85.00")
        await api.verify(current)

    async def test_a_hold_is_released_in_its_own_currency_only(self, api: BudgetsApi, budget: Budget) -> None:
        hold = await api.hold(await api.open(), "10")
        refused = await refusal(api.release(hold, usd("1")))
        assert (refused.reason, refused.metadata["given"]) == ("CURRENCY_MISMATCH", "USD")
        assert (await api.get_hold(hold)).state == Hold.HELD


class TestCheckAvailability:
    async def check(self, api: BudgetsApi, budget: Budget, amount: Money, **given: Any) -> Availability:
        request = pb.CheckAvailabilityRequest(id=budget.id, amount=amount, charge_time=JUNE, **given)
        return await api.who.call(api.stubs.ledger.CheckAvailability, request)

    async def test_availability_is_checked_in_any_currency(self, api: BudgetsApi, budget: Budget) -> None:
        fits, too_much = await self.check(api, budget, usd("1111.11")), await self.check(api, budget, usd("1111.12"))
        assert (fits.verdict, fits.chain[0].available_after) == (Availability.AVAILABLE, eur("0.00"))
        assert (too_much.verdict, too_much.chain[0].available_after) == (Availability.EXCEEDED, eur("-0.01"))
        lines = [pb.CheckLine(amount=usd("10")), pb.CheckLine(amount=eur("1"))]
        availability = await self.check(api, budget, usd("1100"), lines=lines)
        assert [(line.amount, line.verdict) for line in availability.lines] == [
            (eur("9.00"), Availability.AVAILABLE),
            (eur("1.00"), Availability.AVAILABLE),
        ]

    async def test_an_amount_without_a_rate_is_refused_like_a_charge(self, api: BudgetsApi, budget: Budget) -> None:
        refused = await refusal(self.check(api, budget, Money(currency_code="JPY", amount="1")))
        assert (refused.reason, refused.metadata["rate_date"]) == ("RATE_MISSING", "2026-06-01")
        await api.set_rates("2026-06-01 JPY/EUR 0.001")
        refused = await refusal(self.check(api, budget, Money(currency_code="JPY", amount="1")))
        assert refused.reason == "AMOUNT_TOO_SMALL"
