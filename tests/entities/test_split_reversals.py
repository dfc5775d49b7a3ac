"""Reversals of splits as a whole: all shares, once, and the allocation that was split is restored."""

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pytest
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.allocation_rule_pb2 import CostSplit
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.events_pb2 import AllocationReversed, CostAllocated
from grpc import StatusCode

from kit import ids
from tests.entities.allocation_api import AllocationApi, line, money, money_text, total
from tests.entities.rules_api import RulesApi, even, terms
from tests.harness.callers import Caller, refusal
from tests.harness.observe import PublishedEvents
from tests.harness.services import Entities

NOTHING = Decimal(0), Decimal(0)


@pytest.fixture
def api(entities: Entities, finance: Caller) -> RulesApi:
    return RulesApi(finance, entities)


class TestSplitOfAmount:
    async def test_all_shares_are_reversed_and_published(
        self, api: RulesApi, targets: Sequence[Department], published_events: PublishedEvents
    ) -> None:
        split = await api.split("100.00 EUR", terms=terms(*even(*targets)))
        reversed_split = await api.reverse_split(split, allocation_date="2026-04-01")
        reversal = reversed_split.reversal
        assert (reversal.reason, reversal.allocation_date) == ("Wrong headcount", "2026-04-01")
        assert (reversal.actor, reversal.restored_allocation_id) == ("alice", "")
        assert await api.list_splits() == [reversed_split]
        posted = await api.allocations_of_all(*targets)
        assert total(posted) == NOTHING
        opposite = [each for each in posted if each.reversal_of_id]
        assert {each.reversal_of_id for each in opposite} == {share.allocation_id for share in split.shares}
        assert {(each.allocation_date, each.description) for each in opposite} == {("2026-04-01", "Wrong headcount")}
        events = await published_events.at_least(3, AllocationReversed)
        assert {event.allocation_id for event in events} == {each.id for each in opposite}

    async def test_of_concurrent_reversals_one_succeeds(self, api: RulesApi, targets: Sequence[Department]) -> None:
        split = await api.split("100.00 EUR", terms=terms(*even(*targets)))
        responses = await asyncio.gather(*(api.reverse_split(split) for _ in range(6)), return_exceptions=True)
        assert sum(isinstance(each, CostSplit) for each in responses) == 1
        error = await refusal(api.reverse_split(split))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "COST_SPLIT_ALREADY_REVERSED")
        assert error.metadata == {"cost_split_id": split.id}
        assert len(await api.allocations_of_all(*targets)) == 6

    async def test_split_and_shares_reversed_at_once_are_reversed_once(
        self, api: RulesApi, targets: Sequence[Department]
    ) -> None:
        split = await api.split("100.00 EUR", terms=terms(*even(*targets)))
        shares = await api.allocations_of_all(*targets)
        await asyncio.gather(*map(api.reverse, shares), api.reverse_split(split), return_exceptions=True)
        assert total(await api.allocations_of_all(*targets)) == NOTHING

    async def test_repeated_key_returns_the_same_response(self, api: RulesApi, targets: Sequence[Department]) -> None:
        split = await api.split("100.00 EUR", terms=terms(*even(*targets)))
        first = await api.reverse_split(split, request_id="k")
        assert await api.reverse_split(split, request_id="k") == first
        error = await refusal(api.reverse_split(split, request_id="k", reason="Another"))
        assert error.reason == "IDEMPOTENCY_MISMATCH"

    async def test_departments_may_be_inactive(self, api: RulesApi, targets: Sequence[Department]) -> None:
        split = await api.split("100.00 EUR", terms=terms(*even(*targets)))
        for department in targets:
            await api.deactivate_department(department)
        await api.reverse_split(split)
        assert total(await api.allocations_of_all(*targets)) == NOTHING

    async def test_date_is_not_before_that_of_the_cost(self, api: RulesApi, targets: Sequence[Department]) -> None:
        split = await api.split("100.00 EUR", terms=terms(*even(*targets)))
        early = await refusal(api.reverse_split(split, allocation_date="2026-03-09"))
        assert early.rules == {"allocation_date": "allocation_date.order"}
        assert (await refusal(api.reverse_split(split, allocation_date="2029-01-01"))).reason == (
            "ALLOCATION_DATE_TOO_FAR"
        )
        assert set((await refusal(api.reverse_split(split, reason=""))).fields) == {"reason"}


