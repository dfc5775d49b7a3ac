"""CostService: cost reports and the stream of allocations."""

from collections.abc import AsyncIterator
from typing import Final

from billing.entities.v1 import cost_service_pb2 as pb
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.cost_pb2 import DepartmentCosts

from kit import clock
from kit.db import Database
from kit.origin import Call
from services.entities import convert, domain, service, store

_BATCH: Final = 500
"""Allocations that a stream reads in one transaction."""


class CostServicer:
    """billing.entities.v1.CostService."""

    service = pb.DESCRIPTOR.services_by_name["CostService"]

    def __init__(self, db: Database) -> None:
        self._db = db

    async def GetDepartmentCosts(self, request: pb.GetDepartmentCostsRequest, call: Call) -> DepartmentCosts:
        query = convert.costs.department_query_from_proto(request)
        async with self._db.read(call) as tx:
            costs = await service.costs.get_of_department(tx, query)
        return convert.costs.department_costs_to_proto(query, costs)

    async def SummarizeCosts(self, request: pb.SummarizeCostsRequest, call: Call) -> pb.SummarizeCostsResponse:
        query = convert.costs.summary_query_from_proto(request)
        async with self._db.read(call) as tx:
            summaries, rates = await service.costs.summarize(tx, query)
        return pb.SummarizeCostsResponse(
            summaries=[convert.costs.summary_to_proto(query, each) for each in summaries],
            conversion_rates=map(convert.costs.rate_to_proto, rates),
        )

    async def StreamAllocations(self, request: pb.StreamAllocationsRequest, call: Call) -> AsyncIterator[Allocation]:
        query = convert.costs.stream_query_from_proto(request, domain.costs.stream_end(clock.now()))
        more, after = True, query.after
        while more:  # no transaction is open while the caller receives the batch
            async with self._db.read(call) as tx:
                rows = await store.costs.list_allocations(tx, query, after, _BATCH)
                corrections = await store.allocations.find_corrections(tx, [row.id for row in rows])
            for row in rows:
                yield convert.allocations.to_proto(row, corrections[row.id])
            more, after = len(rows) == _BATCH, rows[-1].id if rows else None
