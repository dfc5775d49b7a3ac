"""AllocationService: allocations, their reversals and credits."""

from billing.entities.v1 import allocation_service_pb2 as pb
from billing.entities.v1.allocation_pb2 import Allocation

from contract.values import date_from_text
from kit import ids
from kit.db import Database
from kit.errors import BillingError
from kit.origin import Call
from services.entities import convert, service, store
from serving.pages import Pages


class AllocationServicer:
    """billing.entities.v1.AllocationService."""

    service = pb.DESCRIPTOR.services_by_name["AllocationService"]

    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def AllocateCost(self, request: pb.AllocateCostRequest, call: Call) -> Allocation:
        draft = convert.allocations.draft_from_proto(request)
        async with self._db.write(call) as tx:
            (result,) = await service.allocations.allocate(tx, [draft])
            row = result.allocation
            corrections = await store.allocations.find_corrections(tx, [row.id] if result.replayed else [])
            return await tx.answer(convert.allocations.to_proto(row, corrections.get(row.id)))

    async def ListAllocations(self, request: pb.ListAllocationsRequest, call: Call) -> pb.ListAllocationsResponse:
        page = self._pages.read_ordered(request, call)
        query = convert.allocations.query_from_proto(request, page.after, page.limit)
        async with self._db.read(call) as tx:
            rows = await service.allocations.list_newest(tx, query)
            rows, next_page_token = page.cut(rows, convert.allocations.position_of)
            corrections = await store.allocations.find_corrections(tx, [row.id for row in rows])
        allocations = [convert.allocations.to_proto(row, corrections[row.id]) for row in rows]
        return pb.ListAllocationsResponse(allocations=allocations, next_page_token=next_page_token)

    async def BatchAllocateCosts(
        self, request: pb.BatchAllocateCostsRequest, call: Call
    ) -> pb.BatchAllocateCostsResponse:
        drafts = convert.allocations.drafts_from_proto(request)
        async with self._db.write(call) as tx:
            outcomes = await service.allocations.allocate_batch(tx, drafts, atomic=request.atomic)
            replayed = [each.allocation.id for each in outcomes if not isinstance(each, BillingError) and each.replayed]
            corrections = await store.allocations.find_corrections(tx, replayed)
            return await tx.answer(convert.allocations.outcomes_to_proto(outcomes, corrections))

    async def GetAllocation(self, request: pb.GetAllocationRequest, call: Call) -> Allocation:
        async with self._db.read(call) as tx:
            row = await store.allocations.get(tx, ids.ALLOCATION.parse(request.id))
            corrections = await store.allocations.find_corrections(tx, [row.id])
        return convert.allocations.to_proto(row, corrections.get(row.id))

    async def ReverseAllocation(self, request: pb.ReverseAllocationRequest, call: Call) -> Allocation:
        dry_run = request.validate_only
        async with self._db.write(call, dry_run=dry_run) as tx:
            reversal = await service.reversals.reverse(
                tx,
                ids.ALLOCATION.parse(request.id),
                reason=request.reason,
                day=date_from_text(request.allocation_date),
            )
            return await tx.answer(convert.allocations.to_proto(reversal, dry_run=dry_run))

    async def CreditAllocation(self, request: pb.CreditAllocationRequest, call: Call) -> Allocation:
        draft = convert.allocations.credit_from_proto(request)
        dry_run = request.validate_only
        async with self._db.write(call, dry_run=dry_run) as tx:
            row = await service.cost_credits.credit(tx, draft)
            return await tx.answer(convert.allocations.to_proto(row, dry_run=dry_run))
