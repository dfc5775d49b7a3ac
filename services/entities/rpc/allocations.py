"""The gRPC side of cost allocations."""

from billing.entities.v1 import allocation_service_pb2 as pb
from billing.entities.v1.allocation_pb2 import Allocation

from contract.values import date_from_text
from kit import ids
from kit.db import Database
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
            (row,) = await service.allocations.allocate(tx, [draft])
            reversals = await store.allocations.find_reversals(tx, [row.id])
            return await tx.answer(convert.allocations.to_proto(row, reversals.get(row.id)))

    async def ListAllocations(self, request: pb.ListAllocationsRequest, call: Call) -> pb.ListAllocationsResponse:
        bound = request, call.method, call.tenant_id
        ask = convert.allocations.ask_from_proto(
            request, self._pages.decode_token(request.page_token, *bound) if request.page_token else b""
        )
        async with self._db.read(call) as tx:
            found = await service.allocations.list_newest(tx, ask)
            listed = found[: ask.count - 1]
            reversals = await store.allocations.find_reversals(tx, [row.id for row in listed])
        following = (
            self._pages.encode_token(convert.allocations.place_of(listed[-1]), *bound)
            if len(found) == ask.count
            else ""
        )
        messages = convert.allocations.allocations_to_proto(listed, reversals)
        return pb.ListAllocationsResponse(allocations=messages, next_page_token=following)

    async def BatchAllocateCosts(
        self, request: pb.BatchAllocateCostsRequest, call: Call
    ) -> pb.BatchAllocateCostsResponse:
        drafts = convert.allocations.drafts_from_proto(request)
        async with self._db.write(call) as tx:
            outcomes = await service.allocations.allocate_batch(tx, drafts, atomic=request.atomic)
            reversals = await store.allocations.find_reversals(
                tx,
                [
                    outcome.allocation.id
                    for outcome in outcomes
                    if isinstance(outcome, service.allocations.Taken) and outcome.replayed
                ],
            )
            return await tx.answer(convert.allocations.results_to_proto(outcomes, reversals))

    async def GetAllocation(self, request: pb.GetAllocationRequest, call: Call) -> Allocation:
        async with self._db.read(call) as tx:
            row = await store.allocations.get(tx, ids.ALLOCATION.parse(request.id))
            reversals = await store.allocations.find_reversals(tx, [row.id])
        return convert.allocations.to_proto(row, reversals.get(row.id))

    async def ReverseAllocation(self, request: pb.ReverseAllocationRequest, call: Call) -> Allocation:
        async with self._db.write(call) as tx:
            reversal = await service.allocations.reverse(
                tx,
                ids.ALLOCATION.parse(request.id),
                reason=request.reason,
                day=date_from_text(request.allocation_date),
            )
            return await tx.answer(convert.allocations.to_proto(reversal))
