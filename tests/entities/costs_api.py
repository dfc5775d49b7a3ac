"""A api at which costs are allocated, taken back, and added up."""

from collections.abc import Sequence
from typing import Any, Final

from billing.entities.v1 import cost_service_pb2 as costs_pb
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.cost_pb2 import CostSum, CostSummary, DepartmentCosts
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity

from tests.entities.allocation_api import AllocationApi, line, money_text
from tests.entities.conftest import _id
from tests.entities.tree_api import TreeApi
from tests.harness.callers import Caller
from tests.harness.services import Entities

YEAR: Final = ("2026-01-01", "2027-01-01")
_BATCH: Final = 1000


class CostsApi(TreeApi):
    """What somebody does with costs, in few words."""

    def __init__(self, who: Caller, stubs: Entities) -> None:
        super().__init__(who, stubs)
        self._allocations = AllocationApi(who, stubs)
        self.costs_stub = stubs.costs

    async def allocate(
        self, department: Department | str, day: str, amount: str = "10.00 EUR", **given: Any
    ) -> Allocation:
        return await self._allocations.allocate(department, amount, allocation_date=day, **given)

    async def allocate_to_entity(self, entity: Entity, day: str, amount: str = "10.00 EUR", **given: Any) -> None:
        """A cost that the entity bears as a whole."""
        await self._allocations.batch(line(entity, amount, allocation_date=day, **given), atomic=True)

    async def allocate_many(self, department: Department, day: str, count: int) -> None:
        """So many costs of 1.00 EUR."""
        lines = [line(department, "1.00 EUR", allocation_date=day) for _ in range(count)]
        for place in range(0, count, _BATCH):
            await self._allocations.batch(*lines[place : place + _BATCH], atomic=True)

    async def reverse(self, allocation: Allocation, day: str = "") -> Allocation:
        return await self._allocations.reverse(allocation, allocation_date=day)

    async def costs(
        self,
        department: Department | str,
        start: str = YEAR[0],
        end: str = YEAR[1],
        *,
        by: Sequence[str] = (),
        **given: Any,
    ) -> DepartmentCosts:
        """What a department cost, by "MONTH" and others."""
        request = costs_pb.GetDepartmentCostsRequest(
            id=_id(department), start_date=start, end_date=end, group_by=map(DepartmentCosts.GroupBy.Value, by), **given
        )
        return await self.caller.call(self.costs_stub.GetDepartmentCosts, request)

    async def total(self, department: Department | str, *period: str, **given: Any) -> str:
        """What a department cost, with all that is below it, as "10.00 EUR"."""
        found = await self.costs(department, *period, include_descendants=True, **given)
        return money_text(found.total.cost)

    async def summary(
        self, *entities: Entity, period: tuple[str, str] = YEAR, by: Sequence[str] = (), **given: Any
    ) -> costs_pb.SummarizeCostsResponse:
        """What entities cost."""
        request = costs_pb.SummarizeCostsRequest(
            start_date=period[0],
            end_date=period[1],
            entity_ids=[entity.id for entity in entities],
            group_by=map(CostSummary.GroupBy.Value, by),
            **given,
        )
        return await self.caller.call(self.costs_stub.SummarizeCosts, request)

    async def stream(self, **given: Any) -> list[Allocation]:
        """All that the stream tells until it ends."""
        request = costs_pb.StreamAllocationsRequest(**given)
        told = self.costs_stub.StreamAllocations(request, metadata=self.caller.metadata, timeout=20)
        return [allocation async for allocation in told]


def told(added: CostSum) -> tuple[str, int, int, list[str]]:
    """A sum: the cost, how many allocations and reversals, and what that was before it was converted."""
    originals = [money_text(original) for original in added.originals]
    return money_text(added.cost), added.allocation_count, added.reversal_count, originals
