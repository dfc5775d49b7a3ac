"""Database transactions that are begun and ended on the driver, with an SQLAlchemy session in between.

SQLAlchemy's own begin and commit take twice as long, since each of its statements runs in a greenlet of its own. The
engine is therefore in AUTOCOMMIT mode, in which SQLAlchemy sends neither.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from prometheus_client import Gauge
from sqlalchemy import AsyncAdaptedQueuePool, PoolProxiedConnection, event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from kit.tasks import cancel_and_wait

if TYPE_CHECKING:
    import asyncpg

_COMMIT_GRACE_S = 0.2
"""How long a cancelled call waits for the result of its commit."""

Driver: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class OpenTransaction(NamedTuple):
    """A transaction that has begun."""

    session: AsyncSession
    driver: Driver
    """The same connection, without SQLAlchemy."""


_POOL = "db_client_connection_pool_name"
CONNECTIONS = Gauge("db_client_connection_count", "Database connections.", (_POOL, "db_client_connection_state"))
CONNECTIONS_MAX = Gauge("db_client_connection_max", "Maximum number of database connections.", (_POOL,))
CONNECTIONS_PENDING = Gauge(
    "db_client_connection_pending_requests", "Transactions that wait for a database connection.", (_POOL,)
)


class _Pool(AsyncAdaptedQueuePool):
    """A pool that counts the transactions that wait for a connection."""

    pending = 0

    def connect(self) -> PoolProxiedConnection:
        self.pending += 1
        try:
            return super().connect()
        finally:
            self.pending -= 1


def create_engine(url: str, name: str, waiting: Callable[[], int], **options: Any) -> AsyncEngine:
    """Return an engine that neither begins nor commits by itself, and hands out no closed connection.

    `name` is that of its pool in metrics; `waiting` returns how many transactions wait before they use the pool.
    """
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT", hide_parameters=True, poolclass=_Pool, **options)
    event.listen(engine.sync_engine, "checkout", _check_open)
    _measure(engine, name, waiting)
    return engine


def _measure(engine: AsyncEngine, name: str, waiting: Callable[[], int]) -> None:
    """Let the gauges of the pool read it on each scrape. The pool is replaced when the engine is disposed."""

    def pool() -> _Pool:
        return cast("_Pool", engine.pool)

    CONNECTIONS.labels(name, "used").set_function(lambda: pool().checkedout())
    CONNECTIONS.labels(name, "idle").set_function(lambda: pool().checkedin())
    CONNECTIONS_MAX.labels(name).set_function(lambda: pool().size())
    CONNECTIONS_PENDING.labels(name).set_function(lambda: pool().pending + waiting())


def _check_open(dbapi_connection: Any, *_: Any) -> None:
    if dbapi_connection.driver_connection.is_closed():
        raise InvalidatePoolError  # PostgreSQL was probably restarted, so the other connections are closed as well


@contextlib.asynccontextmanager
async def transaction(engine: AsyncEngine, *, snapshot: bool = False) -> AsyncIterator[OpenTransaction]:
    """Open a transaction; what is not committed inside the block is rolled back.

    With `snapshot`, all of its statements see the state at the time of the first one.
    """
    async with AsyncSession(engine, expire_on_commit=False) as session:
        connection: Any = (await session.connection()).sync_connection
        driver: Driver = connection.connection.driver_connection
        reusable = False
        try:
            try:
                await driver.execute("begin isolation level repeatable read" if snapshot else "begin")
                yield OpenTransaction(session, driver)
            except Exception:
                reusable = await _roll_back(driver)
                raise
            reusable = await _roll_back(driver)
        finally:
            if not reusable:  # cancelled, or the connection is lost: closing it also ends a statement that still runs
                driver.terminate()
                await session.invalidate()


async def _roll_back(driver: Driver) -> bool:
    """Roll back what was not committed. True if the connection can be used again."""
    if driver.is_in_transaction():
        with contextlib.suppress(Exception):
            await driver.execute("rollback")
    return not (driver.is_closed() or driver.is_in_transaction())


async def commit(opened: OpenTransaction) -> None:
    """Flush and commit. A cancelled call waits shortly for the result, then gives up the connection."""
    await opened.session.flush()
    committing = asyncio.create_task(_commit(opened.driver))
    try:
        await asyncio.shield(committing)
    except asyncio.CancelledError:
        await asyncio.wait({committing}, timeout=_COMMIT_GRACE_S)
        await cancel_and_wait(committing)
        raise


async def _commit(driver: Driver) -> None:
    status = await driver.execute("commit")
    if status != "COMMIT":
        raise RuntimeError(f"PostgreSQL replied to the commit with {status}: an earlier statement had failed")
