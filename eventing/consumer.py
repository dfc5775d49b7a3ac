"""Consumers of events: exactly one effect per event, despite repeated deliveries, lost messages and crashes.

The inbox row of (consumer, event) is written in the same transaction as the effect. A handler with transactions of its
own has to be idempotent itself; it gets many events concurrently. A handler that fails is retried with growing delays;
after five deliveries the event becomes a dead letter, which can be redriven.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal, TypeVar, overload
from uuid import UUID

from google.protobuf import json_format
from google.protobuf.message import Message
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError
from opentelemetry.trace import SpanKind
from sqlalchemy import text

from eventing import subjects
from eventing.subjects import STREAM
from kit import clock, failures, ids, telemetry
from kit.db import Database, WriteSession, to_billing_error
from kit.errors import Conflict, DeadlineExceeded, Overloaded, Unavailable, error_type
from kit.failures import LoggedText
from kit.origin import Origin
from kit.tasks import run_to_completion
from kit.telemetry import Trace, log

_BATCH = 16
_BATCH_OWN_TRANSACTION = 256
"""Larger, since these handlers process concurrent events in batches: larger batches cost less per event."""
_ACK_WAIT_S = 20
"""An event that a crashed process had received is delivered again after this time. It exceeds the time limit of
handlers, so that no event is delivered again while it is being handled."""
_HANDLER_S = 8.0
"""Time limit of a handler; also how long a shutdown waits for handlers."""
_DELIVERIES_MAX = 5
_TRANSIENT = TimeoutError | Unavailable | DeadlineExceeded | Conflict | Overloaded
"""Failures that are not caused by the event: it is retried without a limit."""
ERROR_LENGTH_MAX = 2000
"""Maximum number of characters of an error that a dead letter stores."""

_ACTOR_LENGTH_MAX = 128
"""As in tokens."""
_NOT_UTF8 = "\ufffd"
"""What nats-py puts in place of bytes of a header that are not UTF-8."""

EventT = TypeVar("EventT", bound=Message)
InTransaction = Callable[[WriteSession, EventT], Awaitable[None]]
OwnTransaction = Callable[[Any, Origin, EventT], Awaitable[None]]

_INSERT_INBOX = text(
    "insert into inbox (tenant_id, consumer, event_id) values (:tenant_id, :consumer, :event_id) on conflict do nothing"
)
_INSERT_DEAD_LETTER = text(
    "insert into dead_letters (id, tenant_id, consumer, event_id, subject, body, actor, traceparent, error, deliveries)"
    " values (:id, :tenant_id, :consumer, :event_id, :subject, :body, :actor, :traceparent, :error, :deliveries)"
    " on conflict (tenant_id, consumer, event_id) do update set error = excluded.error"
)


def error_text(error: Exception) -> str:
    """Return an error as text that PostgreSQL can store, and that has no row values."""
    text = failures.describe(error) if failures.is_of_database(error) else repr(error)
    text = text[:ERROR_LENGTH_MAX].replace("\0", "")
    return text.encode(errors="backslashreplace").decode()


class EventRejected(LoggedText):
    """A message is not an event in our format, or not one of its owner."""


@dataclass(frozen=True, slots=True)
class Handler:
    """A function of a service that handles one type of event."""

    name: str
    event: type[Message]
    handle: Callable[..., Awaitable[None]]
    own_transaction: bool = False
    accepts: Callable[[Any], bool] | None = None
    """Filter: events for which it returns False are acknowledged without a transaction."""
    dead_lettered: Callable[[WriteSession, Any], Awaitable[None]] | None = None
    """Called with the event in the transaction that stores it as a dead letter."""

    @property
    def subject(self) -> str:
        """NATS subject filter of the event, for all tenants."""
        return f"{self.event.DESCRIPTOR.full_name}.*"


@overload
def on(
    event: type[EventT],
    accepts: Callable[[EventT], bool] | None = None,
    *,
    dead_lettered: InTransaction[EventT] | None = None,
) -> Callable[[InTransaction[EventT]], Handler]: ...


@overload
def on(
    event: type[EventT], *, own_transaction: Literal[True], dead_lettered: InTransaction[EventT] | None = None
) -> Callable[[OwnTransaction[EventT]], Handler]: ...


def on(
    event: type[EventT],
    accepts: Callable[[EventT], bool] | None = None,
    *,
    own_transaction: bool = False,
    dead_lettered: InTransaction[EventT] | None = None,
) -> Callable[[Callable[..., Awaitable[None]]], Handler]:
    """Declare a function as the handler of an event. The durable consumer has its name, so never rename it.

    By default the function is `(tx, event)`: its writes commit together with the inbox row, so they happen once.
    With `own_transaction` it is `(dependencies, origin, event)` and opens transactions itself. It may be called twice
    with the same event, also concurrently and in two replicas, so it must be idempotent: store a key derived from the
    event in the same transaction as the effect. `dependencies` is that of the Service.

    `dead_lettered` is called when the event becomes a dead letter, for events whose effect a user waits for: it
    stores that the event was not handled.
    """
    return lambda handle: Handler(handle.__name__, event, handle, own_transaction, accepts, dead_lettered)


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event as it was delivered to a consumer."""

    event_id: UUID
    tenant_id: UUID
    subject: str
    body: str
    actor: str
    traceparent: str
    deliveries: int = 1
    event_time: datetime | None = None
    """Time of the transaction that appended the event; None if its sender does not report it."""

    @classmethod
    def from_message(cls, message: Msg, event: type[Message]) -> "Delivery":
        """Parse a NATS message. Raises EventRejected if it is not an event of this type in our format.

        What is accepted can be stored as a dead letter: PostgreSQL stores no NUL. NATS lets only the owner of an event
        publish to its subject; an event whose headers name another source or type was copied there.
        """
        headers, source = message.headers or {}, subjects.source_of(event.DESCRIPTOR.file.package)
        if headers.get("ce-type") != event.DESCRIPTOR.full_name:
            raise EventRejected("ce-type is not the name of the event in the subject")
        if headers.get("ce-source") != source:
            raise EventRejected(f"ce-source is not {source}")
        actor, traceparent = headers.get("ce-actor") or source, headers.get("traceparent", "")
        if len(actor) > _ACTOR_LENGTH_MAX or not actor.isprintable() or _NOT_UTF8 in actor:
            raise EventRejected(f"ce-actor is not printable text of at most {_ACTOR_LENGTH_MAX} characters")
        return cls(
            event_id=_parse_uuid("ce-id", headers.get("ce-id", "")),
            tenant_id=_parse_uuid("the tenant in the subject", message.subject.rpartition(".")[2]),
            subject=message.subject,
            body=_parse_body(message.data),
            actor=actor,
            traceparent=traceparent if Trace.is_header(traceparent) else "",
            deliveries=message.metadata.num_delivered or 1,
            event_time=_parse_time(headers.get("ce-time", "")),
        )

    def origin(self, trace: Trace) -> Origin:
        """Return the origin for the handler: the effect is made on behalf of the actor that caused the event."""
        deadline = time.monotonic() + _HANDLER_S
        return Origin(tenant_id=self.tenant_id, actor=self.actor, trace=trace, deadline=deadline)


