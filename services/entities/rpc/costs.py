"""The gRPC side of costs."""

from collections.abc import AsyncIterator
from typing import Final

from billing.entities.v1 import cost_service_pb2 as costs_pb
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.cost_pb2 import DepartmentCosts

from kit.db import Database
from kit.origin import Call
from services.entities import convert, service, store

_ALLOCATIONS_AT_ONCE: Final = 500
"""As many as a transaction of a stream reads."""


class CostServicer:
    """billing.entities.v1.CostService."""

    service = costs_pb.DESCRIPTOR.services_by_name["CostService"]

    def __init__(self, db: Database) -> None:
        self._db = db

    async def GetDepartmentCosts(self, request: costs_pb.GetDepartmentCostsRequest, call: Call) -> DepartmentCosts:
        ask = convert.costs.department_ask_from_proto(request)
        async with self._db.read(call) as tx:
            found = await service.costs.get_of_department(tx, ask, currency=request.currency_code)
        return convert.costs.department_costs_to_proto(ask, found)

    async def SummarizeCosts(
        self, request: costs_pb.SummarizeCostsRequest, call: Call
    ) -> costs_pb.SummarizeCostsResponse:
        ask = convert.costs.summary_ask_from_proto(request)
        async with self._db.read(call) as tx:
            found, rates = await service.costs.summarize(tx, ask, currency=request.currency_code)
        return costs_pb.SummarizeCostsResponse(
            summaries=[convert.costs.summary_to_proto(ask, each) for each in found],
            conversion_rates=map(convert.costs.rate_to_proto, rates),
        )

    async def StreamAllocations(
        self, request: costs_pb.StreamAllocationsRequest, call: Call
    ) -> AsyncIterator[Allocation]:
        ask, after = convert.costs.feed_ask_from_proto(request)
        more = True
        while more:  # no transaction is open while the caller takes what was found
            async with self._db.read(call) as tx:
                found = await store.costs.list_allocations(tx, ask, after, _ALLOCATIONS_AT_ONCE)
                reversals = await store.allocations.find_reversals(tx, [row.id for row in found])
            for allocation in convert.allocations.allocations_to_proto(found, reversals):
                yield allocation
            more, after = len(found) == _ALLOCATIONS_AT_ONCE, found[-1].id if found else None