class TestSplitOfAllocation:
    async def test_allocation_is_restored_at_its_own_rate_with_its_reference(
        self, api: RulesApi, it: Department, targets: Sequence[Department], published_events: PublishedEvents
    ) -> None:
        await api.set_rates("2026-03-01 USD/EUR 0.915")
        fields: dict[str, Any] = {"source": Allocation.INVOICE, "source_ref": "INV-1", "category": "cloud"}
        whole = await api.allocate(it, "1.00 USD", quantity="5", unit="GB", description="AWS", **fields)
        split = await api.split(allocation_id=whole.id, terms=terms(*even(*targets)))
        await api.set_rates("2026-03-01 USD/EUR 0.7")
        await api.deactivate_department(it)
        restored_id = (await api.reverse_split(split)).reversal.restored_allocation_id
        restored = next(each for each in await api.allocations_of(it) if each.id == restored_id)
        expected = Allocation()
        expected.CopyFrom(whole)
        expected.MergeFrom(Allocation(id=restored_id, create_time=restored.create_time))
        assert restored == expected
        assert total(await api.allocations_of_all(it, *targets)) == (Decimal("1.00"), Decimal("0.92"))
        events = await published_events.at_least(5, CostAllocated)
        assert [event.allocation_id for event in events if event.source_ref == "INV-1"] == [whole.id, restored_id]
        assert (await api.allocate(it, "1.00 USD", quantity="5", unit="GB", description="AWS", **fields)) == restored

    async def test_restored_allocation_can_be_split_and_reversed_again(
        self, api: RulesApi, it: Department, targets: Sequence[Department]
    ) -> None:
        allocation_id = (await api.allocate(it, "10.00 EUR", source_ref="INV-1")).id
        for _ in range(2):
            split = await api.split(allocation_id=allocation_id, terms=terms(*even(*targets)))
            allocation_id = (await api.reverse_split(split)).reversal.restored_allocation_id
        (restored,) = [each for each in await api.allocations_of(it) if each.id == allocation_id]
        await api.reverse(restored)
        assert total(await api.allocations_of_all(it, *targets)) == NOTHING
        assert (await api.allocate(it, "10.00 EUR", source_ref="INV-1")).id not in {allocation_id, restored.id}

    async def test_share_that_was_reversed_before_stays_reversed(
        self, api: RulesApi, it: Department, targets: Sequence[Department]
    ) -> None:
        await api.set_rates("2026-03-01 USD/EUR 0.915")
        whole = await api.allocate(it, "1.00 USD")
        split = await api.split(allocation_id=whole.id, terms=terms(*even(*targets)))
        await api.reverse((await api.allocations_of(targets[0]))[0])
        restored_id = (await api.reverse_split(split)).reversal.restored_allocation_id
        (restored,) = [each for each in await api.allocations_of(it) if each.id == restored_id]
        assert (money_text(restored.amount), money_text(restored.entity_amount)) == ("0.66 USD", "0.61 EUR")
        assert total(await api.allocations_of_all(*targets)) == NOTHING

    async def test_nothing_is_restored_if_all_shares_were_reversed_before(
        self, api: RulesApi, it: Department, targets: Sequence[Department]
    ) -> None:
        whole = await api.allocate(it, "9.00 EUR", source_ref="INV-1")
        split = await api.split(allocation_id=whole.id, terms=terms(*even(*targets)))
        for share in await api.allocations_of_all(*targets):
            await api.reverse(share)
        assert (await api.reverse_split(split)).reversal.restored_allocation_id == ""
        assert total(await api.allocations_of_all(it, *targets)) == NOTHING
        assert (await api.allocate(it, "9.00 EUR", source_ref="INV-1")).id != whole.id


class TestAccess:
    async def test_confined_caller_reverses_splits_within_the_scope_only(
        self, api: RulesApi, entities: Entities, targets: Sequence[Department], caller: Callable[..., Caller]
    ) -> None:
        split = await api.split("3.00 EUR", terms=terms(*even(*targets)))
        part = RulesApi(caller("finance", department_scope=[targets[0].id]), entities)
        error = await refusal(part.reverse_split(split))
        assert (error.code, error.reason) == (StatusCode.NOT_FOUND, "COST_SPLIT_NOT_FOUND")
        every = RulesApi(caller("finance", department_scope=[each.id for each in targets]), entities)
        assert (await every.reverse_split(split)).HasField("reversal")

    async def test_caller_who_cannot_see_the_split_allocation_cannot_restore_it(
        self, api: RulesApi, entities: Entities, acme: Entity, targets: Sequence[Department],
        caller: Callable[..., Caller],
    ) -> None:  # fmt: skip
        costs = AllocationApi(api.caller, entities)
        (result,) = (await costs.batch(line(acme, "3.00 EUR"))).results
        split = await api.split(allocation_id=result.allocation.id, terms=terms(*even(*targets)))
        departments = RulesApi(caller("finance", department_scope=[each.id for each in targets]), entities)
        error = await refusal(departments.reverse_split(split))
        assert (error.code, error.reason) == (StatusCode.NOT_FOUND, "ALLOCATION_NOT_FOUND")
        assert error.metadata == {"cost_allocation_id": result.allocation.id}

    async def test_other_tenants_viewers_and_unknown_ids_are_refused(
        self, api: RulesApi, entities: Entities, targets: Sequence[Department], caller: Callable[..., Caller]
    ) -> None:
        split = await api.split("3.00 EUR", terms=terms(*even(*targets)))
        other_tenant = RulesApi(caller("billing_admin", tenant=ids.new()), entities)
        assert (await refusal(other_tenant.reverse_split(split))).reason == "COST_SPLIT_NOT_FOUND"
        unknown = ids.COST_SPLIT.format(ids.new())
        assert (await refusal(api.reverse_split(unknown))).reason == "COST_SPLIT_NOT_FOUND"
        viewer = RulesApi(caller("auditor"), entities)
        assert (await refusal(viewer.reverse_split(split))).reason == "PERMISSION_MISSING"
        assert await api.list_splits() == [split]
        assert money("3.00 EUR") == split.amount
