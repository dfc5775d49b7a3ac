"""Transactions that the driver begins and ends, with SQLAlchemy's session in between.

SQLAlchemy does that too, at twice the price: each of its statements goes through a greenlet of its own. Its engine is
told that it commits by itself, so that it leaves the transaction to us.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from kit.tasks import end

if TYPE_CHECKING:
    import asyncpg

_COMMIT_GRACE_S = 0.2
"""How long a cancelled call waits to learn whether its commit was done."""

Driver: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Open(NamedTuple):
    """A transaction that has begun."""

    session: AsyncSession
    driver: Driver
    """The same connection, without SQLAlchemy."""


def engine_of(url: str, **given: Any) -> AsyncEngine:
    """An engine that leaves transactions to us, and takes no connection that was closed meanwhile."""
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT", **given)
    event.listen(engine.sync_engine, "checkout", _check_open)
    return engine


def _check_open(dbapi_connection: Any, *_: Any) -> None:
    if dbapi_connection.driver_connection.is_closed():
        raise InvalidatePoolError  # the others are likely closed as well: PostgreSQL was started again


@contextlib.asynccontextmanager
async def begun(engine: AsyncEngine) -> AsyncIterator[Open]:
    """A transaction; what is not committed inside the block is rolled back."""
    async with AsyncSession(engine, expire_on_commit=False) as session:
        connection: Any = (await session.connection()).sync_connection
        driver: Driver = connection.connection.driver_connection
        whole = False
        try:
            try:
                await driver.execute("begin")
                yield Open(session, driver)
            except Exception:
                whole = await _rolled_back(driver)
                raise
            whole = await _rolled_back(driver)
        finally:
            if not whole:  # cancelled, or the connection is lost: what is under way there is given up with it
                driver.terminate()
                await session.invalidate()


async def _rolled_back(driver: Driver) -> bool:
    """Roll back what was not committed; whether the connection is as it was before."""
    if driver.is_in_transaction():
        with contextlib.suppress(Exception):
            await driver.execute("rollback")
    return not (driver.is_closed() or driver.is_in_transaction())


async def commit(opened: Open) -> None:
    """Commit, to the end also where the call is cancelled; one that does not end is given up with its connection."""
    await opened.session.flush()
    committing = asyncio.create_task(_commit(opened.driver))
    try:
        await asyncio.shield(committing)
    except asyncio.CancelledError:
        await asyncio.wait({committing}, timeout=_COMMIT_GRACE_S)
        await end(committing)
        raise


async def _commit(driver: Driver) -> None:
    done = await driver.execute("commit")
    if done != "COMMIT":
        raise RuntimeError(f"PostgreSQL answered the commit with {done}: an earlier statement had failed")
