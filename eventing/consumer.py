"""Events in: each has its effect once, whatever is delivered twice, lost on the way or killed in between.

The inbox row of (consumer, event) and the effect stand in one transaction; a handler that has transactions of its own
makes its effect once by itself, and is given many events at a time. A handler that fails is tried again with growing
pauses; after five deliveries the event goes to the dead letters, from where it can be redriven.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar, overload
from uuid import UUID

from google.protobuf import json_format
from google.protobuf.message import Message
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from opentelemetry.trace import SpanKind
from sqlalchemy import text

from eventing.bus import STREAM
from kit import clock, ids, telemetry
from kit.db import Database, WriteSession, to_billing_error
from kit.errors import Conflict, DeadlineExceeded, Overloaded, Unavailable
from kit.origin import Origin
from kit.tasks import run_to_completion
from kit.telemetry import Trace, log

_BATCH = 16
_BATCH_OWN_TRANSACTION = 256
"""Handlers outside of our transactions do in groups what comes together: the more at once, the less each costs."""
_ACK_WAIT_S = 20
"""How long what a process took that died has to wait; more than a handler may take, so that it is not done twice."""
_HANDLER_S = 8.0
"""A handler that is under way when the process is to end is waited for."""
_DELIVERIES_MAX = 5
_PAUSES_S = (0.2, 1.0, 5.0, 15.0)
_PASSING = TimeoutError | Unavailable | DeadlineExceeded | Conflict | Overloaded
"""What is no fault of the event: it is tried again however often."""
ERROR_MAX = 2000
"""How much of an error's text a dead letter keeps."""

EventT = TypeVar("EventT", bound=Message)
InTransaction = Callable[[WriteSession, EventT], Awaitable[None]]
OwnTransaction = Callable[[Any, Origin, EventT], Awaitable[None]]

_ENTER = text(
    "insert into inbox (tenant_id, consumer, event_id) values (:tenant_id, :consumer, :event_id) on conflict do nothing"
)
_BURY = text(
    "insert into dead_letters (id, tenant_id, consumer, event_id, subject, body, actor, traceparent, error, deliveries)"
    " values (:id, :tenant_id, :consumer, :event_id, :subject, :body, :actor, :traceparent, :error, :deliveries)"
    " on conflict (tenant_id, consumer, event_id) do update set error = excluded.error"
)


@dataclass(frozen=True, slots=True)
class Handler:
    """The function of a service that handles one type of event."""

    name: str
    event: type[Message]
    handle: Callable[..., Awaitable[None]]
    own_transaction: bool = False
    concerns: Callable[[Any], bool] | None = None
    """Filter: events for which it returns False are acknowledged without a transaction."""

    @property
    def subject(self) -> str:
        """NATS subject filter of the event, for all tenants."""
        return f"{self.event.DESCRIPTOR.full_name}.*"


@overload
def on(
    event: type[EventT], concerns: Callable[[EventT], bool] | None = None
) -> Callable[[InTransaction[EventT]], Handler]: ...


@overload
def on(event: type[EventT], *, own_transaction: Literal[True]) -> Callable[[OwnTransaction[EventT]], Handler]: ...


