"""Records of usage, as the usage tracking system says them."""

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from google.protobuf import json_format
from google.protobuf.message import Message
from nats.aio.client import Client
from outside.usage.v1.usage_pb2 import UsageRecorded

from eventing.consumer import Consumer, Delivery
from kit import clock
from kit.telemetry import Trace
from serving.server import Service
from tests.entities.allocation_api import money
from tests.harness.observe import eventually

CONSUMER = "entities.allocate_usage"


def usage(bearer: Department | Entity | None, amount: str = "10.00 EUR", **given: Any) -> UsageRecorded:
    """A record of just now, with an id of its own unless one is given."""
    record = UsageRecorded(record_id=uuid4().hex, amount=money(amount), category="cloud")
    record.usage_time.FromDatetime(clock.now())
    if isinstance(bearer, Department):
        record.entity_id, record.department_id = bearer.entity_id, bearer.id
    elif bearer:
        record.entity_id = bearer.id
    record.MergeFrom(UsageRecorded(**given))
    return record


class Tracked:
    """The usage tracking system, which says what was used to one tenant."""

    def __init__(self, nats: Client, tenant_id: UUID, admin: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._jetstream, self.tenant_id, self._admin = nats.jetstream(), tenant_id, admin

    async def say(self, *records: UsageRecorded, event_id: UUID | None = None) -> None:
        await asyncio.gather(*(self.say_raw(json_format.MessageToJson(each), event_id) for each in records))

    async def say_raw(self, body: str, event_id: UUID | None = None) -> None:
        headers = {"ce-id": str(event_id or uuid4()), "ce-source": "/usage-tracking"}
        subject = f"{UsageRecorded.DESCRIPTOR.full_name}.{self.tenant_id.hex}"
        await self._jetstream.publish(subject, body.encode(), headers=headers, timeout=20)

    async def counted(self) -> Mapping[str, int]:
        """How often each record is allocated."""
        query = "select source_ref, count(*) from entities.cost_allocations where tenant_id = $1 group by 1"
        return {row["source_ref"]: row["count"] for row in await self._admin.fetch(query, self.tenant_id)}

    async def done(self, *records: UsageRecorded, within_s: float = 20.0) -> None:
        """Wait until all of the records are allocated."""
        wanted = {each.record_id for each in records}

        async def all_there() -> bool:
            return wanted <= (await self.counted()).keys()

        await eventually(all_there, within_s=within_s)

    async def buried(self, count: int = 1) -> list[asyncpg.Record]:
        """The dead letters, oldest first, as soon as there are so many."""
        query = "select * from entities.dead_letters where tenant_id = $1 and consumer = $2 order by id"

        async def enough() -> list[asyncpg.Record]:
            found = await self._admin.fetch(query, self.tenant_id, CONSUMER)
            return found if len(found) >= count else []

        return await eventually(enough)

    async def told(self) -> list[str]:
        """The records that were told on as allocated costs."""
        query = (
            "select body::json->>'source_ref' as ref from entities.outbox"
            " where tenant_id = $1 and type = 'billing.entities.v1.CostAllocated' order by id"
        )
        return [row["ref"] for row in await self._admin.fetch(query, self.tenant_id)]


class Replica:
    """A service without a server, with connections of its own, which is handed events one by one."""

    def __init__(self, service: Service, tenant_id: UUID) -> None:
        self._consumers = {
            handler.event: Consumer(service.db, "entities", handler, service.dependencies)
            for handler in service.handlers
        }
        self._tenant_id = tenant_id

    async def take(self, event: Message) -> None:
        """Raises what its handler raises."""
        subject = f"{event.DESCRIPTOR.full_name}.{self._tenant_id.hex}"
        delivery = Delivery(uuid4(), self._tenant_id, subject, json_format.MessageToJson(event), "/usage-tracking", "")
        await self._consumers[type(event)].handle(delivery, Trace.from_header(None))
