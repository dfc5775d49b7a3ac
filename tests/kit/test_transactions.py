"""Connections that hang or are gone: a call ends in time, and the next one has a connection that works."""

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

from deploy.local import bound
from kit.db import Database, to_billing_error
from kit.errors import Unavailable
from kit.origin import Origin
from kit.settings import Settings
from tests.harness.observe import eventually
from tests.kit.dead_letters import letter, letters

DEADLINE_S: Final = 0.3
LATE_S: Final = 0.25
"""How much later than its deadline a call may end."""

Origins = Callable[..., Origin]


@pytest.fixture
async def narrow(kit_settings: Callable[..., Settings]) -> AsyncIterator[Database]:
    """A database with one connection."""
    db = Database(kit_settings(database_pool_size=1))
    yield db
    await db.close()


async def backend_of(db: Database, origin: Origin) -> int:
    """The process that serves the connection."""
    async with db.read(origin) as tx:
        pid: int = (await tx.fetch("select pg_backend_pid()"))[0][0]
    return pid


@contextlib.contextmanager
def stopping(pid: int) -> Iterator[Callable[[], None]]:
    """Has the process do nothing until the block ends, as behind a connection that is half open."""
    if b"postgres" not in bound.command_line(pid):
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
    assert time.monotonic() - started < DEADLINE_S + LATE_S


class TestHanging:
    async def test_a_read_ends_and_the_next_one_has_another_connection(self, narrow: Database, origin: Origins) -> None:
        pid = await backend_of(narrow, origin())

        async def read() -> None:
            await letters(narrow, origin())

        with stopping(pid) as stop:
            stop()
            await ends_in_time(read())
            assert await backend_of(narrow, origin()) != pid

    async def test_a_commit_ends_and_it_was_done_or_not(self, narrow: Database, origin: Origins) -> None:
        pid = await backend_of(narrow, origin())

        async def write() -> None:
            async with narrow.write(origin()) as tx:
                tx.add(letter("hangs"))
                await tx.flush()
                stop()

        with stopping(pid) as stop:
            await ends_in_time(write())
            assert await backend_of(narrow, origin()) != pid
        assert await letters(narrow, origin()) in (["hangs"], [])

    async def test_a_failed_call_that_cannot_roll_back_ends(self, narrow: Database, origin: Origins) -> None:
        pid = await backend_of(narrow, origin())

        async def fail() -> None:
            async with narrow.write(origin()) as tx:
                tx.add(letter())
                await tx.flush()
                stop()
                raise Unavailable("Somebody")

        with stopping(pid) as stop:
            await ends_in_time(fail())
            assert await backend_of(narrow, origin()) != pid
        assert await letters(narrow, origin()) == []


class TestGone:
    async def test_a_connection_that_was_closed_meanwhile_is_not_taken(
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

    async def test_a_connection_that_is_closed_in_a_transaction_refuses_the_call_and_is_not_kept(
        self, narrow: Database, origin: Origins, kit_admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        async def write() -> None:
            async with narrow.write(origin()) as tx:
                tx.add(letter())
                await tx.flush()
                (pid,) = (await tx.fetch("select pg_backend_pid()"))[0]
                await kit_admin.execute("select pg_terminate_backend($1)", pid)
                await tx.fetch("select 1")

        (outcome,) = await asyncio.gather(write(), return_exceptions=True)
        assert isinstance(outcome, BaseException)
        assert isinstance(to_billing_error(outcome), Unavailable)
        assert await letters(narrow, origin()) == []

    async def test_a_commit_after_a_swallowed_error_is_no_commit(self, narrow: Database, origin: Origins) -> None:
        async def write() -> None:
            async with narrow.write(origin()) as tx:
                tx.add(letter())
                await tx.flush()
                with contextlib.suppress(asyncpg.PostgresError):
                    await tx.fetch("select 1 / 0")

        with pytest.raises(RuntimeError, match="ROLLBACK"):
            await write()
        assert await letters(narrow, origin()) == []


async def _none(admin: "asyncpg.Pool[asyncpg.Record]", query: str, *values: object) -> bool:
    return bool(await admin.fetchval(query, *values) == 0)
