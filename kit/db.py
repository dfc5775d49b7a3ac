"""PostgreSQL: read and write transactions of different types, with tenant and actor set in each.

    async with db.read(call) as tx: ...     READ ONLY, without methods that write
    async with db.write(call) as tx: ...    commits at the end of the block, or changes nothing

Row-level security in the database separates the tenants: a query without a WHERE clause returns only rows of the
tenant.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, TypeVar, TypeVarTuple
from uuid import UUID

import asyncpg
import orjson
from google.protobuf.message import Message
from opentelemetry.trace import SpanKind
from sqlalchemy import ColumnElement, DateTime, Executable, Integer, MetaData, Numeric, Row, Select, Uuid, false, or_
from sqlalchemy import Enum as SqlEnum
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, declared_attr, mapped_column

from kit import clock, idempotency, ids, telemetry
from kit.auth import Scope
from kit.errors import BillingError, Conflict, DeadlineExceeded, EtagMismatch, Unavailable
from kit.fairness import FairSlots
from kit.origin import Origin
from kit.settings import Settings
from kit.transactions import OpenTransaction, commit, create_engine, transaction

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
ReplyT = TypeVar("ReplyT", bound=Message)

_SETTINGS = (
    "select set_config('app.tenant_id', $1, true), set_config('app.actor', $2, true),"
    " set_config('app.trace_id', $3, true), set_config('statement_timeout', $4, true),"
    " set_config('transaction_read_only', $5, true),"
    # Calls with the same key run one after the other, so that the second one finds the reply of the first.
    " case when $6 <> '' then pg_advisory_xact_lock(hashtextextended($6, 0)) end"
)
_ALL_TENANTS = "select set_config('app.everywhere', 'on', true)"
_LOCK = "select pg_advisory_xact_lock(hashtextextended($1, 0))"
_LOCK_ALL = "select pg_advisory_xact_lock(hashtextextended(name, 0)) from unnest($1::text[]) as name"
_LOCK_SHARED = "select pg_advisory_xact_lock_shared(hashtextextended($1, 0))"
_CHECK_DEFERRED_CONSTRAINTS = "set constraints all immediate"

_SYSTEM_CONNECTIONS: Final = 2
"""Connections that are left for relay and timers, which work for all tenants."""

AMOUNT: Final = Numeric(20, 6)
"""Column type of money amounts and rates: one digit more before the point than `kit.money.DIGITS_MAX`, for sums."""


class Base(DeclarativeBase):
    """Base class of all tables. Constraints are named after table and columns."""

    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )


class TenantRow(Base):
    """A row of one tenant with an id."""

    __abstract__ = True

    tenant_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True, default=ids.new)
    create_time: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=clock.now)


class VersionedRow(TenantRow):
    """A row of one tenant that can change. Each change through the session increments `version`, the etag."""

    __abstract__ = True

    version: Mapped[int] = mapped_column(Integer, default=1)
    update_time: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=clock.now, onupdate=clock.now)

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, Any]:
        return {"version_id_col": cls.version}

    @property
    def etag(self) -> str:
        """Version as text; callers send it back to detect concurrent changes."""
        return str(self.version)

    def check_etag(self, expected: str) -> None:
        """Raise EtagMismatch if `expected` is neither empty nor the current etag."""
        if expected and expected != self.etag:
            raise EtagMismatch(expected, self.etag)


def found(row: T | None, error: BillingError) -> T:
    """Return `row`, or raise `error` if there is none."""
    if row is None:
        raise error
    return row


def text_enum(kind: type[Enum]) -> SqlEnum:
    """Return a column type for text with the values of `kind`; a CHECK `<table>_<column>_check` lists them.

    Text, since under row-level security the planner uses an index for `=` on text, but not on an enum type: the
    equality operator of enums is not leakproof.
    """
    return SqlEnum(kind, native_enum=False, values_callable=lambda members: [member.value for member in members])


class ReadSession:
    """A read-only transaction."""

    def __init__(self, opened: OpenTransaction, origin: Origin) -> None:
        self._session, self._driver = opened
        self.origin = origin

    @property
    def tenant_id(self) -> UUID:
        """The tenant whose rows this transaction sees."""
        return self.origin.tenant_id

    @property
    def scope(self) -> Scope | None:
        """What a confined caller may access; None for the whole tenant."""
        return self.origin.scope

    async def one_or_none(self, select: Select[T], **values: object) -> T | None:
        """Return the single column of the only row, or None; `values` are parameters of a prebuilt query."""
        return (await self._session.execute(select, values)).scalar_one_or_none()

    async def all(self, select: Select[T], **values: object) -> Sequence[T]:
        """Return the single column of all rows; limit the query if there can be many."""
        return (await self._session.execute(select, values)).scalars().all()

    async def rows(self, select: Select[*Ts], **values: object) -> Sequence[Row[*Ts]]:
        """Return all rows of a query with several columns."""
        return (await self._session.execute(select, values)).all()

    async def fetch(self, statement: str, *values: object) -> Sequence["asyncpg.Record"]:
        """Return all rows of a statement in the form of the driver (`$1`); takes a third of the time of the others."""
        return await self._driver.fetch(statement, *values)

    async def now(self) -> datetime:
        """Return the time at which the transaction began, by the clock of the database, in UTC.

        Timers become due by this clock, so what depends on a timer reads the time here.
        """
        (row,) = await self._driver.fetch("select now()")
        moment: datetime = row[0]
        return moment


class WriteSession(ReadSession):
    """A transaction that writes, and commits at the end of its block."""

    def __init__(self, opened: OpenTransaction, origin: Origin) -> None:
        super().__init__(opened, origin)
        self.appended = False
        """True if an event was appended; the relay is woken after the commit."""
        self.answered = False
        """True if `answer` was called."""
        self._deferred: list[tuple[str, tuple[object, ...]]] = []

    def add(self, row: Base) -> None:
        """Insert `row` at the next flush or query; a TenantRow gets this tenant."""
        if isinstance(row, TenantRow):
            row.tenant_id = self.tenant_id
        if isinstance(row, VersionedRow) and row.version is None:  # a new row
            row.create_time = row.create_time or clock.now()
            row.update_time = row.update_time or row.create_time
        self._session.add(row)

    async def lock(self, name: str, *, shared: bool = False) -> None:
        """Take the tenant's advisory lock `name` until the transaction ends; shared locks exclude only exclusive ones.

        Serializes work for which there is no row to lock yet. Fails like a row lock after `lock_timeout`.
        """
        await self._driver.fetch(_LOCK_SHARED if shared else _LOCK, f"{name} {self.tenant_id}")

    async def lock_all(self, names: Collection[str]) -> None:
        """Take several locks like `lock`, always in the same order."""
        await self._driver.fetch(_LOCK_ALL, sorted(f"{name} {self.tenant_id}" for name in names))

    async def flush(self) -> None:
        """Send pending inserts and updates. Raises IntegrityError if a constraint is violated."""
        await self._session.flush()

    async def execute(self, statement: Executable) -> int:
        """Execute the statement and return the number of affected rows."""
        result = await self._session.execute(statement)
        return int(getattr(result, "rowcount", 0))

    async def returning(self, statement: Executable) -> Sequence[Any]:
        """Execute a statement with RETURNING and return its single column of all affected rows."""
        return (await self._session.execute(statement)).scalars().all()

    def defer(self, statement: str, *values: object) -> None:
        """Execute a statement in the form of the driver (`$1`) before the commit, after pending inserts and updates.

        For rows that this transaction does not read again. Deferred statements keep their order; several equal ones in
        a row take one round trip.
        """
        self._deferred.append((statement, values))

    async def run_deferred(self) -> None:
        """Execute the deferred statements."""
        if not self._deferred:
            return
        await self.flush()
        for statement, group in groupby(self._deferred, itemgetter(0)):
            await self._driver.executemany(statement, [values for _, values in group])
        self._deferred.clear()

    async def answer(self, reply: ReplyT) -> ReplyT:
        """Store the reply under the call's idempotency key, if it has one, and return it."""
        if parameters := idempotency.parameters(self.origin, reply):
            self.defer(idempotency.STORE, *parameters)
        self.answered = True
        return reply


