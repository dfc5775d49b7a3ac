"""Timers: what a clock starts has its effect once, however many replicas run and whichever of them dies.

    @due("hold-expiry")
    async def expire(tx: WriteSession, hold_id: UUID) -> None: ...

    set_timer(tx, "hold-expiry", hold.id, hold.expire_time)      in the transaction that makes the hold
    Service(..., jobs=(Timers(db, settings.service, (expire,)).run,))

A replica claims what is due by moving it one lease ahead; should it die, others claim it after that. Only the clock
of the database counts. A handler that fails is tried again with growing pauses, for ever.
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

from kit import telemetry
from kit.db import Database, WriteSession
from kit.origin import Origin
from kit.tasks import run_to_completion
from kit.telemetry import Trace, log

_BATCH = 8
_HANDLER_S = 8.0
"""Far below the lease, so that nobody takes a timer whose handler is under way."""
_PAUSES_S = (1.0, 5.0, 30.0, 120.0, 600.0)
LATE = Gauge("billing_timers_late_seconds", "How long the oldest timer of the last round had been due; 0 for none.")
FIRED = Counter("billing_timers_fired", "Timers fired, by outcome; stuck: failed many times.", ("kind", "outcome"))

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
_ONE = "where tenant_id = :tenant_id and kind = :kind and resource_id = :resource_id"
_STILL_CLAIMED = f"{_ONE} and due_time = :due_time and attempts = :attempts"
_TAKE = text(f"delete from timers {_STILL_CLAIMED}")
_PAUSE = text(f"update timers set due_time = now() + :pause {_STILL_CLAIMED}")
# Calls lock a resource and then its timer, handlers the other way round: the handler gives way before PostgreSQL,
# which looks for deadlocks after a second, can choose the call.
_GIVE_WAY = text("set local lock_timeout = '500ms'")


def set_timer(tx: WriteSession, kind: str, resource_id: UUID, due_time: datetime) -> None:
    """Call the handler of `kind` for the resource at `due_time` or soon after; replaces an earlier timer."""
    tx.defer(SET, tx.tenant_id, kind, resource_id, due_time)


def cancel_timer(tx: WriteSession, kind: str, resource_id: UUID) -> None:
    """Cancel the timer, if there is one."""
    tx.defer(CANCEL, tx.tenant_id, kind, resource_id)


InTransaction = Callable[[WriteSession, UUID], Awaitable[None]]
OwnTransaction = Callable[[Any, Origin, UUID], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class TimerHandler:
    """The function of a service that handles timers of one kind."""

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
class _Claimed:
    """A timer that is ours until `due_time`, unless it was set, cancelled or claimed since."""

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
        poll_s: float = 0.5,
        lease_s: float = 30,
    ) -> None:
        """`dependencies` is passed to handlers with `own_transaction`."""
        self._dependencies = dependencies
        self._db, self._service, self._poll_s = db, service, poll_s
        self._handlers = {handler.kind: handler for handler in handlers}
        if len(self._handlers) < len(handlers):
            raise ValueError("a kind of timer has one handler only")
        self._lease = timedelta(seconds=lease_s)

    async def run(self) -> None:
        """Call what is due, until cancelled; what is under way then is finished first."""
        while True:
            fired = 0
            try:
                fired = await run_to_completion(self._round())
            except Exception as error:  # noqa: BLE001 - PostgreSQL is away: timers wait, and so do we
                log.warning("timers wait", error=repr(error)[:300])
            if fired < _BATCH:
                await asyncio.sleep(self._poll_s)

    async def _round(self) -> int:
        claimed = await self._claim()
        outcomes = await asyncio.gather(*map(self._fire, claimed), return_exceptions=True)
        for timer, error in zip(claimed, outcomes, strict=True):
            if error is not None:
                log.warning("a timer waits for the end of its lease", **asdict(timer), error=repr(error)[:300])
        return len(claimed)

    async def _claim(self) -> Sequence[_Claimed]:
        claim = _CLAIM.bindparams(kinds=list(self._handlers), batch=_BATCH, lease=self._lease)
        async with self._db.all_tenants() as session:
            rows = (await session.execute(claim)).all()
        LATE.set(max((late.total_seconds() for late, *_ in rows), default=0.0))
        return [_Claimed(*row) for _, *row in rows]

    async def _fire(self, timer: _Claimed) -> None:
        with telemetry.span(f"{self._service}.{timer.kind}", Trace.from_header(None), SpanKind.INTERNAL, {}) as trace:
            telemetry.current.set(trace)  # of this task, which does nothing else
            deadline, actor = time.monotonic() + _HANDLER_S, f"service:{self._service}"
            origin = Origin(tenant_id=timer.tenant_id, actor=actor, trace=trace, deadline=deadline)
            try:
                async with asyncio.timeout(_HANDLER_S):
                    await self._effect(self._handlers[timer.kind], timer, origin)
            except Exception as error:  # noqa: BLE001 - tried again, however often
                await self._failed(timer, error)
            else:
                FIRED.labels(timer.kind, "done").inc()
                log.info("timer", kind=timer.kind, resource_id=str(timer.resource_id), tenant_id=str(timer.tenant_id))

    async def _effect(self, handler: TimerHandler, timer: _Claimed, origin: Origin) -> None:
        if handler.own_transaction:
            await handler.handle(self._dependencies, origin, timer.resource_id)
        async with self._db.write(origin) as tx:
            await tx.execute(_GIVE_WAY)
            still_ours = await tx.execute(_TAKE.bindparams(**asdict(timer)))
            if still_ours and not handler.own_transaction:
                await handler.handle(tx, timer.resource_id)

    async def _failed(self, timer: _Claimed, error: Exception) -> None:
        stuck = timer.attempts >= len(_PAUSES_S)
        FIRED.labels(timer.kind, "stuck" if stuck else "again").inc()
        (log.error if stuck else log.warning)("timer failed", exc_info=error, **asdict(timer))
        pause = timedelta(seconds=_PAUSES_S[min(timer.attempts, len(_PAUSES_S)) - 1])
        async with self._db.all_tenants() as session:
            await session.execute(_PAUSE.bindparams(**asdict(timer), pause=pause))
