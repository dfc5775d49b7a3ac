"""References of reversed allocations: all ways to allocate can use them again, and create a new allocation."""

import asyncio
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import pytest
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.events_pb2 import CostAllocated
from grpc import StatusCode

from tests.entities.allocation_api import AllocationApi, line, money_text
from tests.entities.entities_api import EntitiesApi
from tests.entities.rules_api import RulesApi, target, terms
from tests.harness.callers import refusal
from tests.harness.observe import PublishedEvents

INVOICE: Final[dict[str, Any]] = {"source": Allocation.INVOICE, "source_ref": "INV-1"}


@pytest.fixture
async def engineering(api: EntitiesApi) -> Department:
    return await api.create_department(await api.create_entity("ACME"), "ENG")


class TestReversed:
    async def test_reference_is_free_again_after_the_reversal(
        self, costs: AllocationApi, engineering: Department, published_events: PublishedEvents
    ) -> None:
        first = await costs.allocate(engineering, **INVOICE)
        assert (await costs.reverse(first)).source_ref == "INV-1"
        second = await costs.allocate(engineering, **INVOICE)
        assert (second.id != first.id, second.reversed_by_id) == (True, "")
        assert await costs.allocate(engineering, **INVOICE) == second
        published = await published_events.at_least(2, CostAllocated)
        assert [event.allocation_id for event in published] == [first.id, second.id]
        assert sum(Decimal(each.amount.amount) for each in await costs.list_all(engineering)) == 10

    async def test_corrected_cost_is_allocated_with_the_same_reference_any_number_of_times(
        self, costs: AllocationApi, engineering: Department
    ) -> None:
        for amount in ("10.00 EUR", "20.00 EUR", "30.00 EUR"):
            allocation = await costs.allocate(engineering, amount, **INVOICE)
            assert money_text(allocation.amount) == amount
            error = await refusal(costs.allocate(engineering, "99.00 EUR", **INVOICE))
            assert (error.reason, error.metadata["allocation_id"]) == ("ALLOCATION_SOURCE_TAKEN", allocation.id)
            await costs.reverse(allocation)
        assert sum(Decimal(each.amount.amount) for each in await costs.list_all(engineering)) == 0

    async def test_repeated_key_still_returns_the_first_response(
        self, costs: AllocationApi, engineering: Department
    ) -> None:
        key = uuid4().hex
        first = await costs.allocate(engineering, request_id=key, **INVOICE)
        await costs.reverse(first)
        assert await costs.allocate(engineering, request_id=key, **INVOICE) == first
        assert len(await costs.list_all(engineering)) == 2

    async def test_batch_allocates_reversed_lines_again_and_no_others(
        self, costs: AllocationApi, engineering: Department
    ) -> None:
        lines = [line(engineering, f"{n}.00 EUR", source_ref=f"r-{n}") for n in (1, 2, 3)]
        first = [each.allocation for each in (await costs.batch(*lines)).results]
        await costs.reverse(first[1])
        results = (await costs.batch(*lines, lines[1])).results
        assert [each.replayed for each in results] == [True, False, True, True]
        assert results[1].allocation.id == results[3].allocation.id != first[1].id

    async def test_of_concurrent_allocations_after_the_reversal_one_is_created(
        self, costs: AllocationApi, engineering: Department
    ) -> None:
        await costs.reverse(await costs.allocate(engineering, **INVOICE))
        again = await asyncio.gather(*(costs.allocate(engineering, **INVOICE) for _ in range(12)))
        assert len({each.id for each in again}) == 1
        assert len(await costs.list_all(engineering)) == 3

    async def test_of_concurrent_allocations_and_reversals_at_most_one_is_left(
        self, costs: AllocationApi, engineering: Department
    ) -> None:
        for _ in range(5):
            allocation = await costs.allocate(engineering, **INVOICE)
            calls = [costs.allocate(engineering, **INVOICE) for _ in range(4)]
            await asyncio.gather(*calls, costs.reverse(allocation), return_exceptions=True)
        left = [each for each in await costs.list_all(engineering) if not (each.reversal_of_id or each.reversed_by_id)]
        assert len(left) <= 1


class TestSplit:
    @pytest.fixture
    async def sales(self, api: EntitiesApi, engineering: Department) -> Department:
        return await api.create_department(engineering.entity_id, "SALES")

    async def test_reference_of_a_split_allocation_is_refused_with_the_split(
        self, costs: AllocationApi, rules: RulesApi, engineering: Department, sales: Department
    ) -> None:
        whole = await costs.allocate(engineering, **INVOICE)
        split = await rules.split(allocation_id=whole.id, terms=terms(target(sales)))
        error = await refusal(costs.allocate(engineering, **INVOICE))
        assert (error.code, error.reason) == (StatusCode.ALREADY_EXISTS, "ALLOCATION_SOURCE_TAKEN")
        assert (error.metadata["allocation_id"], error.metadata["cost_split_id"]) == (whole.id, split.id)

    async def test_split_cost_is_split_again_after_the_reversal_of_the_split(
        self, rules: RulesApi, engineering: Department, sales: Department
    ) -> None:
        fields = {"source_ref": "bill-1"}
        first = await rules.split("10.00 EUR", terms=terms(target(engineering)), **fields)
        assert (await refusal(rules.split("10.00 EUR", terms=terms(target(sales)), **fields))).reason == (
            "COST_ALREADY_SPLIT"
        )
        await rules.reverse_split(first)
        second = await rules.split("12.00 EUR", terms=terms(target(engineering)), **fields)
        assert (await refusal(rules.split("12.00 EUR", terms=terms(target(sales)), **fields))).reason == (
            "COST_ALREADY_SPLIT"
        )
        assert [each.id for each in await rules.list_splits(**fields)] == [first.id, second.id]
        left = sum(Decimal(each.amount.amount) for each in await rules.allocations_of_all(engineering, sales))
        assert left == 12

    async def test_shares_reversed_one_by_one_leave_the_cost_split(
        self, rules: RulesApi, engineering: Department
    ) -> None:
        """Only the reversal of the split as a whole frees its reference."""
        split = await rules.split("10.00 EUR", terms=terms(target(engineering)), source_ref="bill-1")
        await rules.reverse((await rules.allocations_of(engineering))[0])
        again = rules.split("10.00 EUR", terms=terms(target(engineering)), source_ref="bill-1")
        assert (await refusal(again)).reason == "COST_ALREADY_SPLIT"
        await rules.reverse_split(split)
        assert await rules.split("10.00 EUR", terms=terms(target(engineering)), source_ref="bill-1")