def transaction_span(
    trace: telemetry.Trace, attributes: Mapping[str, str | int]
) -> contextlib.AbstractContextManager[None]:
    """Enter the span of a transaction, which is recorded if the trace is sampled."""
    return _recorded_transaction(trace, attributes) if trace.sampled else contextlib.nullcontext()


@contextlib.contextmanager
def _recorded_transaction(trace: telemetry.Trace, attributes: Mapping[str, str | int]) -> Iterator[None]:
    with telemetry.span("transaction", trace, SpanKind.CLIENT, attributes):
        try:
            yield
        except (DBAPIError, asyncpg.PostgresError, PoolTimeout) as error:
            telemetry.set_outcome({}, error_type=sqlstate(error) or type(error).__name__, fault=True)
            raise


class Database:
    """The database of one service, used with its serving role."""

    def __init__(self, settings: Settings) -> None:
        url = settings.database_url.get_secret_value().replace("postgresql://", "postgresql+asyncpg://", 1)
        size = settings.database_pool_size
        tenants_max = size if size <= 2 * _SYSTEM_CONNECTIONS else size - _SYSTEM_CONNECTIONS
        slots = self._slots = FairSlots("connections", tenants_max, settings.tenant_reserve)
        self._wait_s = settings.deadline_default_s
        self._engine = create_engine(
            url,
            settings.service,
            lambda: slots.waiting,
            pool_size=size,
            max_overflow=0,
            pool_timeout=settings.deadline_default_s,
            pool_recycle=1800,
            json_deserializer=orjson.loads,
            connect_args={
                "timeout": 5,
                "server_settings": {
                    "application_name": settings.service,
                    "lock_timeout": str(settings.database_lock_timeout_ms),
                    "idle_in_transaction_session_timeout": "10000",
                },
            },
        )
        self._span_attributes = {"db.system.name": "postgresql", "db.namespace": settings.service}
        self.appended = asyncio.Event()
        """Set after the commit of a transaction that appended an event."""

    @contextlib.asynccontextmanager
    async def read(self, origin: Origin, *, snapshot: bool = False) -> AsyncIterator[ReadSession]:
        """Open a READ ONLY transaction for the tenant of `origin`.

        With `snapshot`, all of its statements see the same state, so that sums of several statements fit together.
        Otherwise each statement sees what was committed before it began.
        """
        async with self._transaction(origin, read_only=True, snapshot=snapshot) as opened:
            yield ReadSession(opened, origin)

    @contextlib.asynccontextmanager
    async def write(self, origin: Origin, *, dry_run: bool = False) -> AsyncIterator[WriteSession]:
        """Open a transaction that commits at the end of the block; with `dry_run` it is rolled back instead.

        A dry run executes every statement and checks every constraint, so it raises the same errors as a real run. It
        stores no row, no reply under the call's key and no event. Raises idempotency.Replay if the key has a reply.
        """
        async with self._transaction(origin) as opened:
            tx = WriteSession(opened, origin)
            if key := idempotency.key_of(origin):
                idempotency.raise_if_stored(origin, await tx.fetch(idempotency.FIND, *key))
            yield tx
            if key and not tx.answered:
                raise RuntimeError("a call with an idempotency key must end with `return await tx.answer(reply)`")
            await tx.run_deferred()
            if dry_run:
                await tx.flush()
                await opened.driver.execute(_CHECK_DEFERRED_CONSTRAINTS)
                return  # without a commit, so that the transaction is rolled back
            await commit(opened)
            if tx.appended:
                self.appended.set()

    @contextlib.asynccontextmanager
    async def all_tenants(self) -> AsyncIterator[AsyncSession]:
        """Open a transaction over all tenants, for relay and timers; only some tables have a policy that allows it."""
        async with transaction(self._engine) as opened:
            await opened.driver.fetch(_ALL_TENANTS)
            yield opened.session
            await commit(opened)

    @contextlib.asynccontextmanager
    async def _transaction(
        self, origin: Origin, *, read_only: bool = False, snapshot: bool = False
    ) -> AsyncIterator[OpenTransaction]:
        with transaction_span(origin.trace, self._span_attributes):
            await self._slots.acquire(origin.tenant_id, self._wait_s)
            try:
                async with transaction(self._engine, snapshot=snapshot) as opened:
                    timeout_ms = str(max(1, int(origin.remaining_s() * 1000)))
                    context = str(origin.tenant_id), origin.actor, origin.trace.trace_id, timeout_ms
                    lock = "" if read_only else idempotency.lock_name(origin)
                    await opened.driver.fetch(_SETTINGS, *context, "on" if read_only else "off", lock)
                    yield opened
            finally:
                self._slots.release(origin.tenant_id)

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()


