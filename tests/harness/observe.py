"""Observe the effects of a service: rows, events, and conditions that become true."""

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

_POLL_S = 0.02


async def eventually(check: Callable[[], Awaitable[T]], *, within_s: float = 10.0, about: str = "") -> T:
    """Call `check` until its result is true and return that; fail the test after `within_s`, naming `about`."""
    deadline = time.monotonic() + within_s
    while True:
        result = await check()
        if result:
            return result
        if time.monotonic() > deadline:
            pytest.fail(f"{about or 'condition'}: still {result!r} after {within_s} s")
        await asyncio.sleep(_POLL_S)


async def until_blocked(
    admin: "asyncpg.Pool[asyncpg.Record]", connections: int = 1, *, application: str = "%", query: str = "%"
) -> None:
    """Wait until this number of connections wait for a lock, of those whose name and query match the SQL patterns."""
    count = (
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        " and application_name like $1 and query like $2"
    )

    async def are_blocked() -> bool:
        return bool(await admin.fetchval(count, application, query) >= connections)

    await eventually(are_blocked, about=f"{connections} connections that wait for a lock")


async def is_all_closed(
    admin: "asyncpg.Pool[asyncpg.Record]", copies: Iterable[Copy], databases: Iterable[Database]
) -> bool:
    """True if no transaction is open and every connection is back in its pool."""
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
    """A row of an outbox."""

    id: UUID
    type: str
    body: Mapping[str, Any]
    actor: str
    traceparent: str
    published: bool


async def outbox_events(admin: "asyncpg.Pool[asyncpg.Record]", service: str, tenant_id: UUID) -> list[OutboxEvent]:
    """Read the outbox of a service, oldest first."""
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
    """A row of an audit log."""

    table: str
    id: UUID
    action: str
    actor: str
    trace_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


async def audit_rows(admin: "asyncpg.Pool[asyncpg.Record]", service: str, tenant_id: UUID) -> list[AuditRow]:
    """Read the audit log of a service, oldest first."""
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
    """The events that NATS has delivered for one tenant since the test began."""

    messages: list[Msg] = field(default_factory=list)

    async def take(self, message: Msg) -> None:
        """Store a message; the callback of the subscription."""
        self.messages.append(message)

    def of(self, event: type[EventT]) -> list[EventT]:
        """Return the events of this type so far."""
        subject = event.DESCRIPTOR.full_name + "."
        messages = [message for message in self.messages if message.subject.startswith(subject)]
        return [json_format.Parse(message.data, event()) for message in messages]

    async def first(self, event: type[EventT], *, within_s: float = 10.0) -> EventT:
        """Wait for the first event of this type."""
        return (await self.at_least(1, event, within_s=within_s))[0]

    async def at_least(self, count: int, event: type[EventT], *, within_s: float = 10.0) -> list[EventT]:
        """Wait for `count` events of this type and return all so far."""

        async def enough() -> list[EventT]:
            events = self.of(event)
            return events if len(events) >= count else []

        return await eventually(enough, within_s=within_s)

    def headers(self, event: type[Message]) -> Mapping[str, str]:
        """Return the headers of the first event of this type."""
        subject = event.DESCRIPTOR.full_name + "."
        return next(message.headers or {} for message in self.messages if message.subject.startswith(subject))


async def subscribe(client: Client, tenant_id: UUID) -> tuple[PublishedEvents, Callable[[], Awaitable[None]]]:
    """Subscribe to all events of a tenant; also returns the function that unsubscribes."""
    events = PublishedEvents()
    subscription = await client.subscribe(f"billing.*.v1.*.{tenant_id.hex}", cb=events.take)
    await subscribed(client)
    return events, subscription.unsubscribe


async def subscribed(client: Client) -> None:
    """Wait until NATS has registered the subscriptions; the first ping may overtake them, the second can't."""
    await client.flush()
    await client.flush()
