"""A consumer under test: its handler, the events it gets, and what it writes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing.budgets.v1.events_pb2 import BudgetClosed
from google.protobuf import json_format
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from eventing import outbox
from eventing.consumer import Consumer, Handler
from eventing.subjects import STREAM
from kit import tasks
from kit.db import Database, WriteSession
from kit.telemetry import Trace
from tests.harness.events import headers_of

Pool = asyncpg.Pool
Publish = Callable[..., Awaitable[UUID]]


class FakeHandler:
    """A handler that counts its calls, writes to the database, and fails on demand."""

    def __init__(self, tenant_id: UUID) -> None:
        self.tenant_id = tenant_id
        self.tries = 0
        self.failures: list[BaseException] = []
        self.failing: BaseException | None = None
        self.transactions: list[WriteSession] = []

    async def handle(self, tx: WriteSession, event: BudgetClosed) -> None:
        if tx.tenant_id != self.tenant_id:  # published by another test
            return
        self.tries += 1
        outbox.append(tx, BudgetClosed(budget_id=f"effect of {event.budget_id}"))
        await tx.flush()
        self.transactions.append(tx)
        if self.failures:
            raise self.failures.pop()
        if self.failing:
            raise self.failing


@pytest.fixture
def handler(tenant: UUID) -> FakeHandler:
    return FakeHandler(tenant)


@pytest.fixture
async def consumer(
    db: Database, jetstream: JetStreamContext, handler: FakeHandler, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Consumer]:
    """A running consumer with a name of its own and short retry delays."""
    monkeypatch.setattr(Consumer, "retry_delays_s", (0.01,))
    consumer = Consumer(db, "budgets", Handler(f"react_{uuid4().hex}", BudgetClosed, handler.handle))
    async with consuming(consumer, jetstream):
        yield consumer


@contextlib.asynccontextmanager
async def consuming(consumer: Consumer, jetstream: JetStreamContext) -> AsyncIterator[None]:
    task = asyncio.create_task(consumer.run(jetstream))
    try:
        yield
    finally:
        await tasks.cancel_and_wait(task)
        with contextlib.suppress(NotFoundError):  # another replica deleted it
            await jetstream.delete_consumer(STREAM, consumer.name.replace(".", "_"))


@pytest.fixture
def publish(jetstream: JetStreamContext, tenant: UUID) -> Callable[..., Awaitable[UUID]]:
    """Publishes an event like a relay; body and headers can be overridden."""

    async def publish(budget_id: str = "b", *, event_id: UUID | None = None, body: bytes = b"", **headers: str) -> UUID:
        id = event_id or uuid4()
        body = body or json_format.MessageToJson(BudgetClosed(budget_id=budget_id)).encode()
        changed = {"ce_actor": "carol", "traceparent": Trace.from_header(None).header(), **headers}
        all_headers = headers_of(BudgetClosed, id, **changed)
        await jetstream.publish(f"billing.budgets.v1.BudgetClosed.{tenant.hex}", body, headers=all_headers)
        return id

    return publish


class Results:
    """What the consumers wrote to the database."""

    def __init__(self, admin: "Pool[asyncpg.Record]", tenant_id: UUID) -> None:
        self._admin, self._tenant_id = admin, tenant_id

    async def effects(self) -> list[str]:
        rows = await self._admin.fetch("select body from budgets.outbox where tenant_id = $1", self._tenant_id)
        return [json_format.Parse(row["body"], BudgetClosed()).budget_id for row in rows]

    async def inbox_count(self, consumer: str) -> int:
        """Return the number of events in the inbox of a consumer."""
        counted = "select count(*) from budgets.inbox where tenant_id = $1 and consumer = $2"
        count: int = await self._admin.fetchval(counted, self._tenant_id, consumer)
        return count

    async def dead_letters(self) -> list[asyncpg.Record]:
        return await self._admin.fetch("select * from budgets.dead_letters where tenant_id = $1", self._tenant_id)


@pytest.fixture
def results(kit_admin: "Pool[asyncpg.Record]", tenant: UUID) -> Results:
    return Results(kit_admin, tenant)
