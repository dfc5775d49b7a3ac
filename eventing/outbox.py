"""Transactional outbox: events are appended in the transaction that changes the data, and published by a relay.

An appended event is published at least once, despite crashes; `Nats-Msg-Id` and the consumers' inbox make its effect
happen once. While NATS is down, events wait in the table.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from google.protobuf import json_format
from google.protobuf.message import Message
from nats.js import JetStreamContext
from opentelemetry.trace import SpanKind
from sqlalchemy import DateTime, Interval, String, Text, Uuid, bindparam, func, select, text, update
from sqlalchemy.orm import Mapped, mapped_column

from eventing import bus, subjects
from kit import clock, ids, telemetry
from kit.db import Base, Database, WriteSession
from kit.origin import Origin
from kit.telemetry import Trace, log

_BATCH = 200
BODY_CHARACTERS_MAX = 256 * 1024
_RETENTION = timedelta(days=7)
INSERT: Final = "insert into outbox (id, tenant_id, type, body, actor, traceparent, create_time)"
"""Start of an insert, for statements that append events themselves; it is followed by `select` or `values`."""
INSERT_ALL: Final = (
    f"{INSERT} select * from"
    " unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])"
)
"""Inserts many rows; the parameters are `parameters(rows)`."""
_INSERT_ONE = f"{INSERT} values ($1, $2, $3, $4, $5, $6, $7)"


class OutboxRow(Base):
    """An event; `publish_time` is null until it is published."""

    __tablename__ = "outbox"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(Uuid)
    type: Mapped[str] = mapped_column(String)
    body: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(String)
    traceparent: Mapped[str] = mapped_column(String)
    create_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    publish_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    @property
    def values(self) -> tuple[object, ...]:
        """The values of the columns of INSERT, in their order."""
        return self.id, self.tenant_id, self.type, self.body, self.actor, self.traceparent, self.create_time

    @property
    def subject(self) -> str:
        """NATS subject: the full name of the event and the tenant."""
        return f"{self.type}.{self.tenant_id.hex}"


def append(tx: WriteSession, event: Message) -> None:
    """Append `event` to the outbox of `tx`; it is published after the commit."""
    tx.defer(_INSERT_ONE, *new_row(tx.origin, event).values)
    tx.appended = True


def append_all(tx: WriteSession, events: Iterable[Message]) -> None:
    """Append many events to the outbox of `tx` in one statement; they are published after the commit, in order."""
    append_rows(tx, [new_row(tx.origin, event) for event in events])


def append_rows(tx: WriteSession, rows: Sequence[OutboxRow]) -> None:
    """Append rows to the outbox of `tx` like `append_all`, for events that different origins have caused."""
    if rows:
        tx.defer(INSERT_ALL, *parameters(rows))
        tx.appended = True


def parameters(rows: Iterable[OutboxRow]) -> tuple[list[object], ...]:
    """Return the parameters of INSERT_ALL for one or more rows: a list for each column."""
    return tuple(map(list, zip(*(row.values for row in rows), strict=True)))


def new_row(origin: Origin, event: Message) -> OutboxRow:
    """Return the outbox row of an event that `origin` caused. Raises ValueError if the event is too large."""
    body = json_format.MessageToJson(event, preserving_proto_field_name=True, indent=None)
    if len(body) > BODY_CHARACTERS_MAX:
        # NATS would reject it for ever, and the events behind it would not be published.
        raise ValueError(f"{event.DESCRIPTOR.full_name} is too large to publish; put ids into events, not documents")
    return OutboxRow(
        id=ids.new(),
        tenant_id=origin.tenant_id,
        type=event.DESCRIPTOR.full_name,
        body=body,
        actor=origin.actor,
        traceparent=origin.trace.header(),
        create_time=clock.now(),
    )


_UNPUBLISHED = select(func.count(), func.min(OutboxRow.create_time)).where(OutboxRow.publish_time.is_(None))


async def measure(db: Database) -> None:
    """Set the gauges of the events that wait in the outbox; they are the same in all replicas."""
    async with db.all_tenants() as session:
        count, oldest = (await session.execute(_UNPUBLISHED)).one()
    telemetry.OUTBOX_UNPUBLISHED.set(count)
    telemetry.OUTBOX_OLDEST.set((clock.now() - oldest).total_seconds() if oldest else 0)


class Relay:
    """Publishes the events in the outbox; every replica runs one."""

    def __init__(
        self,
        db: Database,
        jetstream: JetStreamContext,
        service: str,
        *,
        poll_s: float = 0.5,
        publish_timeout_s: float = 5.0,
    ) -> None:
        self._db = db
        self._poll_s = poll_s
        self._publish_timeout_s = publish_timeout_s
        self._jetstream = jetstream
        self._source = subjects.source_of(f"billing.{service}")

    async def run(self) -> None:
        """Publish events until cancelled: those of this process at once, those of other replicas every `poll_s`."""
        while True:
            self._db.appended.clear()
            try:
                published = await self._publish_batch()
            except Exception as error:  # noqa: BLE001 - NATS or PostgreSQL is down: the events stay in the table
                log.warning("outbox not published", error=error)
                published = 0
            if published < _BATCH:
                await self._wait()

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._db.appended.wait(), self._poll_s)

    async def _publish_batch(self) -> int:
        # The rows stay locked until they are published, so that no other replica publishes them as well.
        async with self._db.all_tenants() as session:
            unpublished = select(OutboxRow).where(OutboxRow.publish_time.is_(None)).order_by(OutboxRow.id).limit(_BATCH)
            rows = (await session.execute(unpublished.with_for_update(skip_locked=True))).scalars().all()
            outcomes = await asyncio.gather(*map(self._publish, rows), return_exceptions=True)
            published = [row.id for row, outcome in zip(rows, outcomes, strict=True) if outcome is None]
            if published:
                mark_published = update(OutboxRow).where(OutboxRow.id.in_(published)).values(publish_time=func.now())
                await session.execute(mark_published)
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome is not None:
                log.warning("event not published yet", event_id=str(row.id), error=outcome)
        if len(published) < len(rows):
            await bus.ensure_stream(self._jetstream)  # the stream itself may have been lost
        return len(published)

    async def _publish(self, row: OutboxRow) -> None:
        attributes = {
            "messaging.system": "nats",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.destination.name": row.subject,
            "messaging.message.id": str(row.id),
        }
        parent = Trace.from_header(row.traceparent)
        with telemetry.span(f"publish {row.type}", parent, SpanKind.PRODUCER, attributes) as trace:
            try:
                await self._send(row, trace.header() if trace.sampled else row.traceparent)
            except Exception as error:
                telemetry.set_outcome({}, error_type=type(error).__name__, fault=True)
                raise
        telemetry.EVENTS_PUBLISHED.labels(row.type).inc()

    async def _send(self, row: OutboxRow, traceparent: str) -> None:
        headers = {
            "Nats-Msg-Id": str(row.id),
            "content-type": "application/json",
            "ce-specversion": "1.0",
            "ce-id": str(row.id),
            "ce-type": row.type,
            "ce-source": self._source,
            "ce-time": row.create_time.isoformat(),
            "ce-actor": row.actor,
            "traceparent": traceparent,
        }
        await self._jetstream.publish(row.subject, row.body.encode(), timeout=self._publish_timeout_s, headers=headers)

    async def prune(self) -> None:
        """Delete events that were published more than a week ago, in batches; run it from time to time."""
        delete = text(
            "delete from outbox where id in (select id from outbox where publish_time < now() - :retention"
            " order by publish_time limit 5000 for update skip locked)"
        ).bindparams(bindparam("retention", _RETENTION, Interval))
        deleted = 1
        while deleted:
            async with self._db.all_tenants() as session:
                result = await session.execute(delete)
                deleted = int(getattr(result, "rowcount", 0))
