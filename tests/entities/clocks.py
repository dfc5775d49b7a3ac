"""The clocks of the entities service under test: several of them, and one that is killed amid its effect."""

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
class Quiet:
    """The service in a database of its own, in which no clock runs unless the test starts it."""

    served: Served[Entities]
    copy: Copy
    admin: Admin

    @property
    def settings(self) -> Settings:
        return self.served.settings

    async def said(self, tenant_id: UUID) -> dict[tuple[str, str], int]:
        """How often each event was said of each contract."""
        said = await outbox_events(self.admin, "entities", tenant_id)
        return Counter((event.type.rpartition(".")[2], event.body.get("contract_id", "")) for event in said)

    async def idle(self, tenant_id: UUID) -> bool:
        """Whether nothing is due any more."""
        left = "select count(*) from entities.timers where tenant_id = $1 and due_time < now() + interval '1 hour'"
        return bool(await self.admin.fetchval(left, tenant_id) == 0)


@contextlib.asynccontextmanager
async def replicas(quiet: Quiet, number: int) -> AsyncIterator[None]:
    """So many of the service's clocks, each with connections of its own."""
    async with contextlib.AsyncExitStack() as ending:
        databases = [Database(quiet.settings) for _ in range(number)]
        for database in databases:
            ending.push_async_callback(database.close)
        clocks = [Timers(database, "entities", timers.HANDLERS, poll_s=0.01, lease_s=2) for database in databases]
        async with running(*clocks):
            yield


@contextlib.contextmanager
def process_amid_effect(settings: Settings, kind: str) -> Iterator[tuple[Any, Pipe]]:
    """A replica of its own process, which says when it has done everything but commit, and goes no further."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=replica_that_hangs, args=(settings, kind, there))
    process.start()
    try:
        yield process, here
    finally:
        process.kill()
        process.join()
        process.close()
        here.close()
        there.close()


def replica_that_hangs(settings: Settings, kind: str, pipe: Pipe) -> None:
    (effect,) = (handler.handle for handler in timers.HANDLERS if handler.kind == kind)

    @due(kind)
    async def hang(tx: WriteSession, contract_id: UUID) -> None:
        await effect(tx, contract_id)
        await tx.flush()
        pipe.send(contract_id)
        await asyncio.Event().wait()

    asyncio.run(Timers(Database(settings), "entities", (hang,), lease_s=2).run())
