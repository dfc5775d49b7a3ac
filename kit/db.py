"""PostgreSQL: read and write transactions of different types, with tenant and actor set in each.

    async with db.read(call) as tx: ...     READ ONLY; no method that writes
    async with db.write(call) as tx: ...    commits at the end of the block, or nothing happened

Row-level security in the database does the separation of tenants: a query that forgets its WHERE gets the
tenant's own rows only.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from enum import Enum
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, TypeVar, TypeVarTuple
from uuid import UUID

import asyncpg
import orjson
from google.protobuf.message import Message
from sqlalchemy import ColumnElement, DateTime, Executable, Integer, MetaData, Numeric, Row, Select, Uuid, false, or_
from sqlalchemy import Enum as SqlEnum
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, declared_attr, mapped_column

from kit import clock, idempotency, ids
from kit.auth import Scope
from kit.errors import BillingError, Conflict, DeadlineExceeded, EtagMismatch, Unavailable
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
    # Calls with one key take turns, so that the later one finds the answer of the earlier.
    " case when $6 <> '' then pg_advisory_xact_lock(hashtextextended($6, 0)) end"
)
_EVERYWHERE = "select set_config('app.everywhere', 'on', true)"
_LOCK = "select pg_advisory_xact_lock(hashtextextended($1, 0))"
_LOCK_SHARED = "select pg_advisory_xact_lock_shared(hashtextextended($1, 0))"
_CHECK_DEFERRED_CONSTRAINTS = "set constraints all immediate"

AMOUNT: Final = Numeric(20, 6)
"""Column type of money amounts and rates: one digit more before the point than `kit.money.DIGITS_MAX`, for sums."""


class Base(DeclarativeBase):
    """Tables of the services; names of constraints follow from the tables'."""

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
    """A tenant's row that changes: every change through the session raises `version`, which callers see as etag."""

    __abstract__ = True

    version: Mapped[int] = mapped_column(Integer, default=1)
    update_time: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=clock.now, onupdate=clock.now)

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, Any]:
        return {"version_id_col": cls.version}

    @property
    def etag(self) -> str:
        """What callers give back to say which version they changed."""
        return str(self.version)

    def check_etag(self, given: str) -> None:
        """Raise EtagMismatch where `given` is not empty and not the etag of this version."""
        if given and given != self.etag:
            raise EtagMismatch(given, self.etag)


def found(row: T | None, error: BillingError) -> T:
    """Return `row`, or raise `error` if there is none."""
    if row is None:
        raise error
    return row


def enum_column(kind: type[Enum], name: str) -> SqlEnum:
    """A column of the PostgreSQL enum type `name`, holding the values of `kind`."""
    return SqlEnum(kind, name=name, values_callable=lambda members: [member.value for member in members])


def text_enum(kind: type[Enum]) -> SqlEnum:
    """A column of text that holds the values of `kind`, for what lists are filtered by.

    Under row-level security an index is read for `=` of text, not of an enum type. A CHECK named
    `<table>_<column>_check` says which there are.
    """
    return SqlEnum(kind, native_enum=False, values_callable=lambda members: [member.value for member in members])


class ReadSession:
    """A transaction that reads."""

    def __init__(self, opened: OpenTransaction, origin: Origin) -> None:
        self._session, self._driver = opened
        self.origin = origin

    @property
    def tenant_id(self) -> UUID:
        """The tenant whose rows this transaction sees."""
        return self.origin.tenant_id

    @property
    def scope(self) -> Scope | None:
        """What a confined caller may see; None: the whole tenant."""
        return self.origin.scope

    async def one_or_none(self, select: Select[T], **values: object) -> T | None:
        """The only row, or None; with values for the parameters of a query that was built once."""
        return (await self._session.execute(select, values)).scalar_one_or_none()

    async def all(self, select: Select[T], **values: object) -> Sequence[T]:
        """All rows; bound the query where there may be many."""
        return (await self._session.execute(select, values)).scalars().all()

    async def rows(self, select: Select[*Ts], **values: object) -> Sequence[Row[*Ts]]:
        """All rows of a query of several columns."""
        return (await self._session.execute(select, values)).all()

    async def fetch(self, statement: str, *values: object) -> Sequence["asyncpg.Record"]:
        """All rows of a statement in the driver's own form (`$1`): for what each call asks, at a third of the price."""
        return await self._driver.fetch(statement, *values)

    async def now(self) -> datetime:
        """Return the time at which the transaction began, by the clock of the database, in UTC.

        Timers become due by this clock, so what depends on a timer reads the time here.
        """
        (row,) = await self._driver.fetch("select now()")
        moment: datetime = row[0]
        return moment


