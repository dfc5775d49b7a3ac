"""Amounts that go from one budget to another: both or none, in two currencies, and never more than can be spared."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import uuid4

import grpc
import pytest
from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1.alert_pb2 import Alert
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.entry_pb2 import Entry
from billing.budgets.v1.rollover_pb2 import Transfer
from billing.type.v1.money_pb2 import Money

from kit import clock
from tests.budgets.budgets_api import BudgetsApi, eur
from tests.harness.callers import Caller, refusal


def usd(amount: str) -> Money:
    return Money(currency_code="USD", amount=amount)


async def transfer(
    api: BudgetsApi, source: Budget, target: Budget, amount: Money, key: str = "", **given: Any
) -> Transfer:
    request = pb.TransferBudgetRequest(
        id=source.id, to_budget_id=target.id, amount=amount, request_id=key or uuid4().hex, **given
    )
    return await api.who.call(api.stubs.budgets.TransferBudget, request)


class TestTransferBudget:
    async def test_one_gives_what_the_other_gets(self, api: BudgetsApi) -> None:
        cloud, travel = await api.open("1000", name="Cloud"), await api.open("200", name="Travel")
        await api.charge(cloud, "300")
        done = await transfer(api, cloud, travel, eur("250.50"), reason="Fair in May")
        assert (done.source.amount, done.target.amount) == (eur("749.50"), eur("450.50"))
        assert (done.amount, done.target_amount, done.rate, done.rate_date) == (eur("250.50"), eur("250.50"), "", "")
        assert (await api.get(cloud), await api.get(travel)) == (done.source, done.target)
        (out, *_), (came,) = await api.entries(cloud), await api.entries(travel)
        assert (out.id, came.id) == (done.source_entry_id, done.target_entry_id)
        assert (out.entry_type, came.entry_type) == (Entry.TRANSFER_OUT, Entry.TRANSFER_IN)
        assert (out.counterpart_budget_id, came.counterpart_budget_id) == (travel.id, cloud.id)
        assert (out.amount, out.budget_amount_after, out.description) == (eur("250.50"), eur("749.50"), "Fair in May")
        assert (came.amount, came.budget_amount_after) == (eur("250.50"), eur("450.50"))
        of_cloud, of_travel = await api.verify(cloud, travel)
        assert of_cloud.budget_amount_by_ledger == eur("749.50")
        assert of_travel.budget_amount_by_ledger == eur("450.50")

    async def test_a_budget_above_is_not_touched(self, api: BudgetsApi) -> None:
        group = await api.open("1000")
        one, other = await api.open("400", parent_id=group.id), await api.open("400", parent_id=group.id)
        await transfer(api, one, other, eur("100"))
        assert await api.get(group) == group
        await transfer(api, one, group, eur("100"))
        assert (await api.get(group)).amount == eur("1100.00")
        await api.verify(group, one, other)

    async def test_in_two_currencies_it_is_converted_at_the_rate_of_today(self, api: BudgetsApi) -> None:
        today = clock.now().date().isoformat()
        await api.set_rates(f"{today} EUR/USD 1.25")
        cloud, travel = await api.open("1000"), await api.open(amount=usd("100"))
        done = await transfer(api, cloud, travel, eur("10.01"))
        assert (done.amount, done.target_amount) == (eur("10.01"), usd("12.51"))
        assert (done.rate, done.rate_date) == ("1.25", today)
        assert (done.source.amount, done.target.amount) == (eur("989.99"), usd("112.51"))
        (came,) = await api.entries(travel)
        assert (came.original_amount, came.rate, came.rate_date) == (eur("10.01"), "1.25", today)
        await api.verify(cloud, travel)

    async def test_or_at_the_rate_that_was_agreed(self, api: BudgetsApi) -> None:
        cloud, travel = await api.open("1000"), await api.open(amount=usd("100"))
        missing = await refusal(transfer(api, cloud, travel, eur("10")))
        assert (missing.reason, missing.metadata["to_currency_code"]) == ("RATE_MISSING", "USD")
        done = await transfer(api, cloud, travel, eur("10"), rate="1.1")
        assert (done.target_amount, done.rate, done.rate_date) == (
            usd("11.00"),
            "1.1",
            clock.now().date().isoformat(),
        )
        tiny = await refusal(transfer(api, cloud, travel, eur("0.01"), rate="0.1"))
        assert tiny.reason == "AMOUNT_TOO_SMALL"

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"rate": "1.1"}, "rate"),
            ({"rate": "0.0"}, "rate"),
            ({"rate": "-1"}, "rate"),
            ({"amount": eur("0")}, "amount"),
            ({"request_id": ""}, "request_id"),
        ],
    )
    async def test_invalid_input_is_refused_with_its_field(
        self, api: BudgetsApi, given: dict[str, Any], field: str
    ) -> None:
        one, other = await api.open(), await api.open()
        request = {"id": one.id, "to_budget_id": other.id, "amount": eur("1"), "request_id": "k", **given}
        refused = await refusal(api.who.call(api.stubs.budgets.TransferBudget, pb.TransferBudgetRequest(**request)))
        assert (refused.reason, set(refused.fields)) == ("INVALID_FIELDS", {field})

    async def test_a_budget_gives_nothing_to_itself(self, api: BudgetsApi) -> None:
        budget = await api.open()
        assert set((await refusal(transfer(api, budget, budget, eur("1")))).fields) == {"to_budget_id"}

    async def test_the_amount_is_in_the_currency_of_the_one_that_gives(self, api: BudgetsApi) -> None:
        one, other = await api.open(), await api.open()
        assert (await refusal(transfer(api, one, other, usd("1")))).reason == "CURRENCY_MISMATCH"

    async def test_so_much_that_the_other_could_not_hold_it_is_refused(self, api: BudgetsApi) -> None:
        one, other = await api.open("1000"), await api.open(amount=usd("9999999999999.00"))
        refused = await refusal(transfer(api, one, other, eur("1"), rate="1"))
        assert set(refused.fields) == {"amount.amount"}

    @pytest.mark.parametrize(
        ("policy", "spent", "most"),
        [
            (Budget.BLOCK, "0", "99.99"),
            (Budget.BLOCK, "60", "40.00"),
            (Budget.REQUIRE_APPROVAL, "60", "40.00"),
            (Budget.ALLOW_WITHIN_TOLERANCE, "60", "50.00"),
            (Budget.WARN, "60", "99.99"),
        ],
    )
    async def test_something_stays_and_what_is_used_keeps_its_cover(
        self, api: BudgetsApi, policy: Any, spent: str, most: str
    ) -> None:
        one = await api.open("100", overspend_policy=policy, tolerance_bp=2000)
        other = await api.open("100")
        if spent != "0":
            await api.charge(one, "20")
            await api.hold(one, "40")
        refused = await refusal(transfer(api, one, other, eur(str(Decimal(most) + Decimal("0.01")))))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TRANSFER_EXCEEDS_BUDGET")
        assert refused.metadata["transferable"] == most
        await transfer(api, one, other, eur(most))
        await api.verify(one, other)

    async def test_a_closed_budget_neither_gives_nor_gets_and_a_draft_does(self, api: BudgetsApi) -> None:
        active, draft, closed = await api.open(), await api.open(draft=True), await api.open()
        await api.close(closed)
        assert (await refusal(transfer(api, active, closed, eur("1")))).reason == "BUDGET_STATE"
        assert (await refusal(transfer(api, closed, active, eur("1")))).reason == "BUDGET_STATE"
        assert (await transfer(api, draft, active, eur("1"))).target.amount == eur("1001.00")

    async def test_whoever_may_not_see_one_of_them_moves_nothing(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        mine = await api.company("MINE")
        one, other = await api.open(entity_id=mine), await api.open()
        for stranger in (caller("finance", entity_scope=[mine]), caller("finance", tenant=uuid4())):
            for source, target in ((one, other), (other, one)):
                refused = await refusal(transfer(api_for(stranger), source, target, eur("1")))
                assert refused.reason == "BUDGET_NOT_FOUND"

    async def test_alerts_follow_on_both_sides(self, api: BudgetsApi) -> None:
        one = await api.open("100", alert_thresholds_bp=[8000])
        other = await api.open("100", alert_thresholds_bp=[8000])
        await api.charge(one, "60")
        await api.charge(other, "90")
        await transfer(api, one, other, eur("30"))
        assert [a.state for a in await api.alerts(one)] == [Alert.OPEN]
        assert [a.state for a in await api.alerts(other)] == [Alert.RESOLVED]

    async def test_the_same_key_is_done_once(self, api: BudgetsApi) -> None:
        one, other = await api.open("100"), await api.open("100")
        assert await transfer(api, one, other, eur("10"), "k") == await transfer(api, one, other, eur("10"), "k")
        assert (await refusal(transfer(api, one, other, eur("20"), "k"))).reason == "IDEMPOTENCY_MISMATCH"
        assert (await api.get(one)).amount == eur("90.00")

    async def test_both_ways_at_once_nothing_is_lost_and_nobody_waits_for_ever(self, api: BudgetsApi) -> None:
        one, other = await api.open("1000"), await api.open("1000")

        async def done(attempt: Callable[[str], Awaitable[object]]) -> None:
            """Again with the same key, as long as others are in the way."""
            key = uuid4().hex
            while True:
                try:
                    await attempt(key)
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.ABORTED, error
                else:
                    return

        pairs = [(one, other), (other, one)] * 10
        back_and_forth = [done(partial(transfer, api, source, target, eur("1"))) for source, target in pairs]
        charges = [done(partial(api.charge, one, "1")) for _ in range(20)]
        await asyncio.gather(*back_and_forth, *charges)
        left = [await api.get(budget) for budget in (one, other)]
        assert [budget.amount for budget in left] == [eur("1000.00")] * 2
        assert left[0].spent == eur("20.00")
        await api.verify(one, other)

    async def test_together_they_never_take_more_than_there_is(self, api: BudgetsApi) -> None:
        one, other = await api.open("100"), await api.open("100")

        async def tried(wanted: Awaitable[object]) -> bool:
            try:
                await wanted
            except grpc.aio.AioRpcError:
                return False
            return True

        taken = await asyncio.gather(
            *(tried(transfer(api, one, other, eur("30"))) for _ in range(4)),
            *(tried(api.charge(one, "30")) for _ in range(4)),
        )
        left = await api.get(one)
        assert 0 < sum(taken) <= 3
        assert Decimal(left.available.amount) == 100 - 30 * sum(taken)
        await api.verify(one, other)


class TestValidateOnly:
    async def test_it_tells_the_result_and_keeps_nothing(self, api: BudgetsApi, outbox_events: Any) -> None:
        one = await api.open("100", alert_thresholds_bp=[5000])
        other = await api.open("100")
        await api.charge(one, "40")
        before = await api.get(one), await api.get(other)
        seen = await transfer(api, one, other, eur("30"), "k", validate_only=True)
        assert (seen.source.amount, seen.target.amount) == (eur("70.00"), eur("130.00"))
        assert (seen.source_entry_id, seen.target_entry_id) == ("", "")
        assert (await api.get(one), await api.get(other)) == before
        assert await api.alerts(one) == []
        assert await api.entries(other) == []
        assert await outbox_events("budgets") == []
        done = await transfer(api, one, other, eur("30"), "k")
        assert done.source.amount == eur("70.00")

    async def test_it_is_refused_as_the_transfer_would_be(self, api: BudgetsApi) -> None:
        one, other = await api.open("100"), await api.open("100")
        refused = await refusal(transfer(api, one, other, eur("100"), validate_only=True))
        assert refused.reason == "TRANSFER_EXCEEDS_BUDGET"


class TestReason:
    async def test_why_an_amount_changed_stands_in_the_ledger(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        await api.update(budget, amount=eur("120"), reason="More servers")
        (entry,) = await api.entries(budget)
        assert (entry.entry_type, entry.description) == (Entry.ADJUST, "More servers")
