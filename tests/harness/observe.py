"""A look from outside at what a service did: rows, events, and time passing."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from nats.aio.client import Client
from nats.aio.msg import Msg
from sqlalchemy.pool import QueuePool

from kit.db import Database
from tests.harness.databases import Copy

T = TypeVar("T")
EventT = TypeVar("EventT", bound=Message)

_EVERY_S = 0.02


async def eventually(look: Callable[[], Awaitable[T]], *, within_s: float = 10.0, about: str = "") -> T:
    """The first true result of `look`, which is tried again and again; when the time is over the test fails.

    What it was `about` is told then.
    """
    deadline = time.monotonic() + within_s
    while True:
        found = await look()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"{about or 'waited for'}: still {found!r} after {within_s} s")
        await asyncio.sleep(_EVERY_S)


async def is_all_closed(
    admin: "asyncpg.Pool[asyncpg.Record]", copies: Iterable[Copy], databases: Iterable[Database]
) -> bool:
    """Whether no transaction is left open, and every connection is back in its pool."""
    open_transactions: int = await admin.fetchval(
        "select count(*) from pg_stat_activity where datname = any($1) and state like 'idle in transaction%'",
        [copy.name for copy in copies],
    )
    return open_transactions == 0 and all(_checked_out(database) == 0 for database in databases)


def _checked_out(database: Database) -> int:
    pool = database._engine.pool
    return pool.checkedout() if isinstance(pool, QueuePool) else 0


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """An event as it stands in an outbox."""

    id: UUID
    type: str
    body: Mapping[str, Any]
    actor: str
    traceparent: str
    published: bool


async def outbox_events(admin: "asyncpg.Pool[asyncpg.Record]", service: str, tenant_id: UUID) -> list[OutboxEvent]:
    """What the service said, oldest first."""
    rows = await admin.fetch(f"select * from {service}.outbox where tenant_id = $1 order by id", tenant_id)
    return [
        OutboxEvent(
            row["id"], row["type"], json.loads(row["body"]), row["actor"], row["traceparent"],
            row["publish_time"] is not None,
        )
        for row in rows
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A change as the audit log has it."""

    table: str
    id: UUID
    action: str
    actor: str
    trace_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


async def audit_rows(admin: "asyncpg.Pool[asyncpg.Record]", service: str, tenant_id: UUID) -> list[AuditRow]:
    """What the audit log of the service says, oldest first."""
    rows = await admin.fetch(f"select * from {service}.audit_log where tenant_id = $1 order by position", tenant_id)
    return [
        AuditRow(
            row["resource_table"], row["resource_id"], row["action"], row["actor"], row["trace_id"],
            json.loads(row["before"] or "null"), json.loads(row["after"] or "null"),
        )
        for row in rows
    ]  # fmt: skip


@dataclass(slots=True)
class PublishedEvents:
    """Every event that NATS carried for one tenant since the test began."""

    messages: list[Msg] = field(default_factory=list)

    async def take(self, message: Msg) -> None:
        """What the subscription calls."""
        self.messages.append(message)

    def of(self, event: type[EventT]) -> list[EventT]:
        """The events of this kind so far."""
        subject = event.DESCRIPTOR.full_name + "."
        told = [message for message in self.messages if message.subject.startswith(subject)]
        return [json_format.Parse(message.data, event()) for message in told]

    async def first(self, event: type[EventT], *, within_s: float = 10.0) -> EventT:
        """The first event of this kind, waited for."""
        return (await self.at_least(1, event, within_s=within_s))[0]

    async def at_least(self, count: int, event: type[EventT], *, within_s: float = 10.0) -> list[EventT]:
        """The events of this kind as soon as there are so many."""

        async def enough() -> list[EventT]:
            told = self.of(event)
            return told if len(told) >= count else []

        return await eventually(enough, within_s=within_s)

    def headers(self, event: type[Message]) -> Mapping[str, str]:
        """The headers of the first event of this kind."""
        subject = event.DESCRIPTOR.full_name + "."
        return next(message.headers or {} for message in self.messages if message.subject.startswith(subject))


async def listen(client: Client, tenant_id: UUID) -> tuple[PublishedEvents, Callable[[], Awaitable[None]]]:
    """Hear all events of a tenant from now on; the second is called to stop."""
    heard = PublishedEvents()
    subscription = await client.subscribe(f"billing.*.v1.*.{tenant_id.hex}", cb=heard.take)
    await subscribed(client)
    return heard, subscription.unsubscribe


async def subscribed(client: Client) -> None:
    """Have NATS know what the client subscribed to: its first ping overtakes that, the second does not."""
    await client.flush()
    await client.flush()
