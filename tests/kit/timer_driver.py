"""Timers of one kind under test: a handler that writes to the database, and queries for what it wrote."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from billing.budgets.v1.events_pb2 import BudgetClosed
from google.protobuf import json_format

from eventing import outbox
from eventing.timers import TimerHandler, Timers, due, set_timer
from kit import tasks
from kit.db import Database, WriteSession
from kit.origin import Origin

Pool = asyncpg.Pool
HOUR = timedelta(hours=1)


class TimerDriver:
    """A handler of one kind that writes to the database and fails on demand, and queries for what it wrote."""

    def __init__(self, db: Database, admin: "Pool[asyncpg.Record]", kind: str) -> None:
        self.db, self._admin, self.kind = db, admin, kind
        self.calls: list[UUID] = []
        self.failing: set[UUID] = set()
        self.on_call: Callable[[WriteSession, UUID], Awaitable[None]] | None = None

    @property
    def handler(self) -> TimerHandler:
        return due(self.kind)(self.handle)

    @property
    def own_transaction_handler(self) -> TimerHandler:
        return due(self.kind, own_transaction=True)(self.handle_in_own_transaction)

    async def handle(self, tx: WriteSession, resource_id: UUID) -> None:
        self.calls.append(resource_id)
        outbox.append(tx, BudgetClosed(budget_id=f"{self.kind} {resource_id}"))
        await tx.flush()
        if self.on_call:
            await self.on_call(tx, resource_id)
        if resource_id in self.failing:
            raise RuntimeError("broken")

    async def handle_in_own_transaction(self, _: object, origin: Origin, resource_id: UUID) -> None:
        async with self.db.write(origin) as tx:
            await self.handle(tx, resource_id)

    def replica(self, db: Database | None = None, handler: TimerHandler | None = None, **options: Any) -> Timers:
        return Timers(db or self.db, "budgets", (handler or self.handler,), **{"poll_s": 0.01, **options})

    async def set(self, origin: Origin, *resource_ids: UUID, at: timedelta = timedelta()) -> None:
        """Set timers that become due `at` from now, by the clock of the database."""
        now = await self._admin.fetchval("select now()")
        async with self.db.write(origin) as tx:
            for resource_id in resource_ids:
                set_timer(tx, self.kind, resource_id, now + at)

    async def effects(self) -> list[UUID]:
        rows = await self._admin.fetch("select body from budgets.outbox where body like $1", f"%{self.kind}%")
        return [UUID(json_format.Parse(row["body"], BudgetClosed()).budget_id.split()[1]) for row in rows]

    async def has_effects(self, *resource_ids: UUID) -> bool:
        return set(resource_ids) <= set(await self.effects())

    async def rows(self) -> list[asyncpg.Record]:
        query = "select *, due_time - now() as left, now() from budgets.timers where kind = $1 order by due_time"
        return await self._admin.fetch(query, self.kind)

    async def row(self, resource_id: UUID) -> asyncpg.Record:
        (row,) = [row for row in await self.rows() if row["resource_id"] == resource_id]
        return row

    async def is_empty(self) -> bool:
        return not await self.rows()


@contextlib.asynccontextmanager
async def running(*replicas: Timers) -> AsyncIterator[None]:
    """Run the replicas until the block ends."""
    parts = [asyncio.create_task(replica.run()) for replica in replicas]
    try:
        yield
    finally:
        await tasks.cancel_and_wait(*parts)


def new_ids(count: int) -> list[UUID]:
    return [uuid4() for _ in range(count)]
