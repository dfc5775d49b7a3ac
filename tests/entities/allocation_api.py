"""A api at which costs are allocated."""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from billing.entities.v1 import allocation_service_pb2 as pb
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from billing.type.v1.money_pb2 import Money

from kit import clock
from tests.harness.callers import Caller
from tests.harness.services import Entities

Page = tuple[list[Allocation], str]
"""Some of a list, and the token of the next page."""


def today() -> str:
    return clock.now().date().isoformat()


def money(text: str) -> Money:
    """Out of "12.50 EUR"."""
    amount, currency = text.split()
    return Money(amount=amount, currency_code=currency)


def money_text(message: Money) -> str:
    """As `money` takes it."""
    return f"{message.amount} {message.currency_code}"


def cost(amount: str = "10.00 EUR", **given: Any) -> dict[str, Any]:
    """The fields of a cost of today."""
    return {"amount": money(amount), "allocation_date": today(), **given}


def line(bearer: Department | Entity | None, amount: str = "10.00 EUR", **given: Any) -> pb.CostLine:
    """A line of a batch."""
    named = pb.CostLine(**cost(amount, **given))
    if isinstance(bearer, Entity):
        named.entity_id = bearer.id
    elif bearer:
        named.department_id = bearer.id
    return named


class AllocationApi:
    """What somebody does with cost allocations, in few words; a request has a new key unless one is given."""

    def __init__(self, who: Caller, stubs: Entities) -> None:
        self.caller = who
        self.stub = stubs.allocations

    async def allocate(
        self, department: Department | str, amount: str = "10.00 EUR", *, request_id: str = "", **given: Any
    ) -> Allocation:
        request = pb.AllocateCostRequest(id=_id(department), request_id=_key(request_id), **cost(amount, **given))
        return await self.caller.call(self.stub.AllocateCost, request)

    async def batch(
        self, *lines: pb.CostLine, atomic: bool = False, request_id: str = ""
    ) -> pb.BatchAllocateCostsResponse:
        request = pb.BatchAllocateCostsRequest(allocations=lines, atomic=atomic, request_id=_key(request_id))
        return await self.caller.call(self.stub.BatchAllocateCosts, request)

    async def reverse(
        self, allocation: Allocation | str, reason: str = "Entered twice", *, request_id: str = "", **given: Any
    ) -> Allocation:
        named = _id(allocation)
        request = pb.ReverseAllocationRequest(id=named, reason=reason, request_id=_key(request_id), **given)
        return await self.caller.call(self.stub.ReverseAllocation, request)

    async def get(self, allocation: Allocation | str) -> Allocation:
        return await self.caller.call(self.stub.GetAllocation, pb.GetAllocationRequest(id=_id(allocation)))

    async def page(self, department: Department | str, **given: Any) -> Page:
        request = pb.ListAllocationsRequest(id=_id(department), **given)
        answer = await self.caller.call(self.stub.ListAllocations, request)
        return list(answer.allocations), answer.next_page_token

    async def listed(self, department: Department | str, **filters: Any) -> list[Allocation]:
        """All that fit."""
        found, token = await self.page(department, page_size=1000, **filters)
        assert not token
        return found


def amounts(allocations: Sequence[Allocation]) -> list[str]:
    return [money_text(each.amount) for each in allocations]


def _id(resource: Department | Allocation | str) -> str:
    return resource if isinstance(resource, str) else resource.id


def _key(given: str) -> str:
    return given or uuid4().hex
