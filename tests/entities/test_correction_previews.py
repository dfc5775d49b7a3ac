"""`validate_only` of reversals and credits: the response is the same as that of the call, and nothing is stored."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.events_pb2 import AllocationCredited, AllocationReversed
from google.protobuf.message import Message

from tests.entities.allocation_api import AllocationApi
from tests.entities.rules_api import RulesApi, even, terms
from tests.harness.callers import refusal
from tests.harness.observe import PublishedEvents

MessageT = TypeVar("MessageT", bound=Message)


@pytest.fixture
async def eng(rules: RulesApi) -> Department:
    return await rules.create_department(await rules.create_entity("ACME"), "ENG")


@pytest.fixture
async def sales(rules: RulesApi, eng: Department) -> Department:
    return await rules.create_department(eng.entity_id, "SALES")


@pytest.fixture
async def allocation(rules: RulesApi, eng: Department) -> Allocation:
    return await rules.allocate(eng, "100.00 EUR")


def without(message: MessageT, *fields: str) -> MessageT:
    for field in fields:
        message.ClearField(field)
    return message


@pytest.mark.parametrize("correction", ["reversal", "credit"])
async def test_preview_of_a_correction_equals_it_and_stores_nothing(
    costs: AllocationApi, allocation: Allocation, published_events: PublishedEvents, correction: str
) -> None:
    async def correct(**fields: Any) -> Allocation:
        if correction == "reversal":
            return await costs.reverse(allocation, request_id="key", **fields)
        return await costs.credit(allocation, "40.00 EUR", source_ref="CN-1", request_id="key", **fields)

    before = await costs.get(allocation)
    preview = await correct(validate_only=True)
    assert (preview.id, preview.HasField("create_time")) == ("", False)
    assert await costs.get(allocation) == before
    assert without(await correct(), "id", "create_time") == preview
    assert await costs.get(allocation) != before
    event = AllocationReversed if correction == "reversal" else AllocationCredited
    assert len(await published_events.at_least(1, event)) == 1


async def test_preview_of_the_reversal_of_a_split_equals_it_and_stores_nothing(
    rules: RulesApi, eng: Department, sales: Department, allocation: Allocation
) -> None:
    split = await rules.split(terms=terms(*even(sales)), allocation_id=allocation.id)
    before = await rules.allocations_of(eng)
    preview = await rules.reverse_split(split, request_id="key", validate_only=True)
    assert preview.validate_only
    assert (preview.id, preview.reversal.restored_allocation_id) == (split.id, "")
    assert await rules.list_splits() == [split]
    assert await rules.allocations_of(eng) == before
    done = await rules.reverse_split(split, request_id="key")
    assert done.reversal.restored_allocation_id
    without(done.reversal, "restored_allocation_id", "create_time")
    without(preview, "validate_only")
    assert done == preview


async def test_preview_is_refused_like_the_correction(
    costs: AllocationApi, rules: RulesApi, sales: Department, allocation: Allocation
) -> None:
    split = await rules.split(terms=terms(*even(sales)), allocation_id=allocation.id)
    await rules.reverse_split(split)
    calls: list[Callable[[bool], Awaitable[Message]]] = [
        lambda tried: costs.reverse(allocation, validate_only=tried),
        lambda tried: costs.credit(allocation, "1.00 EUR", validate_only=tried),
        lambda tried: rules.reverse_split(split, validate_only=tried),
    ]
    for call in calls:
        assert await refusal(call(True)) == await refusal(call(False))
