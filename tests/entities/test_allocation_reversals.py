"""Reversals of allocations."""

import asyncio
from datetime import timedelta

import pytest
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.events_pb2 import AllocationReversed
from grpc import StatusCode
from grpc.aio import AioRpcError

from kit import clock
from tests.entities.allocation_api import AllocationApi, money, money_text
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import refusal
from tests.harness.observe import PublishedEvents


@pytest.fixture
async def swiss(api: EntitiesApi) -> Department:
    await api.set_rates("2026-03-01 USD/CHF 0.9")
    return await api.create_department(await api.create_entity("CH", currency_code="CHF"), "ENG")


@pytest.fixture
async def allocation(costs: AllocationApi, swiss: Department) -> Allocation:
    return await costs.allocate(
        swiss, "0.55 USD", allocation_date="2026-03-15", category="cloud", quantity="2.5", unit="GB", source_ref="a"
    )


async def test_reversal_has_opposite_amounts(
    api: EntitiesApi, costs: AllocationApi, allocation: Allocation, swiss: Department
) -> None:
    await api.set_rates("2026-03-01 USD/CHF 0.7")  # has no effect: a reversal has the rate of the allocation
    reversal = await costs.reverse(allocation, "Metered twice")
    opposite = Allocation()
    opposite.CopyFrom(allocation)
    opposite.MergeFrom(
        Allocation(
            id=reversal.id, amount=money("-0.55 USD"), entity_amount=money("-0.50 CHF"), quantity="-2.5",
            description="Metered twice", reversal_of_id=allocation.id, create_time=reversal.create_time,
        )
    )  # fmt: skip
    assert money_text(allocation.entity_amount) == "0.50 CHF"
    assert reversal == opposite
    assert await costs.get(reversal) == reversal
    assert (await costs.get(allocation)).reversed_by_id == reversal.id


async def test_reversal_is_published(
    costs: AllocationApi, allocation: Allocation, published_events: PublishedEvents
) -> None:
    reversal = await costs.reverse(allocation, "Metered twice", allocation_date="2026-04-01")
    assert await published_events.first(AllocationReversed) == AllocationReversed(
        allocation_id=reversal.id,
        reversed_allocation_id=allocation.id,
        entity_id=allocation.entity_id,
        department_id=allocation.department_id,
        amount=allocation.amount,
        allocation_date="2026-04-01",
        reason="Metered twice",
    )


async def test_of_concurrent_reversals_one_succeeds(
    costs: AllocationApi, allocation: Allocation, published_events: PublishedEvents
) -> None:
    responses = await asyncio.gather(*(costs.reverse(allocation) for _ in range(12)), return_exceptions=True)
    reversals = [each for each in responses if isinstance(each, Allocation)]
    assert len(reversals) == 1
    assert sum(isinstance(each, AioRpcError) for each in responses) == 11
    error = await refusal(costs.reverse(allocation))
    assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ALLOCATION_ALREADY_REVERSED")
    assert error.metadata == {"allocation_id": allocation.id, "reversal_id": reversals[0].id}
    assert len(await published_events.at_least(1, AllocationReversed)) == 1


async def test_repeated_key_returns_same_reversal(costs: AllocationApi, allocation: Allocation) -> None:
    first = await costs.reverse(allocation, request_id="k")
    assert await costs.reverse(allocation, request_id="k") == first


async def test_reversal_cannot_be_reversed(costs: AllocationApi, allocation: Allocation) -> None:
    error = await refusal(costs.reverse(await costs.reverse(allocation)))
    assert error.reason == "ALLOCATION_IS_REVERSAL"


async def test_allocation_of_inactive_entity_can_be_reversed(
    api: EntitiesApi, costs: AllocationApi, allocation: Allocation
) -> None:
    await api.deactivate(allocation.entity_id)
    assert (await costs.reverse(allocation)).reversal_of_id == allocation.id


async def test_reversal_is_not_dated_before_the_allocation(costs: AllocationApi, allocation: Allocation) -> None:
    early = await refusal(costs.reverse(allocation, allocation_date="2026-03-14"))
    assert early.rules == {"allocation_date": "allocation_date.order"}
    late = clock.now().date() + timedelta(days=3 * 366)
    assert (
        await refusal(costs.reverse(allocation, allocation_date=late.isoformat()))
    ).reason == "ALLOCATION_DATE_TOO_FAR"
    assert (await costs.reverse(allocation, allocation_date="2026-04-01")).allocation_date == "2026-04-01"


async def test_reason_and_key_are_required(costs: AllocationApi, allocation: Allocation) -> None:
    assert set((await refusal(costs.reverse(allocation, ""))).fields) == {"reason"}
    assert set((await refusal(costs.reverse(allocation, request_id=" "))).fields) == {"request_id"}
