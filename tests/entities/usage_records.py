"""Test doubles for usage records: the usage tracking system, and a replica that handles its events."""

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from google.protobuf import json_format
from nats.aio.client import Client
from outside.usage.v1.usage_pb2 import UsageRecorded

from kit import clock
from tests.entities.allocation_api import money
from tests.harness.events import headers_of
from tests.harness.observe import eventually

CONSUMER = "entities.allocate_usage"


def usage(target: Department | Entity | None, amount: str = "10.00 EUR", **fields: Any) -> UsageRecorded:
    """A record of the current time, with a new id by default."""
    record = UsageRecorded(record_id=uuid4().hex, amount=money(amount), category="cloud")
    record.usage_time.FromDatetime(clock.now())
    if isinstance(target, Department):
        record.entity_id, record.department_id = target.entity_id, target.id
    elif target:
        record.entity_id = target.id
    record.MergeFrom(UsageRecorded(**fields))
    return record


class UsageTracking:
    """The usage tracking system, which publishes usage records of one tenant."""

    def __init__(self, nats: Client, tenant_id: UUID, admin: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._jetstream, self.tenant_id, self._admin = nats.jetstream(), tenant_id, admin

    async def publish(self, *records: UsageRecorded, event_id: UUID | None = None) -> None:
        await asyncio.gather(*(self.publish_raw(json_format.MessageToJson(each), event_id) for each in records))

    async def publish_raw(self, body: str, event_id: UUID | None = None) -> None:
        headers = headers_of(UsageRecorded, event_id)
        subject = f"{UsageRecorded.DESCRIPTOR.full_name}.{self.tenant_id.hex}"
        await self._jetstream.publish(subject, body.encode(), headers=headers, timeout=20)

    async def count_allocations(self) -> Mapping[str, int]:
        """Number of allocations of each record."""
        query = "select source_ref, count(*) from entities.cost_allocations where tenant_id = $1 group by 1"
        return {row["source_ref"]: row["count"] for row in await self._admin.fetch(query, self.tenant_id)}

    async def wait_until_allocated(self, *records: UsageRecorded, within_s: float = 20.0) -> None:
        """Wait until all of the records are allocated."""
        record_ids = {each.record_id for each in records}

        async def all_allocated() -> bool:
            return record_ids <= (await self.count_allocations()).keys()

        await eventually(all_allocated, within_s=within_s)

    async def wait_for_dead_letters(self, count: int = 1) -> list[asyncpg.Record]:
        """The dead letters, oldest first, once there are `count`."""
        query = "select * from entities.dead_letters where tenant_id = $1 and consumer = $2 order by id"

        async def enough() -> list[asyncpg.Record]:
            letters = await self._admin.fetch(query, self.tenant_id, CONSUMER)
            return letters if len(letters) >= count else []

        return await eventually(enough)

    async def published_records(self) -> list[str]:
        """The records of published CostAllocated events."""
        query = (
            "select body::json->>'source_ref' as ref from entities.outbox"
            " where tenant_id = $1 and type = 'billing.entities.v1.CostAllocated' order by id"
        )
        return [row["ref"] for row in await self._admin.fetch(query, self.tenant_id)]
