"""Splits of allocations, which are reversed."""

import asyncio
from collections.abc import Callable
from decimal import Decimal

import pytest
from billing.entities.v1.allocation_rule_pb2 import AllocationRule, CostSplit
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from grpc import StatusCode, aio

from kit import ids
from tests.entities.rules_api import RulesApi, amounts, even, target, terms
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.services import Entities


@pytest.fixture
def api_for(entities: Entities) -> Callable[[Caller], RulesApi]:
    return lambda caller: RulesApi(caller, entities)


@pytest.fixture
def api(api_for: Callable[[Caller], RulesApi], finance: Caller) -> RulesApi:
    return api_for(finance)


@pytest.fixture
async def it(api: RulesApi, acme: Entity) -> Department:
    return await api.create_department(acme, "IT", gl_code="6000")


@pytest.fixture
async def eng(api: RulesApi, acme: Entity) -> Department:
    return await api.create_department(acme, "ENG", gl_code="6100")


@pytest.fixture
async def sales(api: RulesApi, acme: Entity) -> Department:
    return await api.create_department(acme, "SALES", gl_code="6200")


@pytest.fixture
async def tokyo(api: RulesApi) -> Department:
    """A department of an entity with another currency."""
    return await api.create_department(await api.create_entity("JP", currency_code="JPY", country_code="JP"), "TOKYO")


class TestSplitOfAllocation:
    async def test_allocation_is_reversed_and_split(
        self, api: RulesApi, acme: Entity, it: Department, eng: Department, tokyo: Department
    ) -> None:
        await api.set_rates("2026-03-01 EUR/JPY 160")
        whole = await api.allocate(it, "99.99 EUR", category="cloud", description="AWS", source_ref="aws-3")
        rule = await api.create_rule(
            target(eng, percent=5000),
            target(tokyo, percent=5000),
            rule_type=AllocationRule.FIXED_PERCENT,
            category="cloud",
        )
        split = await api.split(allocation_id=whole.id, rule_id=rule.id)
        assert (amounts(split), split.source_ref) == (["50.00 EUR", "49.99 EUR"], whole.id)
        assert (split.split_allocation_id, split.source_department_id) == (whole.id, it.id)
        of_it = await api.allocations_of(it)
        assert sorted(allocation.amount.amount for allocation in of_it) == ["-99.99", "99.99"]
        [near], [far] = await api.allocations_of(eng), await api.allocations_of(tokyo)
        assert (near.category, near.description, near.gl_code) == ("cloud", "AWS", "6000")
        assert (near.allocation_date, far.allocation_date) == ("2026-03-10", "2026-03-10")
        assert (near.counterparty_entity_id, far.counterparty_entity_id) == ("", acme.id)

    async def test_concurrent_splits_succeed_once(
        self, api: RulesApi, it: Department, eng: Department, sales: Department
    ) -> None:
        whole = await api.allocate(it, "10.00 EUR")
        splits = [api.split(allocation_id=whole.id, terms=terms(*even(*to))) for to in ([eng], [sales], [eng, sales])]
        responses = await asyncio.gather(*splits, return_exceptions=True)
        assert sum(isinstance(response, CostSplit) for response in responses) == 1
        errors = [Refusal.of(response) for response in responses if isinstance(response, aio.AioRpcError)]
        assert [error.reason for error in errors] == ["COST_ALREADY_SPLIT"] * 2
        borne = await api.allocations_of_all(it, eng, sales)
        assert sum(Decimal(allocation.amount.amount) for allocation in borne) == 10

    async def test_share_cannot_be_split(self, api: RulesApi, it: Department, eng: Department) -> None:
        [share] = (await api.split("10.00 EUR", terms=terms(target(it)))).shares
        error = await refusal(api.split(allocation_id=share.allocation_id, terms=terms(target(eng))))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ALLOCATION_IS_SHARE")
        assert error.metadata == {"allocation_id": share.allocation_id}

    async def test_reversal_and_reversed_allocation_cannot_be_split(
        self, api: RulesApi, it: Department, eng: Department
    ) -> None:
        whole = await api.allocate(it, "10.00 EUR")
        reversal = await api.reverse(whole)
        for allocation, reason in ((whole, "ALLOCATION_ALREADY_REVERSED"), (reversal, "ALLOCATION_IS_REVERSAL")):
            error = await refusal(api.split(allocation_id=allocation.id, terms=terms(target(eng))))
            assert error.reason == reason
        unknown_id = ids.ALLOCATION.format(ids.new())
        error = await refusal(api.split(allocation_id=unknown_id, terms=terms(target(eng))))
        assert error.reason == "ALLOCATION_NOT_FOUND"
        assert await api.allocations_of(eng) == []


class TestReversedUsage:
    async def test_negative_usage_of_a_target_is_refused(
        self, api: RulesApi, eng: Department, sales: Department
    ) -> None:
        mistaken = await api.allocate(sales, "5.00 EUR", quantity="3", unit="GB", allocation_date="2026-02-28")
        await api.reverse(mistaken, allocation_date="2026-03-01")
        await api.allocate(eng, "5.00 EUR", quantity="7", unit="GB")
        by_usage = terms(
            *even(eng, sales), rule_type=AllocationRule.PROPORTIONAL, basis=AllocationRule.USAGE, usage_unit="GB"
        )
        error = await refusal(api.split("1.00 EUR", terms=by_usage))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "SPLIT_WEIGHT_NEGATIVE")
        assert error.metadata == {"target": "targets[1]"}
        both = {"usage_start_date": "2026-02-01", "usage_end_date": "2026-04-01"}
        assert [share.weight for share in (await api.split("1.00 EUR", terms=by_usage, **both)).shares] == ["7", "0"]
