"""Holds in a foreign currency: the original amount is held, and captured at any later rate."""

from datetime import UTC, datetime

import pytest
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.hold_pb2 import Hold
from billing.type.v1.money_pb2 import Money
from google.protobuf.timestamp_pb2 import Timestamp

from tests.budgets.budgets_api import BudgetsApi, eur, numbers
from tests.harness.callers import refusal

YEAR = datetime.now(UTC).year


def usd(amount: str) -> Money:
    return Money(currency_code="USD", amount=amount)


def noon(day: str) -> Timestamp:
    moment = Timestamp()
    moment.FromJsonString(f"{YEAR}-{day}T12:00:00Z")
    return moment


HIGH, LOW = noon("02-01"), noon("03-01")


@pytest.fixture(autouse=True)
async def rates(api: BudgetsApi) -> None:
    """0.90 today, 0.95 in February, 0.85 in March."""
    await api.set_rates(f"{YEAR}-02-01 USD/EUR 0.95", f"{YEAR}-03-01 USD/EUR 0.85", "USD/EUR 0.90")


class TestCapture:
    async def test_all_of_the_original_at_a_higher_rate_ends_it_and_takes_the_difference_from_the_budget(
        self, api: BudgetsApi
    ) -> None:
        budget = await api.open("1000")
        hold = await api.hold(budget, usd("1000.00"))
        assert (hold.amount, hold.original_open) == (eur("900.00"), usd("1000.00"))
        ended = await api.capture(hold, usd("1000.00"), charge_time=HIGH)
        assert (ended.state, ended.captured, ended.open) == (Hold.CAPTURED, eur("950.00"), eur("0.00"))
        assert (ended.amount, ended.released, ended.original_open) == (eur("950.00"), eur("0.00"), usd("0.00"))
        assert await api.get_hold(hold) == ended
        assert numbers(await api.get(budget)) == ("950.00", "0.00", "0.00", "950.00", "50.00")
        await api.verify(budget)

    async def test_all_of_the_original_at_a_lower_rate_ends_it_and_returns_the_difference_to_the_budget(
        self, api: BudgetsApi
    ) -> None:
        budget = await api.open("1000")
        hold = await api.commit(await api.hold(budget, usd("1000.00")))
        ended = await api.capture(hold, usd("1000.00"), charge_time=LOW)
        assert (ended.state, ended.captured, ended.open) == (Hold.CAPTURED, eur("850.00"), eur("0.00"))
        assert (ended.amount, ended.released, ended.original_open) == (eur("900.00"), eur("50.00"), usd("0.00"))
        assert numbers(await api.get(budget)) == ("850.00", "0.00", "0.00", "850.00", "150.00")
        await api.verify(budget)

    async def test_capture_is_refused_only_if_the_budget_has_no_room_for_the_difference(self, api: BudgetsApi) -> None:
        group = await api.open("949.99")
        budget = await api.open("2000", parent_id=group.id)
        hold = await api.hold(budget, usd("1000.00"))
        refused = await refusal(api.capture(hold, usd("1000.00"), charge_time=HIGH))
        assert (refused.reason, refused.metadata["budget_id"], refused.metadata["short"]) == (
            "BUDGET_EXCEEDED", group.id, "0.01",
        )  # fmt: skip
        assert numbers(await api.get(budget)) == ("0.00", "900.00", "0.00", "0.00", "1100.00")
        assert (await api.capture(hold, usd("999.00"), charge_time=HIGH)).original_open == usd("1.00")
        await api.verify(group, budget)

    async def test_parts_at_several_rates_take_their_share_of_the_hold(self, api: BudgetsApi) -> None:
        budget = await api.open("1000")
        hold = await api.hold(budget, usd("1000.00"))
        part = await api.capture(hold, usd("400.00"), charge_time=HIGH)
        assert (part.captured, part.open, part.original_open) == (eur("380.00"), eur("540.00"), usd("600.00"))
        more = await refusal(api.capture(hold, usd("600.01"), charge_time=LOW))
        assert (more.reason, more.metadata["available"], more.metadata["currency_code"]) == (
            "HOLD_EXCEEDED", "600.00", "USD",
        )  # fmt: skip
        part = await api.capture(hold, "90.00")
        assert (part.captured, part.open, part.original_open) == (eur("470.00"), eur("450.00"), usd("500.00"))
        part = await api.release(hold, usd("100.00"))
        assert (part.released, part.open, part.original_open) == (eur("90.00"), eur("360.00"), usd("400.00"))
        ended = await api.capture(hold, usd("100.00"), charge_time=LOW, release_rest=True)
        assert (ended.state, ended.captured, ended.open) == (Hold.CAPTURED, eur("555.00"), eur("0.00"))
        assert ended.original_open == usd("0.00")
        assert numbers(await api.get(budget)) == ("555.00", "0.00", "0.00", "555.00", "445.00")
        await api.verify(budget)

    async def test_capture_without_an_amount_is_of_the_reserved_amount(self, api: BudgetsApi) -> None:
        budget = await api.open("1000", overspend_policy=Budget.WARN)
        hold = await api.hold(budget, usd("1000.00"))
        ended = await api.capture(hold, charge_time=HIGH)
        assert (ended.captured, ended.original_open) == (eur("900.00"), usd("0.00"))
