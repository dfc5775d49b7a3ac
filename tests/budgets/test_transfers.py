"""Transfers between budgets: atomic, across currencies, never more than the source can give."""

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
    async def test_target_receives_what_the_source_loses(self, api: BudgetsApi) -> None:
        cloud, travel = await api.open("1000", name="Cloud"), await api.open("200", name="Travel")
        await api.charge(cloud, "300")
        done = await transfer(api, cloud, travel, eur("250.50"), reason="Fair in May")
        assert (done.source.amount, done.target.amount) == (eur("749.50"), eur("450.50"))
        assert (done.amount, done.target_amount, done.rate, done.rate_date) == (eur("250.50"), eur("250.50"), "", "")
        assert (await api.get(cloud), await api.get(travel)) == (done.source, done.target)
        (outgoing, *_), (incoming,) = await api.entries(cloud), await api.entries(travel)
        assert (outgoing.id, incoming.id) == (done.source_entry_id, done.target_entry_id)
        assert (outgoing.entry_type, incoming.entry_type) == (Entry.TRANSFER_OUT, Entry.TRANSFER_IN)
        assert (outgoing.counterpart_budget_id, incoming.counterpart_budget_id) == (travel.id, cloud.id)
        assert (outgoing.amount, outgoing.budget_amount_after, outgoing.description) == (
            eur("250.50"),
            eur("749.50"),
            "Fair in May",
        )
        assert (incoming.amount, incoming.budget_amount_after) == (eur("250.50"), eur("450.50"))
        of_cloud, of_travel = await api.verify(cloud, travel)
        assert of_cloud.budget_amount_by_ledger == eur("749.50")
        assert of_travel.budget_amount_by_ledger == eur("450.50")

    async def test_parent_does_not_change(self, api: BudgetsApi) -> None:
        group = await api.open("1000")
        one, other = await api.open("400", parent_id=group.id), await api.open("400", parent_id=group.id)
        await transfer(api, one, other, eur("100"))
        assert await api.get(group) == group
        await transfer(api, one, group, eur("100"))
        assert (await api.get(group)).amount == eur("1100.00")
        await api.verify(group, one, other)

    async def test_amount_is_converted_at_the_rate_of_today(self, api: BudgetsApi) -> None:
        today = clock.now().date().isoformat()
        await api.set_rates(f"{today} EUR/USD 1.25")
        cloud, travel = await api.open("1000"), await api.open(amount=usd("100"))
        done = await transfer(api, cloud, travel, eur("10.01"))
        assert (done.amount, done.target_amount) == (eur("10.01"), usd("12.51"))
        assert (done.rate, done.rate_date) == ("1.25", today)
        assert (done.source.amount, done.target.amount) == (eur("989.99"), usd("112.51"))
        (incoming,) = await api.entries(travel)
        assert (incoming.original_amount, incoming.rate, incoming.rate_date) == (eur("10.01"), "1.25", today)
        await api.verify(cloud, travel)

    async def test_amount_is_converted_at_the_given_rate(self, api: BudgetsApi) -> None:
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
    async def test_invalid_input_is_rejected_with_its_field(
        self, api: BudgetsApi, given: dict[str, Any], field: str
    ) -> None:
        one, other = await api.open(), await api.open()
        request = {"id": one.id, "to_budget_id": other.id, "amount": eur("1"), "request_id": "k", **given}
        error = await refusal(api.who.call(api.stubs.budgets.TransferBudget, pb.TransferBudgetRequest(**request)))
        assert (error.reason, set(error.fields)) == ("INVALID_FIELDS", {field})

    async def test_transfer_to_itself_is_rejected(self, api: BudgetsApi) -> None:
        budget = await api.open()
        assert set((await refusal(transfer(api, budget, budget, eur("1")))).fields) == {"to_budget_id"}

    async def test_amount_must_be_in_the_currency_of_the_source(self, api: BudgetsApi) -> None:
        one, other = await api.open(), await api.open()
        assert (await refusal(transfer(api, one, other, usd("1")))).reason == "CURRENCY_MISMATCH"

    async def test_amount_beyond_the_digits_of_the_target_is_rejected(self, api: BudgetsApi) -> None:
        one, other = await api.open("1000"), await api.open(amount=usd("9999999999999.00"))
        error = await refusal(transfer(api, one, other, eur("1"), rate="1"))
        assert set(error.fields) == {"amount.amount"}

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
    async def test_source_keeps_enough_for_what_is_used(
        self, api: BudgetsApi, policy: Any, spent: str, most: str
    ) -> None:
        one = await api.open("100", overspend_policy=policy, tolerance_bp=2000)
        other = await api.open("100")
        if spent != "0":
            await api.charge(one, "20")
            await api.hold(one, "40")
        error = await refusal(transfer(api, one, other, eur(str(Decimal(most) + Decimal("0.01")))))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TRANSFER_EXCEEDS_BUDGET")
        assert error.metadata["transferable"] == most
        await transfer(api, one, other, eur(most))
        await api.verify(one, other)

    async def test_closed_budgets_cannot_transfer_and_drafts_can(self, api: BudgetsApi) -> None:
        active, draft, closed = await api.open(), await api.open(draft=True), await api.open()
        await api.close(closed)
        assert (await refusal(transfer(api, active, closed, eur("1")))).reason == "BUDGET_STATE"
        assert (await refusal(transfer(api, closed, active, eur("1")))).reason == "BUDGET_STATE"
        assert (await transfer(api, draft, active, eur("1"))).target.amount == eur("1001.00")

    async def test_both_budgets_must_be_visible(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        mine = await api.company("MINE")
        one, other = await api.open(entity_id=mine), await api.open()
        for stranger in (caller("finance", entity_scope=[mine]), caller("finance", tenant=uuid4())):
            for source, target in ((one, other), (other, one)):
                error = await refusal(transfer(api_for(stranger), source, target, eur("1")))
                assert error.reason == "BUDGET_NOT_FOUND"

    async def test_alerts_of_both_budgets_are_settled(self, api: BudgetsApi) -> None:
        one = await api.open("100", alert_thresholds_bp=[8000])
        other = await api.open("100", alert_thresholds_bp=[8000])
        await api.charge(one, "60")
        await api.charge(other, "90")
        await transfer(api, one, other, eur("30"))
        assert [a.state for a in await api.alerts(one)] == [Alert.OPEN]
        assert [a.state for a in await api.alerts(other)] == [Alert.RESOLVED]

    async def test_repeated_key_transfers_once(self, api: BudgetsApi) -> None:
        one, other = await api.open("100"), await api.open("100")
        assert await transfer(api, one, other, eur("10"), "k") == await transfer(api, one, other, eur("10"), "k")
        assert (await refusal(transfer(api, one, other, eur("20"), "k"))).reason == "IDEMPOTENCY_MISMATCH"
        assert (await api.get(one)).amount == eur("90.00")

    async def test_opposite_transfers_do_not_deadlock(self, api: BudgetsApi) -> None:
        one, other = await api.open("1000"), await api.open("1000")

        async def succeed(call: Callable[[str], Awaitable[object]]) -> None:
            """Repeat the call with the same key while it is aborted by concurrent ones."""
            key = uuid4().hex
            while True:
                try:
                    await call(key)
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.ABORTED, error
                else:
                    return

        pairs = [(one, other), (other, one)] * 10
        back_and_forth = [succeed(partial(transfer, api, source, target, eur("1"))) for source, target in pairs]
        charges = [succeed(partial(api.charge, one, "1")) for _ in range(20)]
        await asyncio.gather(*back_and_forth, *charges)
        budgets = [await api.get(budget) for budget in (one, other)]
        assert [budget.amount for budget in budgets] == [eur("1000.00")] * 2
        assert budgets[0].spent == eur("20.00")
        await api.verify(one, other)

    async def test_concurrent_transfers_and_charges_never_exceed_the_source(self, api: BudgetsApi) -> None:
        one, other = await api.open("100"), await api.open("100")

        async def attempt(call: Awaitable[object]) -> bool:
            try:
                await call
            except grpc.aio.AioRpcError:
                return False
            return True

        succeeded = await asyncio.gather(
            *(attempt(transfer(api, one, other, eur("30"))) for _ in range(4)),
            *(attempt(api.charge(one, "30")) for _ in range(4)),
        )
        left = await api.get(one)
        assert 0 < sum(succeeded) <= 3
        assert Decimal(left.available.amount) == 100 - 30 * sum(succeeded)
        await api.verify(one, other)


class TestValidateOnly:
    async def test_dry_run_returns_the_result_and_stores_nothing(self, api: BudgetsApi, outbox_events: Any) -> None:
        one = await api.open("100", alert_thresholds_bp=[5000])
        other = await api.open("100")
        await api.charge(one, "40")
        before = await api.get(one), await api.get(other)
        preview = await transfer(api, one, other, eur("30"), "k", validate_only=True)
        assert (preview.source.amount, preview.target.amount) == (eur("70.00"), eur("130.00"))
        assert (preview.source_entry_id, preview.target_entry_id) == ("", "")
        assert (await api.get(one), await api.get(other)) == before
        assert await api.alerts(one) == []
        assert await api.entries(other) == []
        assert await outbox_events("budgets") == []
        done = await transfer(api, one, other, eur("30"), "k")
        assert done.source.amount == eur("70.00")

    async def test_dry_run_raises_the_same_errors(self, api: BudgetsApi) -> None:
        one, other = await api.open("100"), await api.open("100")
        error = await refusal(transfer(api, one, other, eur("100"), validate_only=True))
        assert error.reason == "TRANSFER_EXCEEDS_BUDGET"


class TestReason:
    async def test_reason_of_a_new_amount_is_recorded(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        await api.update(budget, amount=eur("120"), reason="More servers")
        (entry,) = await api.entries(budget)
        assert (entry.entry_type, entry.description) == (Entry.ADJUST, "More servers")
