"""Test driver for cost allocations."""

from collections.abc import Sequence
from decimal import Decimal
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
"""The rows of a page, and the token of the next one."""


def today() -> str:
    return clock.now().date().isoformat()


def money(text: str) -> Money:
    """Parse "12.50 EUR"."""
    amount, currency = text.split()
    return Money(amount=amount, currency_code=currency)


def money_text(message: Money) -> str:
    """The inverse of `money`."""
    return f"{message.amount} {message.currency_code}"


def cost(amount: str = "10.00 EUR", **fields: Any) -> dict[str, Any]:
    """The fields of a cost dated today."""
    return {"amount": money(amount), "allocation_date": today(), **fields}


def line(target: Department | Entity | None, amount: str = "10.00 EUR", **fields: Any) -> pb.CostLine:
    """A line of a batch."""
    message = pb.CostLine(**cost(amount, **fields))
    if isinstance(target, Entity):
        message.entity_id = target.id
    elif target:
        message.department_id = target.id
    return message


class AllocationApi:
    """Calls AllocationService on behalf of a caller, with a new idempotency key by default."""

    def __init__(self, caller: Caller, stubs: Entities) -> None:
        self.caller = caller
        self.stub = stubs.allocations

    async def allocate(
        self, department: Department | str, amount: str = "10.00 EUR", *, request_id: str = "", **fields: Any
    ) -> Allocation:
        request = pb.AllocateCostRequest(id=_id(department), request_id=_key(request_id), **cost(amount, **fields))
        return await self.caller.call(self.stub.AllocateCost, request)

    async def batch(
        self, *lines: pb.CostLine, atomic: bool = False, request_id: str = ""
    ) -> pb.BatchAllocateCostsResponse:
        request = pb.BatchAllocateCostsRequest(allocations=lines, atomic=atomic, request_id=_key(request_id))
        return await self.caller.call(self.stub.BatchAllocateCosts, request)

    async def reverse(
        self, allocation: Allocation | str, reason: str = "Entered twice", *, request_id: str = "", **fields: Any
    ) -> Allocation:
        request = pb.ReverseAllocationRequest(id=_id(allocation), reason=reason, request_id=_key(request_id), **fields)
        return await self.caller.call(self.stub.ReverseAllocation, request)

    async def credit(
        self, allocation: Allocation | str, amount: str, *, request_id: str = "", **fields: Any
    ) -> Allocation:
        fields = {"reason": "Outage", **fields}
        request = pb.CreditAllocationRequest(
            id=_id(allocation), amount=money(amount), request_id=_key(request_id), **fields
        )
        return await self.caller.call(self.stub.CreditAllocation, request)

    async def get(self, allocation: Allocation | str) -> Allocation:
        return await self.caller.call(self.stub.GetAllocation, pb.GetAllocationRequest(id=_id(allocation)))

    async def page(self, department: Department | str, **fields: Any) -> Page:
        request = pb.ListAllocationsRequest(id=_id(department), **fields)
        response = await self.caller.call(self.stub.ListAllocations, request)
        return list(response.allocations), response.next_page_token

    async def list_all(self, department: Department | str, **filters: Any) -> list[Allocation]:
        """All allocations that match."""
        allocations, token = await self.page(department, page_size=1000, **filters)
        assert not token
        return allocations


def amounts(allocations: Sequence[Allocation]) -> list[str]:
    return [money_text(each.amount) for each in allocations]


def total(allocations: Sequence[Allocation]) -> tuple[Decimal, Decimal]:
    """The sums in the original currency and in that of the entities."""
    original = sum((Decimal(each.amount.amount) for each in allocations), Decimal(0))
    return original, sum((Decimal(each.entity_amount.amount) for each in allocations), Decimal(0))


def _id(resource: Department | Allocation | str) -> str:
    return resource if isinstance(resource, str) else resource.id


def _key(request_id: str) -> str:
    return request_id or uuid4().hex