class WriteSession(ReadSession):
    """A transaction that writes; it commits at the end of its block."""

    def __init__(self, opened: OpenTransaction, origin: Origin) -> None:
        super().__init__(opened, origin)
        self.appended = False
        """Whether an event was appended that the relay should learn of."""
        self.answered = False
        """Whether the reply was kept."""
        self._later: list[tuple[str, tuple[object, ...]]] = []

    def add(self, row: Base) -> None:
        """Insert `row` at the next flush or query, as this tenant's where it has a tenant."""
        if isinstance(row, TenantRow):
            row.tenant_id = self.tenant_id
        if isinstance(row, VersionedRow) and row.version is None:  # new
            row.create_time = row.update_time = clock.now()
        self._session.add(row)

    async def lock(self, name: str, *, shared: bool = False) -> None:
        """Take the tenant's advisory lock `name` until the transaction ends; shared locks exclude only exclusive ones.

        Serializes work for which there is no row to lock yet. Fails like a row lock after `lock_timeout`.
        """
        await self._driver.fetch(_LOCK_SHARED if shared else _LOCK, f"{name} {self.tenant_id}")

    async def flush(self) -> None:
        """Send what was added and changed; raises what the database's constraints say."""
        await self._session.flush()

    async def execute(self, statement: Executable) -> int:
        """The number of rows that the statement touched."""
        result = await self._session.execute(statement)
        return int(getattr(result, "rowcount", 0))

    async def returning(self, statement: Executable) -> Sequence[Any]:
        """The single column that a statement with RETURNING gives, of every row it touched."""
        return (await self._session.execute(statement)).scalars().all()

    def defer(self, statement: str, *values: object) -> None:
        """Run a statement in the driver's own form before the commit, after what was added, in the order given.

        For what nothing in this transaction looks at: it costs a third, and several in a row take one round trip.
        """
        self._later.append((statement, values))

    async def run_deferred(self) -> None:
        """Run what was to be written later."""
        if not self._later:
            return
        await self.flush()
        for statement, run in groupby(self._later, itemgetter(0)):
            await self._driver.executemany(statement, [values for _, values in run])
        self._later.clear()

    async def answer(self, reply: ReplyT) -> ReplyT:
        """Keep the reply under the call's key, in this transaction, and give it back."""
        if kept := idempotency.parameters(self.origin, reply):
            self.defer(idempotency.STORE, *kept)
        self.answered = True
        return reply


class Database:
    """The database of one service, through its serving role."""

    def __init__(self, settings: Settings) -> None:
        url = settings.database_url.get_secret_value().replace("postgresql://", "postgresql+asyncpg://", 1)
        self._engine = create_engine(
            url,
            pool_size=settings.database_pool_size,
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
        self.appended = asyncio.Event()
        """Set when a transaction that appended an event has committed."""

    @contextlib.asynccontextmanager
    async def read(self, origin: Origin) -> AsyncIterator[ReadSession]:
        """A READ ONLY transaction for the tenant of `origin`."""
        async with self._transaction(origin, read_only=True) as opened:
            yield ReadSession(opened, origin)

    @contextlib.asynccontextmanager
    async def write(self, origin: Origin, *, dry_run: bool = False) -> AsyncIterator[WriteSession]:
        """A transaction that commits at the end of the block; with `dry_run` it is rolled back instead.

        A dry run executes every statement and checks every constraint, so it raises what a real run would. It stores
        no row, no reply under the call's key and no event. Raises idempotency.Replay if the key was answered before.
        """
        async with self._transaction(origin) as opened:
            tx = WriteSession(opened, origin)
            if key := idempotency.key_of(origin):
                idempotency.raise_if_stored(origin, await tx.fetch(idempotency.FIND, *key))
            yield tx
            if key and not tx.answered:
                raise RuntimeError("a call with a key must end with `return await tx.answer(reply)`")
            await tx.run_deferred()
            if dry_run:
                await tx.flush()
                await opened.driver.execute(_CHECK_DEFERRED_CONSTRAINTS)
                return  # what is not committed is rolled back
            await commit(opened)
            if tx.appended:
                self.appended.set()

    @contextlib.asynccontextmanager
    async def all_tenants(self) -> AsyncIterator[AsyncSession]:
        """A transaction of the service itself, over all tenants: sees only the tables whose policy says so."""
        async with transaction(self._engine) as opened:
            await opened.driver.fetch(_EVERYWHERE)
            yield opened.session
            await commit(opened)

    @contextlib.asynccontextmanager
    async def _transaction(self, origin: Origin, *, read_only: bool = False) -> AsyncIterator[OpenTransaction]:
        async with transaction(self._engine) as opened:
            timeout_ms = str(max(1, int(origin.remaining_s() * 1000)))
            about = str(origin.tenant_id), origin.actor, origin.trace.trace_id, timeout_ms
            key = "" if read_only else idempotency.lock_name(origin)
            await opened.driver.fetch(_SETTINGS, *about, "on" if read_only else "off", key)
            yield opened

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()


def scope_filter(
    scope: Scope | None,
    entity_id: InstrumentedAttribute[UUID],
    department_id: InstrumentedAttribute[UUID] | InstrumentedAttribute[UUID | None] | None = None,
) -> ColumnElement[bool] | None:
    """The condition that a row is covered by the scope; None where the caller is not confined."""
    if scope is None:
        return None
    covered = [entity_id.in_(scope.entity_ids)] if scope.entity_ids else []
    if department_id is not None and scope.department_ids:
        covered.append(department_id.in_(scope.department_ids))
    return or_(false(), *covered)


_REFUSALS: dict[str, type[Conflict | DeadlineExceeded]] = {
    "55P03": Conflict,  # lock_not_available: lock_timeout
    "40P01": Conflict,  # deadlock_detected
    "40001": Conflict,  # serialization_failure
    "57014": DeadlineExceeded,  # query_canceled: statement_timeout
}
_AWAY = ("08", "57P", "53")  # connection exceptions, operator intervention, insufficient resources


def to_billing_error(error: BaseException) -> BillingError | None:
    """What a database error means for the caller; None where it is a fault of ours."""
    if isinstance(error, PoolTimeout | ConnectionError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return Unavailable("The database")
    state = sqlstate(error)
    if state in _REFUSALS:
        return _REFUSALS[state]()
    if state.startswith(_AWAY) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return Unavailable("The database")
    return None


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE of a database error; empty for others."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(origin, "sqlstate", None) or "")


def constraint_name(error: DBAPIError) -> str:
    """The name of the constraint that refused; empty where none did."""
    return str(getattr(error.orig.__cause__, "constraint_name", None) or "") if error.orig else ""


logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # a cancelled call costs its connection; not news
