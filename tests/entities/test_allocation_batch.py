"""Batches of allocations: partial and atomic ones, documents, keys; lists of allocations."""

import asyncio
from collections.abc import Callable
from decimal import Decimal

import asyncpg
import pytest
from billing.entities.v1 import allocation_service_pb2 as pb
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.events_pb2 import CostAllocated
from grpc import StatusCode

from kit import ids
from tests.entities.allocation_api import AllocationApi, amounts, line, money, money_text
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Caller, refusal
from tests.harness.observe import PublishedEvents, until_blocked

LINES_MAX = 1000


def outcomes(response: pb.BatchAllocateCostsResponse) -> list[str]:
    """For each line the reason of its error, or "replayed", or "allocated"."""
    return [
        each.refusal.reason if each.HasField("refusal") else "replayed" if each.replayed else "allocated"
        for each in response.results
    ]


@pytest.fixture
async def engineering(api: EntitiesApi, acme: Entity) -> Department:
    return await api.create_department(acme, "ENG")


@pytest.fixture
async def sales(api: EntitiesApi, acme: Entity) -> Department:
    return await api.create_department(acme, "SALES", gl_code="6400")


class TestPartialBatch:
    async def test_valid_lines_are_accepted_and_others_refused(
        self, api: EntitiesApi, costs: AllocationApi, acme: Entity, engineering: Department, sales: Department
    ) -> None:
        closed, unknown_id = await api.create_entity("CLOSED"), ids.ENTITY.format(ids.new())
        await api.deactivate(closed)
        mixed = line(engineering)
        mixed.entity_id = closed.id
        unknown = line(None)
        unknown.entity_id = unknown_id
        response = await costs.batch(
            line(engineering, "1.00 EUR", source_ref="a"), line(closed), line(sales, "2.00 EUR"), unknown, mixed,
            line(engineering, "3.00 USD"), line(acme, "4.00 EUR"), line(sales, allocation_date="2199-01-01"),
        )  # fmt: skip
        assert outcomes(response) == [
            "allocated", "ENTITY_STATE", "allocated", "ENTITY_NOT_FOUND", "DEPARTMENT_OF_OTHER_ENTITY", "RATE_MISSING",
            "allocated", "ALLOCATION_DATE_TOO_FAR",
        ]  # fmt: skip
        assert (response.allocated_count, response.refused_count) == (3, 5)
        allocations = [each.allocation for each in response.results if each.HasField("allocation")]
        assert [await costs.get(each) for each in allocations] == allocations
        assert [each.gl_code for each in allocations] == ["", "6400", ""]
        refusals = [each.refusal for each in response.results if each.HasField("refusal")]
        assert refusals[0].code == "FAILED_PRECONDITION"
        assert (refusals[0].metadata["entity_id"], refusals[1].metadata["entity_id"]) == (closed.id, unknown_id)

    async def test_cost_can_be_allocated_to_entity_as_a_whole(self, costs: AllocationApi, acme: Entity) -> None:
        (result,) = (await costs.batch(line(acme))).results
        allocation = result.allocation
        assert (allocation.entity_id, allocation.department_id, list(allocation.department_path)) == (acme.id, "", [])
        assert await costs.get(allocation) == allocation

    async def test_line_needs_entity_or_department(self, costs: AllocationApi, engineering: Department) -> None:
        error = await refusal(costs.batch(line(engineering), line(None)))
        assert error.rules == {"allocations[1]": "bearer.required"}

    async def test_invalid_line_is_named_by_its_index(self, costs: AllocationApi, engineering: Department) -> None:
        error = await refusal(costs.batch(line(engineering), line(engineering, "1.001 EUR")))
        assert set(error.fields) == {"allocations[1].amount.amount"}

    async def test_batch_has_one_to_a_thousand_lines(self, costs: AllocationApi, engineering: Department) -> None:
        assert set((await refusal(costs.batch())).fields) == {"allocations"}
        lines = [line(engineering)] * (LINES_MAX + 1)
        assert set((await refusal(costs.batch(*lines))).fields) == {"allocations"}

    async def test_a_thousand_lines_are_allocated_and_published(
        self, costs: AllocationApi, engineering: Department, sales: Department, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        lines = [line((engineering, sales)[n % 2], f"{n}.50 EUR", source_ref=f"r-{n}") for n in range(1, LINES_MAX + 1)]
        response = await costs.batch(*lines)
        assert (response.allocated_count, response.refused_count) == (LINES_MAX, 0)
        assert [each.allocation.source_ref for each in response.results] == [each.source_ref for each in lines]
        assert [money_text(each.allocation.amount) for each in response.results] == [
            f"{n}.50 EUR" for n in range(1, LINES_MAX + 1)
        ]
        sums = "select sum(amount), count(*) from entities.cost_allocations where tenant_id = $1"
        row = await admin.fetchrow(sums, costs.caller.tenant_id)
        assert row
        assert tuple(row) == (Decimal(501000), LINES_MAX)
        count = "count(distinct body::json->>'allocation_id')"
        query = f"select {count} from entities.outbox where tenant_id = $1 and type = $2"
        event = CostAllocated.DESCRIPTOR.full_name
        assert await admin.fetchval(query, costs.caller.tenant_id, event) == LINES_MAX


class TestDocuments:
    async def test_document_allocated_before_returns_existing_allocation(
        self, costs: AllocationApi, engineering: Department
    ) -> None:
        first = await costs.allocate(engineering, source_ref="a")
        response = await costs.batch(
            line(engineering, source_ref="a"),
            line(engineering, source_ref="b"),
            line(engineering, "11.00 EUR", source_ref="a"),
        )
        assert outcomes(response) == ["replayed", "allocated", "ALLOCATION_SOURCE_TAKEN"]
        assert response.results[0].allocation == first
        assert response.results[2].refusal.metadata["allocation_id"] == first.id
        assert (response.allocated_count, response.refused_count) == (2, 1)

    async def test_document_that_occurs_twice_is_allocated_once(
        self, costs: AllocationApi, engineering: Department, sales: Department
    ) -> None:
        response = await costs.batch(
            line(engineering, source_ref="a"),
            line(engineering, source_ref="a"),
            line(sales, source_ref="a"),
            line(engineering),
            line(engineering),
        )
        assert outcomes(response) == ["allocated", "replayed", "ALLOCATION_SOURCE_TAKEN", "allocated", "allocated"]
        assert response.results[1].allocation.id == response.results[0].allocation.id

    async def test_refused_line_does_not_block_the_next_of_its_document(
        self, costs: AllocationApi, engineering: Department
    ) -> None:
        response = await costs.batch(
            line(engineering, "1.00 USD", source_ref="a"), line(engineering, "1.00 EUR", source_ref="a")
        )
        assert outcomes(response) == ["RATE_MISSING", "allocated"]

    async def test_concurrent_batches_allocate_each_document_once(
        self, costs: AllocationApi, engineering: Department
    ) -> None:
        lines = [line(engineering, f"{n}.00 EUR", source_ref=f"r-{n}") for n in range(1, 101)]
        responses = await asyncio.gather(*(costs.batch(*(lines if n % 2 else lines[::-1])) for n in range(8)))
        assert [each.allocated_count for each in responses] == [100] * 8
        assert sum(outcomes(each).count("allocated") for each in responses) == 100
        assert len(await costs.list_all(engineering)) == 100

    async def test_batches_in_opposite_order_do_not_deadlock(
        self, costs: AllocationApi, engineering: Department, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        """Both wait for a third transaction, which has inserted one of the documents, until it rolls back."""
        await costs.allocate(engineering, source_ref="r-0")
        lines = [line(engineering, source_ref=f"r-{n}") for n in range(1, 10)]
        async with admin.acquire() as third:
            held = third.transaction()
            await held.start()
            await third.execute(_AS_ANOTHER, costs.caller.tenant_id, "r-5")
            both = asyncio.gather(costs.batch(*lines), costs.batch(*lines[::-1]))
            await until_blocked(admin, 2)
            await held.rollback()
        assert [response.allocated_count for response in await both] == [9, 9]


_AS_ANOTHER = """
    insert into entities.cost_allocations
    select (copied).* from (
        select jsonb_populate_record(
            row, jsonb_build_object('id', gen_random_uuid(), 'source_ref', $2::text)
        ) as copied
        from entities.cost_allocations as row where tenant_id = $1
    ) as copies"""


class TestAtomicBatch:
    async def test_all_lines_are_accepted(
        self, costs: AllocationApi, engineering: Department, sales: Department
    ) -> None:
        response = await costs.batch(line(engineering), line(sales), atomic=True)
        assert outcomes(response) == ["allocated", "allocated"]

    async def test_one_refused_line_fails_the_batch_and_is_named(
        self, costs: AllocationApi, engineering: Department, published_events: PublishedEvents
    ) -> None:
        lines = line(engineering, source_ref="a"), line(engineering, "1.00 USD")
        error = await refusal(costs.batch(*lines, atomic=True))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "BATCH_REFUSED")
        assert error.metadata["line"] == "allocations[1]"
        assert error.metadata["line_reason"] == "RATE_MISSING"
        assert await costs.list_all(engineering) == []
        allocation = await costs.allocate(engineering, "2.00 EUR", source_ref="a")
        assert [event.allocation_id for event in await published_events.at_least(1, CostAllocated)] == [allocation.id]


class TestKeys:
    async def test_repeated_key_returns_same_response(self, costs: AllocationApi, engineering: Department) -> None:
        lines = line(engineering), line(engineering, "1.00 USD")
        first = await costs.batch(*lines, request_id="k")
        assert await costs.batch(*lines, request_id="k") == first
        assert len(await costs.list_all(engineering)) == 1
        assert (await refusal(costs.batch(line(engineering), request_id="k"))).reason == "IDEMPOTENCY_MISMATCH"


class TestScopes:
    async def test_lines_outside_scope_are_not_found(
        self, costs_of: Callable[[Caller], AllocationApi], caller: Callable[..., Caller], acme: Entity,
        engineering: Department, sales: Department,
    ) -> None:  # fmt: skip
        conny = costs_of(caller("finance", department_scope=[engineering.id]))
        assert outcomes(await conny.batch(line(engineering), line(sales), line(acme))) == [
            "allocated", "DEPARTMENT_NOT_FOUND", "ENTITY_NOT_FOUND",
        ]  # fmt: skip
        cora = costs_of(caller("finance", entity_scope=[acme.id]))
        assert outcomes(await cora.batch(line(engineering), line(sales), line(acme))) == ["allocated"] * 3


class TestListAllocations:
    @pytest.fixture
    async def posted(self, api: EntitiesApi, costs: AllocationApi, acme: Entity, engineering: Department) -> Department:
        """ENG with child QA with child LAB, each with costs on three days, and SALES."""
        qa = await api.create_department(acme, "QA", parent_id=engineering.id)
        lab = await api.create_department(acme, "LAB", parent_id=qa.id)
        beside = await api.create_department(acme, "BESIDE")
        lines = [
            line(bearer, f"{number}{day}.00 EUR", allocation_date=f"2026-0{day}-01", category=category, source=source)
            for day in (1, 2, 3)
            for number, bearer, category, source in (
                (1, engineering, "cloud", Allocation.USAGE), (2, qa, "people", Allocation.MANUAL),
                (3, lab, "cloud", Allocation.INVOICE), (4, beside, "cloud", Allocation.MANUAL),
            )
        ]  # fmt: skip
        assert (await costs.batch(*reversed(lines))).refused_count == 0
        return engineering

    async def test_newest_day_first(self, costs: AllocationApi, posted: Department) -> None:
        assert amounts(await costs.list_all(posted)) == ["13.00 EUR", "12.00 EUR", "11.00 EUR"]

    async def test_descendants_are_included_on_request(self, costs: AllocationApi, posted: Department) -> None:
        allocations = await costs.list_all(posted, include_descendants=True)
        assert [each.allocation_date for each in allocations] == sorted(
            (each.allocation_date for each in allocations), reverse=True
        )
        assert {each.amount.amount for each in allocations} == {f"{n}{day}.00" for n in (1, 2, 3) for day in (1, 2, 3)}

    async def test_filters_by_date_category_and_source(self, costs: AllocationApi, posted: Department) -> None:
        period = {"start_date": "2026-02-01", "end_date": "2026-03-01"}
        below = {"include_descendants": True}
        assert amounts(await costs.list_all(posted, **period)) == ["12.00 EUR"]
        assert set(amounts(await costs.list_all(posted, **period, **below))) == {"12.00 EUR", "22.00 EUR", "32.00 EUR"}
        cloud = await costs.list_all(posted, **period, **below, category="cloud")
        assert set(amounts(cloud)) == {"12.00 EUR", "32.00 EUR"}
        invoiced = await costs.list_all(posted, **below, category="cloud", source=Allocation.INVOICE)
        assert amounts(invoiced) == ["33.00 EUR", "32.00 EUR", "31.00 EUR"]
        assert await costs.list_all(posted, category="none") == []

    @pytest.mark.parametrize("size", [1, 2, 4, 9])
    async def test_pages_list_each_once_despite_new_allocations(
        self, costs: AllocationApi, posted: Department, size: int
    ) -> None:
        expected = await costs.list_all(posted, include_descendants=True)
        allocations: list[Allocation] = []
        token, first = "", True
        while first or token:
            some, token = await costs.page(posted, page_size=size, page_token=token, include_descendants=True)
            allocations += some
            if first:
                await costs.allocate(posted, allocation_date="2026-04-01")
            first = False
        assert allocations == expected

    async def test_token_of_another_list_is_refused(self, costs: AllocationApi, posted: Department) -> None:
        _, token = await costs.page(posted, page_size=1)
        for changes in ({"category": "cloud"}, {"include_descendants": True}, {"start_date": "2026-01-01"}):
            error = await refusal(costs.page(posted, page_size=1, page_token=token, **changes))
            assert error.reason == "PAGE_TOKEN_INVALID"
        assert (await refusal(costs.page(posted, page_token="x"))).reason == "PAGE_TOKEN_INVALID"

    async def test_reversals_are_listed_with_links_in_both_directions(
        self, costs: AllocationApi, engineering: Department
    ) -> None:
        allocation = await costs.allocate(engineering)
        reversal = await costs.reverse(allocation)
        allocations = {each.id: each for each in await costs.list_all(engineering)}
        assert allocations[allocation.id].reversed_by_id == reversal.id
        assert allocations[reversal.id].reversal_of_id == allocation.id
        assert allocations[reversal.id].amount == money("-10.00 EUR")
