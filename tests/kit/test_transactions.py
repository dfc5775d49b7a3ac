"""Connections that hang or are closed: calls end in time, and the next call gets a connection that works."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import asyncpg
import pytest
from sqlalchemy.pool import QueuePool

from deploy.local import die_with_parent
from kit.db import Database, to_billing_error
from kit.errors import Unavailable
from kit.origin import Origin
from kit.settings import Settings
from tests.harness.observe import eventually
from tests.kit.dead_letters import letter, letters

DEADLINE_S: Final = 0.3
TOLERANCE_S: Final = 0.25
"""How long after its deadline a call may end."""

Origins = Callable[..., Origin]


@pytest.fixture
async def single_connection(kit_settings: Callable[..., Settings]) -> AsyncIterator[Database]:
    """A database with one connection."""
    db = Database(kit_settings(database_pool_size=1))
    yield db
    await db.close()


async def backend_of(db: Database, origin: Origin) -> int:
    """Return the process id of the server side of the connection."""
    async with db.read(origin) as tx:
        pid: int = (await tx.fetch("select pg_backend_pid()"))[0][0]
    return pid


@contextlib.contextmanager
def stopping(pid: int) -> Iterator[Callable[[], None]]:
    """Yield a function that stops the process until the block ends, as behind a half-open connection."""
    if b"postgres" not in die_with_parent.command_line(pid):
        pytest.skip("PostgreSQL runs elsewhere")
    try:
        yield lambda: os.kill(pid, signal.SIGSTOP)
    finally:
        os.kill(pid, signal.SIGCONT)


async def ends_in_time(call: Awaitable[None]) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(DEADLINE_S):
            await call
    assert time.monotonic() - started < DEADLINE_S + TOLERANCE_S


class TestHangingConnection:
    async def test_a_read_ends_and_the_next_call_gets_another_connection(
        self, single_connection: Database, origin: Origins
    ) -> None:
        pid = await backend_of(single_connection, origin())

        async def read() -> None:
            await letters(single_connection, origin())

        with stopping(pid) as stop:
            stop()
            await ends_in_time(read())
            assert await backend_of(single_connection, origin()) != pid

    async def test_a_commit_ends_either_done_or_not(self, single_connection: Database, origin: Origins) -> None:
        pid = await backend_of(single_connection, origin())

        async def write() -> None:
            async with single_connection.write(origin()) as tx:
                tx.add(letter("hanging"))
                await tx.flush()
                stop()

        with stopping(pid) as stop:
            await ends_in_time(write())
            assert await backend_of(single_connection, origin()) != pid
        assert await letters(single_connection, origin()) in (["hanging"], [])

    async def test_a_failed_call_that_cannot_roll_back_ends(self, single_connection: Database, origin: Origins) -> None:
        pid = await backend_of(single_connection, origin())

        async def fail() -> None:
            async with single_connection.write(origin()) as tx:
                tx.add(letter())
                await tx.flush()
                stop()
                raise Unavailable("Another service")

        with stopping(pid) as stop:
            await ends_in_time(fail())
            assert await backend_of(single_connection, origin()) != pid
        assert await letters(single_connection, origin()) == []


class TestClosedConnection:
    async def test_a_connection_closed_while_idle_is_not_used(
        self, kit_settings: Callable[..., Settings], origin: Origins, kit_admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        db = Database(kit_settings(database_pool_size=3))
        pids: set[int] = set()

        async def hold() -> None:
            async with db.read(origin()) as tx:
                pids.add((await tx.fetch("select pg_backend_pid()"))[0][0])
                await eventually(lambda: asyncio.sleep(0, len(pids) == 3))

        await asyncio.gather(hold(), hold(), hold())
        for pid in pids:
            await kit_admin.execute("select pg_terminate_backend($1)", pid)
        query = "select count(*) from pg_stat_activity where pid = any($1)"
        await eventually(lambda: _none(kit_admin, query, list(pids)))
        for _ in range(6):
            async with db.write(origin()) as tx:
                tx.add(letter())
        assert len(await letters(db, origin())) == 6
        pool = db._engine.pool
        assert isinstance(pool, QueuePool)
        assert pool.checkedout() == 0
        await db.close()

    async def test_a_connection_closed_in_a_transaction_is_unavailable_and_dropped(
        self, single_connection: Database, origin: Origins, kit_admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        async def write() -> None:
            async with single_connection.write(origin()) as tx:
                tx.add(letter())
                await tx.flush()
                (pid,) = (await tx.fetch("select pg_backend_pid()"))[0]
                await kit_admin.execute("select pg_terminate_backend($1)", pid)
                await tx.fetch("select 1")

        (outcome,) = await asyncio.gather(write(), return_exceptions=True)
        assert isinstance(outcome, BaseException)
        assert isinstance(to_billing_error(outcome), Unavailable)
        assert await letters(single_connection, origin()) == []

    async def test_a_commit_after_a_swallowed_error_fails(self, single_connection: Database, origin: Origins) -> None:
        async def write() -> None:
            async with single_connection.write(origin()) as tx:
                tx.add(letter())
                await tx.flush()
                with contextlib.suppress(asyncpg.PostgresError):
                    await tx.fetch("select 1 / 0")

        with pytest.raises(RuntimeError, match="ROLLBACK"):
            await write()
        assert await letters(single_connection, origin()) == []


async def _none(admin: "asyncpg.Pool[asyncpg.Record]", query: str, *values: object) -> bool:
    return bool(await admin.fetchval(query, *values) == 0)


async def test_all_statements_of_a_snapshot_see_the_same_state(
    kit_settings: Callable[..., Settings], origin: Callable[..., Origin]
) -> None:
    db = Database(kit_settings())
    count = "select count(*) from dead_letters where consumer = 'snapshots'"
    try:
        async with db.read(origin(), snapshot=True) as tx:
            before = (await tx.fetch(count))[0][0]
            async with db.write(origin()) as other:
                other.add(letter("snapshots"))
            assert (await tx.fetch(count))[0][0] == before
        async with db.read(origin()) as tx:
            assert (await tx.fetch(count))[0][0] == before + 1
    finally:
        await db.close()
