"""Publishes events of allocated costs like the entities service, and reads their effects."""

from typing import Any
from uuid import UUID

import asyncpg
from billing.budgets.v1 import budget_report_service_pb2 as pb
from billing.budgets.v1.unbudgeted_pb2 import UnbudgetedSpend
from billing.entities.v1.events_pb2 import AllocationCredited, AllocationReversed, CostAllocated
from billing.type.v1.money_pb2 import Money
from google.protobuf import json_format
from google.protobuf.message import Message
from nats.aio.client import Client

from kit import clock, ids
from kit.telemetry import Trace
from services.budgets.service.allocated_costs import ALLOCATED
from tests.budgets.budgets_api import BudgetsApi
from tests.harness.events import headers_of
from tests.harness.observe import eventually


def today() -> str:
    return clock.now().date().isoformat()


def allocation(entity_id: str, amount: str | Money = "10.00", **given: Any) -> CostAllocated:
    """Return the event of a cost of today; fields in `given` override the defaults."""
    event = CostAllocated(
        allocation_id=ids.ALLOCATION.format(ids.new()),
        entity_id=entity_id,
        amount=Money(currency_code="EUR", amount=amount) if isinstance(amount, str) else amount,
        allocation_date=today(),
        source="USAGE",
        description="Compute",
    )
    event.MergeFrom(CostAllocated(**given))
    return event


def reversal(of: CostAllocated) -> AllocationReversed:
    return AllocationReversed(
        allocation_id=ids.ALLOCATION.format(ids.new()),
        reversed_allocation_id=of.allocation_id,
        entity_id=of.entity_id,
        department_id=of.department_id,
        amount=of.amount,
        allocation_date=today(),
        reason="Metered twice",
    )


def credit(of: CostAllocated, amount: str) -> AllocationCredited:
    return AllocationCredited(
        allocation_id=ids.ALLOCATION.format(ids.new()),
        credited_allocation_id=of.allocation_id,
        entity_id=of.entity_id,
        department_id=of.department_id,
        amount=Money(currency_code=of.amount.currency_code, amount=amount),
        allocation_date=today(),
        source_ref="CN-1",
        reason="Outage",
    )


class CostEvents:
    """Publishes events like the entities service."""

    def __init__(self, nats: Client, tenant_id: UUID, api: BudgetsApi, admin: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._nats, self._tenant_id, self._api, self._admin = nats, tenant_id, api, admin

    async def publish(self, *events: Message, event_id: UUID | None = None) -> None:
        jetstream = self._nats.jetstream()
        for event in events:
            traceparent = Trace.from_header(None).header()
            headers = headers_of(type(event), event_id, ce_actor="carol", traceparent=traceparent)
            body = json_format.MessageToJson(event, preserving_proto_field_name=True).encode()
            await jetstream.publish(f"{event.DESCRIPTOR.full_name}.{self._tenant_id.hex}", body, headers=headers)

    async def done(self, *events: CostAllocated) -> None:
        """Wait until the allocations were processed."""
        keys = [f"allocation:{event.allocation_id}" for event in events]
        query = "select count(*) from budgets.idempotency_keys where tenant_id = $1 and method = $2 and key = any($3)"

        async def all_stored() -> bool:
            return bool(await self._admin.fetchval(query, self._tenant_id, ALLOCATED, keys) == len(keys))

        await eventually(all_stored)

    async def __call__(self, *events: CostAllocated) -> None:
        """Publish costs and wait until they were processed."""
        await self.publish(*events)
        await self.done(*events)

    async def unbudgeted(self, count: int, **given: Any) -> list[UnbudgetedSpend]:
        """Wait for this number of rows of unbudgeted spend; return them, newest first."""

        async def enough() -> list[UnbudgetedSpend]:
            rows = await unbudgeted(self._api, **given)
            return rows if len(rows) >= count else []

        spends = await eventually(enough)
        assert len(spends) == count
        return spends


async def unbudgeted(api: BudgetsApi, **given: Any) -> list[UnbudgetedSpend]:
    page = await api.who.call(api.stubs.reports.ListUnbudgetedSpend, pb.ListUnbudgetedSpendRequest(**given))
    return list(page.unbudgeted_spend)
