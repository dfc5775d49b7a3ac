"""Timers of one kind under test: handlers that have an effect in the database, and what came of it."""

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


class Clockwork:
    """Handlers of one kind, which have an effect in the database and do what they are told to, and what came of it."""

    def __init__(self, db: Database, admin: "Pool[asyncpg.Record]", kind: str) -> None:
        self.db, self._admin, self.kind = db, admin, kind
        self.tries: list[UUID] = []
        self.failing: set[UUID] = set()
        self.then: Callable[[WriteSession, UUID], Awaitable[None]] | None = None

    @property
    def handler(self) -> TimerHandler:
        return due(self.kind)(self.act)

    async def act(self, tx: WriteSession, resource_id: UUID) -> None:
        self.tries.append(resource_id)
        outbox.append(tx, BudgetClosed(budget_id=f"{self.kind} {resource_id}"))
        await tx.flush()
        if self.then:
            await self.then(tx, resource_id)
        if resource_id in self.failing:
            raise RuntimeError("broken")

    async def act_outside(self, _: object, origin: Origin, resource_id: UUID) -> None:
        async with self.db.write(origin) as tx:
            await self.act(tx, resource_id)

    def replica(self, db: Database | None = None, handler: TimerHandler | None = None, **given: Any) -> Timers:
        return Timers(db or self.db, "budgets", (handler or self.handler,), **{"poll_s": 0.01, **given})

    async def set(self, origin: Origin, *resource_ids: UUID, at: timedelta = timedelta()) -> None:
        """By the clock of the database."""
        now = await self._admin.fetchval("select now()")
        async with self.db.write(origin) as tx:
            for resource_id in resource_ids:
                set_timer(tx, self.kind, resource_id, now + at)

    async def effects(self) -> list[UUID]:
        rows = await self._admin.fetch("select body from budgets.outbox where body like $1", f"%{self.kind}%")
        return [UUID(json_format.Parse(row["body"], BudgetClosed()).budget_id.split()[1]) for row in rows]

    async def had(self, *resource_ids: UUID) -> bool:
        return set(resource_ids) <= set(await self.effects())

    async def rows(self) -> list[asyncpg.Record]:
        query = "select *, due_time - now() as left, now() from budgets.timers where kind = $1 order by due_time"
        return await self._admin.fetch(query, self.kind)

    async def row(self, resource_id: UUID) -> asyncpg.Record:
        (row,) = [row for row in await self.rows() if row["resource_id"] == resource_id]
        return row

    async def over(self) -> bool:
        return not await self.rows()


@contextlib.asynccontextmanager
async def running(*replicas: Timers) -> AsyncIterator[None]:
    """Until the block ends."""
    parts = [asyncio.create_task(replica.run()) for replica in replicas]
    try:
        yield
    finally:
        await tasks.cancel_and_wait(*parts)


def some(count: int) -> list[UUID]:
    return [uuid4() for _ in range(count)]