def scope_filter(
    scope: Scope | None,
    entity_id: InstrumentedAttribute[UUID],
    department_id: InstrumentedAttribute[UUID] | InstrumentedAttribute[UUID | None] | None = None,
) -> ColumnElement[bool] | None:
    """Return the condition that the scope covers a row; None if the caller is not confined."""
    if scope is None:
        return None
    conditions = [entity_id.in_(scope.entity_ids)] if scope.entity_ids else []
    if department_id is not None and scope.department_ids:
        conditions.append(department_id.in_(scope.department_ids))
    return or_(false(), *conditions)


_ERRORS_BY_SQLSTATE: dict[str, type[Conflict | DeadlineExceeded]] = {
    "55P03": Conflict,  # lock_not_available: lock_timeout
    "40P01": Conflict,  # deadlock_detected
    "40001": Conflict,  # serialization_failure
    "57014": DeadlineExceeded,  # query_canceled: statement_timeout
}
_UNAVAILABLE_STATES = ("08", "57P", "53", "58", "25P03", "25P04")
"""Connection exceptions, operator intervention, insufficient resources, system errors, timeouts of transactions."""


def to_billing_error(error: BaseException) -> BillingError | None:
    """Return the error that the caller gets for a database error; None for any other error, which is a bug."""
    if isinstance(error, PoolTimeout | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return Unavailable("The database")
    if isinstance(error, OSError) and error.filename is None:  # of the network: not resolved, unreachable, refused
        return Unavailable("The database")
    state = sqlstate(error)
    if state in _ERRORS_BY_SQLSTATE:
        return _ERRORS_BY_SQLSTATE[state]()
    if state.startswith(_UNAVAILABLE_STATES) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return Unavailable("The database")
    return None


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of a database error; empty for other errors."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(origin, "sqlstate", None) or "")


def constraint_name(error: DBAPIError) -> str:
    """Return the name of the violated constraint; empty if it was another error."""
    return str(getattr(error.orig.__cause__, "constraint_name", None) or "") if error.orig else ""


logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # it logs each connection of a cancelled call
