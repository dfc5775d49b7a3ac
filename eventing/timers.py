"""Timers: a handler is called when a timer is due, with one effect despite several replicas and crashes.

    @due("hold-expiry")
    async def expire(tx: WriteSession, hold_id: UUID) -> None: ...

    set_timer(tx, "hold-expiry", hold.id, hold.expire_time)      in the transaction that creates the hold
    Service(..., jobs=(Timers(db, settings.service, (expire,)).run,))

A replica claims a due timer by moving its due time one lease ahead; if it crashes, another replica claims the timer
after that. Due times are compared with the clock of the database. A handler that fails is retried with growing delays,
without a limit.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, overload
from uuid import UUID

from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Gauge
from sqlalchemy import text

from kit import clock, ids, telemetry
from kit.db import Database, WriteSession
from kit.errors import error_type
from kit.origin import Origin
from kit.tasks import run_to_completion
from kit.telemetry import Trace, log

_BATCH = 8
_RETRY_DELAYS_S = (1.0, 5.0, 30.0, 120.0, 600.0)
LATENESS = Gauge(
    "billing_timers_late_seconds",
    "Time since the oldest timer of the last round became due; 0 if none was.",
    ("queue",),
)
TIMERS_FIRED = Counter(
    "billing_timers_fired", "Timers fired, by outcome; stuck: failed five times.", ("kind", "outcome")
)

_INSERT = "insert into timers (tenant_id, kind, resource_id, due_time)"
_REPLACE = "on conflict (tenant_id, kind, resource_id) do update set due_time = excluded.due_time, attempts = 0"
SET: Final = f"{_INSERT} values ($1, $2, $3, $4) {_REPLACE}"
"""Sets one timer. Parameters: tenant id, kind, resource id, due time."""
SET_ALL: Final = (
    f"{_INSERT} select tenant_id, $4, resource_id, due_time"
    " from unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) r (tenant_id, resource_id, due_time)"
    f" {_REPLACE}"
)
"""Sets timers of one kind. Parameters: tenant ids, resource ids (each pair once), due times, kind."""
CANCEL: Final = "delete from timers where tenant_id = $1 and kind = $2 and resource_id = $3"
"""Cancels one timer. Parameters: tenant id, kind, resource id."""
CANCEL_ALL: Final = (
    "delete from timers t using unnest($1::uuid[], $2::uuid[]) r (tenant_id, resource_id)"
    " where t.tenant_id = r.tenant_id and t.kind = $3 and t.resource_id = r.resource_id"
)
"""Cancels timers of one kind. Parameters: tenant ids, resource ids, kind."""
_CLAIM = text(
    "with due as (select tenant_id, kind, resource_id, now() - due_time as late from timers"
    " where due_time <= now() and kind = any(:kinds) order by due_time limit :batch for update skip locked)"
    " update timers t set due_time = now() + :lease, attempts = attempts + 1 from due d"
    " where (t.tenant_id, t.kind, t.resource_id) = (d.tenant_id, d.kind, d.resource_id)"
    " returning d.late, t.tenant_id, t.kind, t.resource_id, t.due_time, t.attempts"
)
_IF_CLAIMED = (
    "where tenant_id = :tenant_id and kind = :kind and resource_id = :resource_id"
    " and due_time = :due_time and attempts = :attempts"
)
_AGES = text(
    "select width_bucket(resource_id, cast(:since as uuid[])) as bucket, count(*), min(resource_id::text) from timers"
    " where kind = :kind group by bucket"
)
_DELETE = text(f"delete from timers {_IF_CLAIMED}")
_RETRY_LATER = text(f"update timers set due_time = now() + :delay {_IF_CLAIMED}")
# Calls lock a resource and then its timer, handlers the other way round. The handler gives up before the deadlock check
# of PostgreSQL, which runs after a second, could choose the call as its victim.
_SHORT_LOCK_TIMEOUT = text("set local lock_timeout = '500ms'")


def set_timer(tx: WriteSession, kind: str, resource_id: UUID, due_time: datetime) -> None:
    """Call the handler of `kind` for the resource at `due_time` or soon after; replaces an earlier timer."""
    tx.defer(SET, tx.tenant_id, kind, resource_id, due_time)


def cancel_timer(tx: WriteSession, kind: str, resource_id: UUID) -> None:
    """Cancel the timer, if there is one."""
    tx.defer(CANCEL, tx.tenant_id, kind, resource_id)


@dataclass(frozen=True, slots=True)
class ResourceAges:
    """Ages of the resources of all tenants that have a timer of one kind."""

    oldest: timedelta
    """Zero if there is none."""
    counts: Sequence[int]
    """Number of resources up to each bound and above the previous one; last, those above all bounds."""


async def measure_ages(db: Database, kind: str, bounds: Sequence[timedelta]) -> ResourceAges:
    """Return the ages of the resources with a timer of this kind, by ascending bounds.

    Timers are the only rows of all tenants that a service reads. The age of a resource follows from its id: a UUIDv7
    (RFC 9562) begins with the time at which it was created.
    """
    now = clock.now()
    since = [ids.first_of(now - bound) for bound in reversed(bounds)]  # ids in ascending order: oldest first
    async with db.all_tenants() as session:
        rows = (await session.execute(_AGES, {"kind": kind, "since": since})).all()
    counts = {bucket: count for bucket, count, _ in rows}
    oldest = min((UUID(first) for _, _, first in rows), default=None)
    return ResourceAges(
        now - ids.time_of(oldest) if oldest else timedelta(0),
        [counts.get(bucket, 0) for bucket in range(len(bounds), -1, -1)],
    )


InTransaction = Callable[[WriteSession, UUID], Awaitable[None]]
OwnTransaction = Callable[[Any, Origin, UUID], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class TimerHandler:
    """A function of a service that handles timers of one kind."""

    kind: str
    handle: Callable[..., Awaitable[None]]
    own_transaction: bool = False


@overload
def due(kind: str) -> Callable[[InTransaction], TimerHandler]: ...


@overload
def due(kind: str, *, own_transaction: Literal[True]) -> Callable[[OwnTransaction], TimerHandler]: ...


def due(kind: str, *, own_transaction: bool = False) -> Callable[[Callable[..., Awaitable[None]]], TimerHandler]:
    """Declare a function as the handler of timers of a kind.

    By default the function is `(tx, resource_id)`: its writes commit together with the deletion of the timer. With
    `own_transaction` it is `(dependencies, origin, resource_id)`, opens transactions itself, and the timer is deleted
    afterwards. It may be called twice, or for a timer that was just cancelled, so it must check the resource first.
    """
    return lambda handle: TimerHandler(kind, handle, own_transaction)


@dataclass(frozen=True, slots=True)
class _ClaimedTimer:
    """A timer that this replica has claimed until `due_time`, unless it is set or cancelled meanwhile."""

    tenant_id: UUID
    kind: str
    resource_id: UUID
    due_time: datetime
    attempts: int


class Timers:
    """Calls a service's handlers when their timers are due; each replica has one."""

    def __init__(
        self,
        db: Database,
        service: str,
        handlers: Sequence[TimerHandler],
        dependencies: object = None,
        *,
        queue: str = "default",
        poll_s: float = 0.5,
        lease_s: float = 30,
        handler_s: float = 8.0,
        retry_delays_s: Sequence[float] = _RETRY_DELAYS_S,
    ) -> None:
        """`dependencies` is passed to handlers with `own_transaction`.

        A round of timers ends with its slowest handler, so handlers that take long have a `queue` of their own.
        `handler_s` is the time limit of a handler; it is far below the lease, so that no other replica claims a timer
        whose handler still runs. The last of the retry delays repeats.
        """
        self._dependencies = dependencies
        self._db, self._service, self._poll_s = db, service, poll_s
        self._queue = queue
        self._handlers = {handler.kind: handler for handler in handlers}
        if len(self._handlers) < len(handlers):
            raise ValueError("two handlers for the same kind of timer")
        self._lease = timedelta(seconds=lease_s)
        self._handler_s = handler_s
        self._retry_delays_s = retry_delays_s

    async def run(self) -> None:
        """Call the handlers of due timers until cancelled; handlers in progress are finished first."""
        while True:
            fired = 0
            try:
                fired = await run_to_completion(self._fire_batch())
            except Exception as error:  # noqa: BLE001 - PostgreSQL is down: timers stay in the table
                log.warning("timers not fired", error=error)
            if fired < _BATCH:
                await asyncio.sleep(self._poll_s)

    async def _fire_batch(self) -> int:
        claimed = await self._claim()
        outcomes = await asyncio.gather(*map(self._fire, claimed), return_exceptions=True)
        for timer, error in zip(claimed, outcomes, strict=True):
            if error is not None:
                log.warning("timer retried after its lease", **asdict(timer), error=error)
        return len(claimed)

    async def _claim(self) -> Sequence[_ClaimedTimer]:
        claim = _CLAIM.bindparams(kinds=list(self._handlers), batch=_BATCH, lease=self._lease)
        async with self._db.all_tenants() as session:
            rows = (await session.execute(claim)).all()
        LATENESS.labels(self._queue).set(max((late.total_seconds() for late, *_ in rows), default=0.0))
        return [_ClaimedTimer(*row) for _, *row in rows]

    async def _fire(self, timer: _ClaimedTimer) -> None:
        with telemetry.span(f"{self._service}.{timer.kind}", Trace.from_header(None), SpanKind.INTERNAL, {}) as trace:
            telemetry.current.set(trace)  # needs no reset: the task ends with this timer
            deadline, actor = time.monotonic() + self._handler_s, f"service:{self._service}"
            origin = Origin(tenant_id=timer.tenant_id, actor=actor, trace=trace, deadline=deadline)
            try:
                async with asyncio.timeout(self._handler_s):
                    await self._handle(self._handlers[timer.kind], timer, origin)
            except Exception as error:  # noqa: BLE001 - retried without a limit
                telemetry.set_outcome({}, error_type=error_type(error), fault=True, exception=error)
                await self._retry_later(timer, error)
            else:
                TIMERS_FIRED.labels(timer.kind, "done").inc()
                log.info("timer", kind=timer.kind, resource_id=str(timer.resource_id), tenant_id=str(timer.tenant_id))

    async def _handle(self, handler: TimerHandler, timer: _ClaimedTimer, origin: Origin) -> None:
        if handler.own_transaction:
            await handler.handle(self._dependencies, origin, timer.resource_id)
        async with self._db.write(origin) as tx:
            await tx.execute(_SHORT_LOCK_TIMEOUT)
            deleted = await tx.execute(_DELETE.bindparams(**asdict(timer)))
            if deleted and not handler.own_transaction:
                await handler.handle(tx, timer.resource_id)

    async def _retry_later(self, timer: _ClaimedTimer, error: Exception) -> None:
        stuck = timer.attempts >= len(self._retry_delays_s)
        TIMERS_FIRED.labels(timer.kind, "stuck" if stuck else "retried").inc()
        (log.error if stuck else log.warning)("timer failed", exc_info=error, **asdict(timer))
        delay = timedelta(seconds=self._retry_delays_s[min(timer.attempts, len(self._retry_delays_s)) - 1])
        async with self._db.all_tenants() as session:
            await session.execute(_RETRY_LATER.bindparams(**asdict(timer), delay=delay))
