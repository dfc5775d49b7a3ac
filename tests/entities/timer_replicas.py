"""Replicas of the timers of the entities service: several at once, and one that is killed before it commits."""

import asyncio
import contextlib
import multiprocessing
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from eventing.timers import Timers, due
from kit.db import Database, WriteSession
from kit.settings import Settings
from services.entities import timers
from tests.harness.databases import Copy
from tests.harness.observe import outbox_events
from tests.harness.services import Entities, Served
from tests.kit.timer_driver import running

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class TimerlessService:
    """The service on its own database, where timers fire only while a test runs `replicas`."""

    served: Served[Entities]
    copy: Copy
    admin: Admin

    @property
    def settings(self) -> Settings:
        return self.served.settings

    async def count_events(self, tenant_id: UUID) -> dict[tuple[str, str], int]:
        """The number of published events by type and contract id."""
        events = await outbox_events(self.admin, "entities", tenant_id)
        return Counter((event.type.rpartition(".")[2], event.body.get("contract_id", "")) for event in events)

    async def has_no_due_timer(self, tenant_id: UUID) -> bool:
        """True if no timer of the tenant is due within an hour."""
        query = "select count(*) from entities.timers where tenant_id = $1 and due_time < now() + interval '1 hour'"
        return bool(await self.admin.fetchval(query, tenant_id) == 0)


@contextlib.asynccontextmanager
async def replicas(timerless: TimerlessService, number: int) -> AsyncIterator[None]:
    """Run this many replicas of the timers, each with its own database connections."""
    async with contextlib.AsyncExitStack() as stack:
        databases = [Database(timerless.settings) for _ in range(number)]
        for database in databases:
            stack.push_async_callback(database.close)
        running_timers = [
            Timers(database, "entities", timers.HANDLERS, poll_s=0.01, lease_s=2) for database in databases
        ]
        async with running(*running_timers):
            yield


@contextlib.contextmanager
def process_before_commit(settings: Settings, kind: str) -> Iterator[tuple[Any, Pipe]]:
    """Run a replica in a process that sends the resource id over the pipe when it could commit, and then hangs."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=run_hanging_replica, args=(settings, kind, there))
    process.start()
    try:
        yield process, here
    finally:
        process.kill()
        process.join()
        process.close()
        here.close()
        there.close()


def run_hanging_replica(settings: Settings, kind: str, pipe: Pipe) -> None:
    (handle,) = (handler.handle for handler in timers.HANDLERS if handler.kind == kind)

    @due(kind)
    async def hang(tx: WriteSession, resource_id: UUID) -> None:
        await handle(tx, resource_id)
        await tx.flush()
        pipe.send(resource_id)
        await asyncio.Event().wait()

    asyncio.run(Timers(Database(settings), "entities", (hang,), lease_s=2).run())