def on(
    event: type[EventT], concerns: Callable[[EventT], bool] | None = None, *, own_transaction: bool = False
) -> Callable[[Callable[..., Awaitable[None]]], Handler]:
    """Declare a function as the handler of an event. Its name names the durable consumer, so never rename it.

    By default the function is `(tx, event)`: its writes commit together with the inbox row, so they happen once.
    With `own_transaction` it is `(dependencies, origin, event)` and opens transactions itself. It may be called twice
    with the same event, also concurrently and in two replicas, so it must be idempotent: store a key derived from the
    event in the same transaction as the effect. `dependencies` is what the service was composed with.
    """
    return lambda handle: Handler(handle.__name__, event, handle, own_transaction, concerns)


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event as it reached a consumer."""

    event_id: UUID
    tenant_id: UUID
    subject: str
    body: str
    actor: str
    traceparent: str
    deliveries: int = 1
    said_at: datetime | None = None

    @classmethod
    def of(cls, message: Msg) -> "Delivery":
        """The event in a NATS message; raises KeyError or ValueError where it is not one of ours."""
        headers, body = message.headers or {}, message.data.decode()
        if "\0" in body:
            raise ValueError("no dead letter could keep it")
        return cls(
            event_id=UUID(headers["ce-id"]),
            tenant_id=UUID(message.subject.rpartition(".")[2]),
            subject=message.subject,
            body=body,
            actor=headers.get("ce-actor") or headers.get("ce-source", ""),
            traceparent=headers.get("traceparent", ""),
            deliveries=message.metadata.num_delivered or 1,
            said_at=_said_at(headers.get("ce-time", "")),
        )

    def origin(self, trace: Trace) -> Origin:
        """On whose behalf the effect is made: whoever caused the event."""
        deadline = time.monotonic() + _HANDLER_S
        return Origin(tenant_id=self.tenant_id, actor=self.actor, trace=trace, deadline=deadline)


def _said_at(text: str) -> datetime | None:
    """When an event was said; None where its sender does not tell, or not so that it is understood."""
    try:
        said_at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return said_at if said_at.tzinfo else None


class Consumer:
    """Feeds the events of one kind to one handler; replicas share the work."""

    def __init__(self, db: Database, service: str, handler: Handler, dependencies: object = None) -> None:
        self._db = db
        self._dependencies = dependencies
        self._handler = handler
        self.name = f"{service}.{handler.name}"

    async def run(self, jetstream: JetStreamContext) -> None:
        """Take events as they come, until cancelled; what is under way then is finished first."""
        subscription = await jetstream.pull_subscribe(
            self._handler.subject,
            durable=self.name.replace(".", "_"),
            stream=STREAM,
            config=ConsumerConfig(
                ack_policy=AckPolicy.EXPLICIT, ack_wait=_ACK_WAIT_S, max_deliver=-1, deliver_policy=DeliverPolicy.ALL
            ),
        )
        batch = _BATCH_OWN_TRANSACTION if self._handler.own_transaction else _BATCH
        while True:
            try:
                messages = await subscription.fetch(batch, timeout=5)
            except (NatsTimeout, TimeoutError):
                continue
            await run_to_completion(asyncio.gather(*map(self._take, messages)))

    async def _take(self, message: Msg) -> None:
        try:
            delivery = Delivery.of(message)
        except (KeyError, ValueError) as error:
            log.error("not an event of ours", consumer=self.name, subject=message.subject, error=repr(error))
            await message.term()
            return
        arrived = Trace.from_header(delivery.traceparent)
        attributes = {"messaging.system": "nats", "messaging.destination.name": delivery.subject}
        with telemetry.span(self.name, arrived, SpanKind.CONSUMER, attributes) as trace:
            token = telemetry.current.set(trace)
            try:
                await self.handle(delivery, trace)
            except Exception as error:  # noqa: BLE001 - tried again, then buried with its error
                await self._failed(message, delivery, trace, error)
            else:
                await message.ack()
                telemetry.EVENTS_CONSUMED.labels(self.name, "done").inc()
                if delivery.said_at:
                    age = (clock.now() - delivery.said_at).total_seconds()
                    telemetry.EVENT_AGE.labels(self.name).observe(age)
                log.info(
                    "event", consumer=self.name, event_id=str(delivery.event_id), tenant_id=str(delivery.tenant_id)
                )
            finally:
                telemetry.current.reset(token)

    async def handle(self, delivery: Delivery, trace: Trace) -> None:
        """Let the event have its effect, unless it had it before."""
        event = json_format.Parse(delivery.body, self._handler.event(), ignore_unknown_fields=True)
        if self._handler.concerns and not self._handler.concerns(event):
            return
        origin, handle = delivery.origin(trace), self._handler.handle
        async with asyncio.timeout(_HANDLER_S):
            if self._handler.own_transaction:
                await handle(self._dependencies, origin, event)
                return
            async with self._db.write(origin) as tx:
                entered = await tx.execute(
                    _ENTER.bindparams(tenant_id=delivery.tenant_id, consumer=self.name, event_id=delivery.event_id)
                )
                if entered:
                    await handle(tx, event)

    async def _failed(self, message: Msg, delivery: Delivery, trace: Trace, error: Exception) -> None:
        passing = to_billing_error(error) is not None or isinstance(error, _PASSING)
        log.warning("event failed", consumer=self.name, event_id=str(delivery.event_id), exc_info=error)
        if delivery.deliveries < _DELIVERIES_MAX or passing:
            await message.nak(delay=_PAUSES_S[min(delivery.deliveries, len(_PAUSES_S)) - 1])
            telemetry.EVENTS_CONSUMED.labels(self.name, "again").inc()
            return
        async with self._db.write(delivery.origin(trace)) as tx:
            await tx.execute(self._buried(delivery, error))
        await message.term()
        telemetry.EVENTS_CONSUMED.labels(self.name, "buried").inc()

    def _buried(self, delivery: Delivery, error: Exception) -> Any:
        return _BURY.bindparams(
            id=ids.new(),
            tenant_id=delivery.tenant_id,
            consumer=self.name,
            event_id=delivery.event_id,
            subject=delivery.subject,
            body=delivery.body,
            actor=delivery.actor,
            traceparent=delivery.traceparent,
            error=repr(error)[:ERROR_MAX],
            deliveries=delivery.deliveries,
        )
