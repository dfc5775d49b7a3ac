"""Test driver for cost reports, and for the allocations and reversals that they sum."""

from collections.abc import Sequence
from typing import Any, Final

from billing.entities.v1 import cost_service_pb2 as costs_pb
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.cost_pb2 import CostSum, CostSummary, DepartmentCosts
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity

from tests.entities.allocation_api import AllocationApi, line, money_text
from tests.entities.entities_api import _id
from tests.entities.tree_api import TreeApi
from tests.harness.callers import Caller
from tests.harness.services import Entities

YEAR: Final = ("2026-01-01", "2027-01-01")
_BATCH: Final = 1000


class CostsApi(TreeApi):
    """Calls CostService and AllocationService on behalf of a caller."""

    def __init__(self, caller: Caller, stubs: Entities) -> None:
        super().__init__(caller, stubs)
        self._allocations = AllocationApi(caller, stubs)
        self.costs_stub = stubs.costs

    async def allocate(
        self, department: Department | str, day: str, amount: str = "10.00 EUR", **fields: Any
    ) -> Allocation:
        return await self._allocations.allocate(department, amount, allocation_date=day, **fields)

    async def allocate_to_entity(self, entity: Entity, day: str, amount: str = "10.00 EUR", **fields: Any) -> None:
        await self._allocations.batch(line(entity, amount, allocation_date=day, **fields), atomic=True)

    async def allocate_many(self, department: Department, day: str, count: int) -> None:
        """Allocate `count` costs of 1.00 EUR."""
        lines = [line(department, "1.00 EUR", allocation_date=day) for _ in range(count)]
        for first in range(0, count, _BATCH):
            await self._allocations.batch(*lines[first : first + _BATCH], atomic=True)

    async def reverse(self, allocation: Allocation, day: str = "") -> Allocation:
        return await self._allocations.reverse(allocation, allocation_date=day)

    async def costs(
        self,
        department: Department | str,
        start: str = YEAR[0],
        end: str = YEAR[1],
        *,
        by: Sequence[str] = (),
        **fields: Any,
    ) -> DepartmentCosts:
        request = costs_pb.GetDepartmentCostsRequest(
            id=_id(department),
            start_date=start,
            end_date=end,
            group_by=map(DepartmentCosts.GroupBy.Value, by),
            **fields,
        )
        return await self.caller.call(self.costs_stub.GetDepartmentCosts, request)

    async def total(self, department: Department | str, *period: str, **fields: Any) -> str:
        """The costs of a department and all departments below it, as "10.00 EUR"."""
        costs = await self.costs(department, *period, include_descendants=True, **fields)
        return money_text(costs.total.cost)

    async def summary(
        self, *entities: Entity, period: tuple[str, str] = YEAR, by: Sequence[str] = (), **fields: Any
    ) -> costs_pb.SummarizeCostsResponse:
        request = costs_pb.SummarizeCostsRequest(
            start_date=period[0],
            end_date=period[1],
            entity_ids=[entity.id for entity in entities],
            group_by=map(CostSummary.GroupBy.Value, by),
            **fields,
        )
        return await self.caller.call(self.costs_stub.SummarizeCosts, request)

    async def stream(self, **fields: Any) -> list[Allocation]:
        """All messages of the stream."""
        request = costs_pb.StreamAllocationsRequest(**fields)
        allocations = self.costs_stub.StreamAllocations(request, metadata=self.caller.metadata, timeout=20)
        return [allocation async for allocation in allocations]


def sum_values(message: CostSum) -> tuple[str, int, int, list[str]]:
    """The cost, the numbers of allocations and reversals, and the original amounts."""
    originals = [money_text(original) for original in message.originals]
    return money_text(message.cost), message.allocation_count, message.reversal_count, originals
