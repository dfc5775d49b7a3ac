"""Batches: each charge with its own key and result, or all or none of them."""

import asyncio
from collections.abc import Callable
from uuid import uuid4

import grpc
import pytest
from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.charge_pb2 import Charge
from billing.type.v1.money_pb2 import Money

from tests.budgets.budgets_api import BudgetsApi, eur, line, numbers
from tests.harness.callers import Caller, refusal
from tests.harness.services import Budgets


def results(response: pb.BatchChargeResponse) -> list[str]:
    """Return the result of each charge: "accepted", "replayed" or the reason of the refusal."""
    return [
        result.refusal.reason or ("replayed" if result.replayed else "accepted" if result.HasField("charge") else "")
        for result in response.results
    ]


class TestBatchCharge:
    async def test_each_charge_has_its_own_result_in_order(self, api: BudgetsApi) -> None:
        first, second = await api.open("100", name="First"), await api.open("100", name="Second")
        draft = await api.open(draft=True)
        response = await api.batch(
            line(first, "60", "k1"),
            line(second, "60", "k2", reference="PO-2"),
            line(first, "40.01", "k3"),
            line(draft, "1", "k4"),
            line(Budget(id="bud_" + uuid4().hex), "1", "k5"),
            line(first, "40", "k6"),
        )
        assert results(response) == [
            "accepted",
            "accepted",
            "BUDGET_EXCEEDED",
            "BUDGET_STATE",
            "BUDGET_NOT_FOUND",
            "accepted",
        ]
        assert (response.accepted_count, response.refused_count) == (3, 3)
        assert [(r.charge.request_id, r.charge.budget_id) for r in response.results if r.HasField("charge")] == [
            ("k1", first.id),
            ("k2", second.id),
            ("k6", first.id),
        ]
        refused = response.results[2].refusal
        assert (refused.code, refused.metadata["available"]) == ("FAILED_PRECONDITION", "40.00")
        assert "exceeds it by 0.01 EUR" in refused.message
        assert [numbers(await api.get(budget))[0] for budget in (first, second)] == ["100.00", "60.00"]
        await api.verify(first, second, draft)

    async def test_a_hundred_invalid_ids_are_refused_with_as_many_violations_as_fit(
        self, budgets: Budgets, finance: Caller
    ) -> None:
        lines = [pb.ChargeRequest(id="bad", amount=eur("1"), request_id=f"k{n}") for n in range(100)]
        error = await refusal(finance.call(budgets.ledger.BatchCharge, pb.BatchChargeRequest(charges=lines)))
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
        assert list(error.fields) == [f"charges[{n}].id" for n in range(len(error.fields))]
        assert (20 <= len(error.fields) <= 50, error.metadata) == (True, {"truncated": "true"})
        assert error.message.startswith("Invalid request, with more violations than the 50 listed: charges[0].id: must")
        assert len(error.message) <= 1_000

    async def test_a_thousand_charges_are_decided_in_order(self, api: BudgetsApi) -> None:
        group = await api.open("700", name="Group")
        teams = [await api.open("100", name=f"Team {n}", parent_id=group.id) for n in range(10)]
        response = await api.batch(*(line(teams[n % 10], "1", f"k{n}") for n in range(1000)))
        assert results(response) == ["accepted"] * 700 + ["BUDGET_EXCEEDED"] * 300
        assert {r.refusal.metadata["budget_id"] for r in response.results[700:]} == {group.id}
        assert [r.charge.chain[1].available_after.amount for r in response.results[:3]] == [
            "699.00",
            "698.00",
            "697.00",
        ]
        (verification, *_) = await api.verify(group, *teams)
        assert (verification.spent.amount, verification.entry_count) == ("700.00", 700)

    async def test_more_than_a_thousand_or_none_are_refused(self, api: BudgetsApi) -> None:
        budget = await api.open()
        for lines in ([], [line(budget, "1")] * 1001):
            refused = await refusal(api.batch(*lines))
            assert (refused.code, set(refused.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {"charges"})

    async def test_each_charge_is_validated_like_a_single_one(self, api: BudgetsApi) -> None:
        budget = await api.open()
        without_key = pb.ChargeRequest(id=budget.id, amount=eur("1"))
        refused = await refusal(api.batch(line(budget, "1"), without_key, line(budget, "1.001")))
        assert set(refused.fields) == {"charges[1].request_id", "charges[2].amount.amount"}
        assert (await api.get(budget)).spent.amount == "0.00"


class TestKeys:
    async def test_a_repeated_batch_returns_the_same_charges(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        lines = [line(budget, "30", f"k{n}") for n in range(4)]
        first = await api.batch(*lines)
        assert results(first) == ["accepted", "accepted", "accepted", "BUDGET_EXCEEDED"]
        repeated = await api.batch(*lines)
        assert results(repeated) == ["replayed", "replayed", "replayed", "BUDGET_EXCEEDED"]
        assert [r.charge for r in repeated.results] == [r.charge for r in first.results]
        assert (repeated.accepted_count, repeated.refused_count) == (3, 1)
        assert (await api.get(budget)).spent.amount == "90.00"

    async def test_one_key_twice_in_a_batch_is_charged_once(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        response = await api.batch(line(budget, "30", "k"), line(budget, "30", "k"), line(budget, "31", "k"))
        assert results(response) == ["accepted", "replayed", "IDEMPOTENCY_MISMATCH"]
        assert response.results[0].charge == response.results[1].charge
        assert (await api.get(budget)).spent.amount == "30.00"

    async def test_batches_and_single_charges_share_their_keys(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        (in_batch,) = (await api.batch(line(budget, "30", "k1"))).results
        assert await api.charge(budget, "30", "k1") == in_batch.charge
        assert (await refusal(api.charge(budget, "31", "k1"))).reason == "IDEMPOTENCY_MISMATCH"
        assert await api.who.call(api.stubs.ledger.GetCharge, pb.GetChargeRequest(request_id="k1")) == in_batch.charge
        single = await api.charge(budget, "20", "k2")
        response = await api.batch(line(budget, "20", "k2"), atomic=True)
        assert (results(response), response.results[0].charge) == (["replayed"], single)
        assert (await api.get(budget)).spent.amount == "50.00"


class TestAtomic:
    async def test_all_charges_are_accepted(self, api: BudgetsApi) -> None:
        first, second = await api.open("100"), await api.open("100")
        response = await api.batch(line(first, "100"), line(second, "100"), atomic=True)
        assert (results(response), response.accepted_count) == (["accepted", "accepted"], 2)

    async def test_one_refused_charge_rejects_the_whole_batch(self, api: BudgetsApi) -> None:
        first = await api.open("100", alert_thresholds_bp=[1000])
        second = await api.open("100")
        await api.charge(first, "5")
        lines = [line(first, "50", "k1"), line(second, "100.01", "k2"), line(first, "1", "k3")]
        refused = await refusal(api.batch(*lines, atomic=True))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BATCH_REFUSED")
        assert (refused.metadata["line"], refused.metadata["line_reason"]) == ("charges[1]", "BUDGET_EXCEEDED")
        assert (refused.metadata["budget_id"], refused.metadata["short"]) == (second.id, "0.01")
        assert [each.entry_count for each in await api.verify(first, second)] == [1, 0]
        assert await api.alerts(first) == []
        for key in ("k1", "k2", "k3"):
            missing = refusal(api.who.call(api.stubs.ledger.GetCharge, pb.GetChargeRequest(request_id=key)))
            assert (await missing).reason == "CHARGE_NOT_FOUND"
        # The keys of a refused batch can be used again.
        assert results(await api.batch(*lines)) == ["accepted", "BUDGET_EXCEEDED", "accepted"]

    async def test_a_refused_atomic_batch_does_not_reduce_what_concurrent_charges_can_spend(
        self, api: BudgetsApi
    ) -> None:
        budget = await api.open("100", alert_thresholds_bp=[5000])
        too_much = [line(budget, "60"), line(budget, "60")]

        async def attempt(n: int) -> Charge | None:
            if n % 2:
                assert (await refusal(api.batch(*too_much, atomic=True))).reason == "BATCH_REFUSED"
                return None
            return await api.charge(budget, "10")

        outcomes = await asyncio.gather(*(attempt(n) for n in range(20)))
        assert sum(outcome is not None for outcome in outcomes) == 10
        (verification,) = await api.verify(budget)
        assert (verification.spent.amount, verification.entry_count, len(await api.alerts(budget))) == ("100.00", 10, 1)

    async def test_a_repeated_atomic_batch_returns_the_same_charges(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        lines = [line(budget, "50", "k1"), line(budget, "50", "k2")]
        first = await api.batch(*lines, atomic=True)
        repeated = await api.batch(*lines, atomic=True)
        assert results(repeated) == ["replayed", "replayed"]
        assert [r.charge for r in repeated.results] == [r.charge for r in first.results]


class TestCurrencies:
    @pytest.fixture(autouse=True)
    async def rates(self, api: BudgetsApi) -> None:
        await api.set_rates("USD/EUR 0.9")

    async def test_charges_in_several_currencies_are_decided_in_order(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        response = await api.batch(
            line(budget, Money(currency_code="USD", amount="100")), line(budget, "10.01"), line(budget, "10")
        )
        assert results(response) == ["accepted", "BUDGET_EXCEEDED", "accepted"]
        assert [r.charge.amount.amount for r in response.results] == ["90.00", "", "10.00"]
        assert response.results[0].charge.original_amount.amount == "100.00"

    async def test_budgets_in_several_currencies_are_charged_in_one_batch(self, api: BudgetsApi) -> None:
        dollars = Money(currency_code="USD", amount="10")
        ours, theirs = await api.open(), await api.open(amount=Money(currency_code="USD", amount="100"))
        response = await api.batch(line(theirs, dollars), line(ours, dollars))
        assert results(response) == ["accepted", "accepted"]
        assert [(r.charge.amount.amount, r.charge.rate) for r in response.results] == [("10.00", ""), ("9.00", "0.9")]

    async def test_a_charge_without_a_rate_is_refused_alone_or_with_its_batch(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        lines = [line(budget, "10", "k1"), line(budget, Money(currency_code="JPY", amount="10"), "k2")]
        refused = await refusal(api.batch(*lines, atomic=True))
        assert (refused.reason, refused.metadata["line_reason"]) == ("BATCH_REFUSED", "RATE_MISSING")
        assert (refused.metadata["line"], refused.metadata["from_currency_code"]) == ("charges[1]", "JPY")
        assert (await api.get(budget)).spent.amount == "0.00"
        assert results(await api.batch(*lines)) == ["accepted", "RATE_MISSING"]


class TestAccess:
    async def test_a_charge_outside_the_scope_is_refused_alone(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        mine, other = await api.company("MINE"), await api.company("OTHER")
        own, theirs = await api.open(entity_id=mine), await api.open(entity_id=other)
        manager = api_for(caller("department_manager", entity_scope=[mine]))
        assert results(await manager.batch(line(own, "1"), line(theirs, "1"))) == ["accepted", "BUDGET_NOT_FOUND"]
        stranger = api_for(caller(tenant=uuid4()))
        assert results(await stranger.batch(line(own, "1"), line(theirs, "1"))) == ["BUDGET_NOT_FOUND"] * 2
        assert (await api.get(theirs)).spent.amount == "0.00"