def _parse_uuid(name: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise EventRejected(f"{name} is no UUID") from None


def _parse_body(data: bytes) -> str:
    if b"\0" in data:
        raise EventRejected("the body contains NUL")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise EventRejected("the body is not UTF-8") from None


def _parse_time(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


class Consumer:
    """Delivers the events of one type to one handler; replicas share the work."""

    retry_delays_s: ClassVar[Sequence[float]] = (0.2, 1.0, 5.0, 15.0)
    """Delay before each retry; the last one repeats."""

    def __init__(self, db: Database, service: str, handler: Handler, dependencies: object = None) -> None:
        self._db = db
        self._dependencies = dependencies
        self._handler = handler
        self.name = f"{service}.{handler.name}"
        self.durable = subjects.durable(self.name)

    async def run(self, jetstream: JetStreamContext) -> None:
        """Handle events until cancelled; handlers in progress are finished first."""
        subscription = await jetstream.pull_subscribe(
            self._handler.subject,
            durable=self.durable,
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
            await run_to_completion(asyncio.gather(*map(self._process, messages)))

    async def measure(self, jetstream: JetStreamContext) -> None:
        """Set the gauge of the events that this consumer has not received yet; it is the same in all replicas."""
        with contextlib.suppress(NotFoundError):  # not created yet
            info = await jetstream.consumer_info(STREAM, self.durable)
            telemetry.EVENTS_PENDING.labels(self.name).set(info.num_pending or 0)

    async def _process(self, message: Msg) -> None:
        try:
            delivery = Delivery.from_message(message, self._handler.event)
        except EventRejected as error:
            log.error("invalid event dropped", consumer=self.name, subject=message.subject, error=error)
            telemetry.EVENTS_CONSUMED.labels(self.name, "rejected").inc()
            await message.term()
            return
        parent = Trace.from_header(delivery.traceparent)
        attributes = {
            "messaging.system": "nats",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": delivery.subject,
            "messaging.consumer.group.name": self.name,
            "messaging.message.id": str(delivery.event_id),
        }
        with telemetry.span(self.name, parent, SpanKind.CONSUMER, attributes) as trace:
            token = telemetry.current.set(trace)
            try:
                await self.handle(delivery, trace)
            except Exception as error:  # noqa: BLE001 - retried, then stored as a dead letter
                telemetry.set_outcome({}, error_type=error_type(error), fault=True, exception=error)
                await self._retry_or_dead_letter(message, delivery, trace, error)
            else:
                await message.ack()
                telemetry.EVENTS_CONSUMED.labels(self.name, "done").inc()
                if delivery.event_time:
                    age = (clock.now() - delivery.event_time).total_seconds()
                    telemetry.EVENT_AGE.labels(self.name).observe(age)
                log.info(
                    "event", consumer=self.name, event_id=str(delivery.event_id), tenant_id=str(delivery.tenant_id)
                )
            finally:
                telemetry.current.reset(token)

    async def handle(self, delivery: Delivery, trace: Trace) -> None:
        """Call the handler, unless it has handled the event before."""
        event = self._parse(delivery)
        if self._handler.accepts and not self._handler.accepts(event):
            return
        origin, handle = delivery.origin(trace), self._handler.handle
        async with asyncio.timeout(_HANDLER_S):
            if self._handler.own_transaction:
                await handle(self._dependencies, origin, event)
                return
            async with self._db.write(origin) as tx:
                insert = _INSERT_INBOX.bindparams(
                    tenant_id=delivery.tenant_id, consumer=self.name, event_id=delivery.event_id
                )
                if await tx.execute(insert):
                    await handle(tx, event)

    def _parse(self, delivery: Delivery) -> Message:
        return json_format.Parse(delivery.body, self._handler.event(), ignore_unknown_fields=True)

    async def _retry_or_dead_letter(self, message: Msg, delivery: Delivery, trace: Trace, error: Exception) -> None:
        transient = to_billing_error(error) is not None or isinstance(error, _TRANSIENT)
        log.warning("event failed", consumer=self.name, event_id=str(delivery.event_id), exc_info=error)
        if delivery.deliveries < _DELIVERIES_MAX or transient:
            await message.nak(delay=self.retry_delays_s[min(delivery.deliveries, len(self.retry_delays_s)) - 1])
            telemetry.EVENTS_CONSUMED.labels(self.name, "retried").inc()
            return
        try:
            await self._dead_letter(delivery, trace, error)
        except Exception as failure:  # noqa: BLE001 - the event must not be retried for ever
            if to_billing_error(failure) is not None or isinstance(failure, _TRANSIENT):
                await message.nak(delay=self.retry_delays_s[-1])
                return
            log.error("dead letter without effect", consumer=self.name, exc_info=failure)
            await self._dead_letter(delivery, trace, error, notify=False)
        await message.term()
        telemetry.EVENTS_CONSUMED.labels(self.name, "dead_lettered").inc()

    async def _dead_letter(self, delivery: Delivery, trace: Trace, error: Exception, *, notify: bool = True) -> None:
        """Store the event as a dead letter; with `notify`, call the handler's `dead_lettered` as well."""
        async with self._db.write(delivery.origin(trace)) as tx:
            await tx.execute(self._insert_dead_letter(delivery, error))
            if notify and self._handler.dead_lettered and not isinstance(error, json_format.ParseError):
                await self._handler.dead_lettered(tx, self._parse(delivery))

    def _insert_dead_letter(self, delivery: Delivery, error: Exception) -> Any:
        return _INSERT_DEAD_LETTER.bindparams(
            id=ids.new(),
            tenant_id=delivery.tenant_id,
            consumer=self.name,
            event_id=delivery.event_id,
            subject=delivery.subject,
            body=delivery.body,
            actor=delivery.actor,
            traceparent=delivery.traceparent,
            error=error_text(error),
            deliveries=delivery.deliveries,
        )
