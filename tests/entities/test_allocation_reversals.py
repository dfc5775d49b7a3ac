"""Taking back an allocation: as a whole, and once."""

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
from tests.entities.conftest import EntitiesApi
from tests.harness.callers import refusal
from tests.harness.observe import PublishedEvents


@pytest.fixture
async def swiss(api: EntitiesApi) -> Department:
    await api.set_rates("2026-03-01 USD/CHF 0.9")
    return await api.create_department(await api.create_entity("CH", currency_code="CHF"), "ENG")


@pytest.fixture
async def made(costs: AllocationApi, swiss: Department) -> Allocation:
    return await costs.allocate(
        swiss, "0.55 USD", allocation_date="2026-03-15", category="cloud", quantity="2.5", unit="GB", source_ref="a"
    )


async def test_reversal_has_opposite_amounts(
    api: EntitiesApi, costs: AllocationApi, made: Allocation, swiss: Department
) -> None:
    await api.set_rates("2026-03-01 USD/CHF 0.7")  # of no consequence: it comes back at the rate at which it went
    reversal = await costs.reverse(made, "Metered twice")
    opposite = Allocation()
    opposite.CopyFrom(made)
    opposite.MergeFrom(
        Allocation(
            id=reversal.id, amount=money("-0.55 USD"), entity_amount=money("-0.50 CHF"), quantity="-2.5",
            description="Metered twice", reversal_of_id=made.id, create_time=reversal.create_time,
        )
    )  # fmt: skip
    assert money_text(made.entity_amount) == "0.50 CHF"
    assert reversal == opposite
    assert await costs.get(reversal) == reversal
    assert (await costs.get(made)).reversed_by_id == reversal.id


async def test_reversal_is_published(costs: AllocationApi, made: Allocation, published_events: PublishedEvents) -> None:
    reversal = await costs.reverse(made, "Metered twice", allocation_date="2026-04-01")
    assert await published_events.first(AllocationReversed) == AllocationReversed(
        allocation_id=reversal.id,
        reversed_allocation_id=made.id,
        entity_id=made.entity_id,
        department_id=made.department_id,
        amount=made.amount,
        allocation_date="2026-04-01",
        reason="Metered twice",
    )


async def test_of_concurrent_reversals_one_succeeds(
    costs: AllocationApi, made: Allocation, published_events: PublishedEvents
) -> None:
    answers = await asyncio.gather(*(costs.reverse(made) for _ in range(12)), return_exceptions=True)
    reversals = [each for each in answers if isinstance(each, Allocation)]
    assert len(reversals) == 1
    assert sum(isinstance(each, AioRpcError) for each in answers) == 11
    refused = await refusal(costs.reverse(made))
    assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "ALLOCATION_ALREADY_REVERSED")
    assert refused.metadata == {"allocation_id": made.id, "reversal_id": reversals[0].id}
    assert len(await published_events.at_least(1, AllocationReversed)) == 1


async def test_repeated_key_returns_same_reversal(costs: AllocationApi, made: Allocation) -> None:
    first = await costs.reverse(made, request_id="k")
    assert await costs.reverse(made, request_id="k") == first


async def test_reversal_cannot_be_reversed(costs: AllocationApi, made: Allocation) -> None:
    refused = await refusal(costs.reverse(await costs.reverse(made)))
    assert refused.reason == "ALLOCATION_IS_REVERSAL"


async def test_allocation_of_inactive_entity_can_be_reversed(
    api: EntitiesApi, costs: AllocationApi, made: Allocation
) -> None:
    await api.deactivate(made.entity_id)
    assert (await costs.reverse(made)).reversal_of_id == made.id


async def test_reversal_is_not_dated_before_the_allocation(costs: AllocationApi, made: Allocation) -> None:
    early = await refusal(costs.reverse(made, allocation_date="2026-03-14"))
    assert early.rules == {"allocation_date": "allocation_date.order"}
    late = clock.now().date() + timedelta(days=3 * 366)
    assert (await refusal(costs.reverse(made, allocation_date=late.isoformat()))).reason == "ALLOCATION_DATE_TOO_FAR"
    assert (await costs.reverse(made, allocation_date="2026-04-01")).allocation_date == "2026-04-01"


async def test_reason_and_key_are_required(costs: AllocationApi, made: Allocation) -> None:
    assert set((await refusal(costs.reverse(made, ""))).fields) == {"reason"}
    assert set((await refusal(costs.reverse(made, request_id=" "))).fields) == {"request_id"}
