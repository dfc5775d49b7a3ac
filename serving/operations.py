"""OperationsService, implemented by every service: version, and dead-lettered events."""

from collections.abc import Sequence
from uuid import UUID

from billing.operations.v1 import operations_service_pb2 as pb
from prometheus_client import Gauge
from sqlalchemy import Integer, Text, Uuid, delete, func, select, update
from sqlalchemy.orm import Mapped, mapped_column

from eventing.consumer import Consumer, Delivery, error_text
from kit.db import Database, TenantRow
from kit.errors import NotFound
from kit.origin import Call
from kit.telemetry import log
from kit.version import VERSION
from serving.pages import Pages


class DeadLetterNotFound(NotFound):
    """The dead letter does not exist, or was redriven already."""

    reason = "DEAD_LETTER_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such dead letter; it may have been redriven already.")


class DeadLetterRow(TenantRow):
    """An event that a consumer failed to handle in all its deliveries."""

    __tablename__ = "dead_letters"

    consumer: Mapped[str] = mapped_column(Text)
    event_id: Mapped[UUID] = mapped_column(Uuid)
    subject: Mapped[str] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(Text)
    traceparent: Mapped[str] = mapped_column(Text)
    error: Mapped[str] = mapped_column(Text)
    deliveries: Mapped[int] = mapped_column(Integer)


DEAD_LETTERS = Gauge("billing_dead_letters", "Events that a consumer failed to handle, stored now.", ("consumer",))
_COUNT = select(DeadLetterRow.consumer, func.count().label("letters")).group_by(DeadLetterRow.consumer)


async def measure_dead_letters(db: Database, consumers: set[str]) -> None:
    """Set the gauge of the dead letters of all tenants; it is the same in all replicas.

    Consumers that are not among `consumers`, because they were renamed, are added to it.
    """
    async with db.all_tenants() as session:
        counts = {row.consumer: row.letters for row in await session.execute(_COUNT)}
    consumers.update(counts)
    for consumer in consumers:
        DEAD_LETTERS.labels(consumer).set(counts.get(consumer, 0))


class OperationsServicer:
    """Implements OperationsService for one service."""

    service = pb.DESCRIPTOR.services_by_name["OperationsService"]

    def __init__(self, name: str, db: Database, pages: Pages, consumers: Sequence[Consumer]) -> None:
        self._name = name
        self._db = db
        self._pages = pages
        self._consumers = {consumer.name: consumer for consumer in consumers}

    async def GetVersion(self, request: pb.GetVersionRequest, call: Call) -> pb.Version:  # noqa: ARG002 - the signature of all RPCs
        return pb.Version(service=self._name, version=VERSION)

    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, call: Call) -> pb.ListDeadLettersResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            letters = await page.fetch(tx, select(DeadLetterRow), DeadLetterRow.id)
        dead_letters = map(_letter_to_proto, letters.rows)
        return pb.ListDeadLettersResponse(dead_letters=dead_letters, next_page_token=letters.next_page_token)

    async def RedriveDeadLetter(self, request: pb.RedriveDeadLetterRequest, call: Call) -> pb.DeadLetter:
        event_id = UUID(request.event_id)
        key = DeadLetterRow.consumer == request.consumer, DeadLetterRow.event_id == event_id
        async with self._db.read(call) as tx:
            letter = await tx.one_or_none(select(DeadLetterRow).where(*key))
        consumer = self._consumers.get(request.consumer)
        if letter is None or consumer is None:
            raise DeadLetterNotFound
        delivery = Delivery(event_id, call.tenant_id, letter.subject, letter.body, letter.actor, letter.traceparent)
        try:
            await consumer.handle(delivery, call.trace)
        except Exception as error:
            async with self._db.write(call) as tx:
                await tx.execute(update(DeadLetterRow).where(*key).values(error=error_text(error)))
            raise
        async with self._db.write(call) as tx:
            await tx.execute(delete(DeadLetterRow).where(*key))
        return _letter_to_proto(letter)

    async def DropDeadLetter(self, request: pb.DropDeadLetterRequest, call: Call) -> pb.DeadLetter:
        key = DeadLetterRow.consumer == request.consumer, DeadLetterRow.event_id == UUID(request.event_id)
        async with self._db.write(call) as tx:
            letter = await tx.one_or_none(select(DeadLetterRow).where(*key))
            if letter is None:
                raise DeadLetterNotFound
            await tx.execute(delete(DeadLetterRow).where(*key))
        log.warning("dead letter dropped", consumer=request.consumer, event_id=request.event_id)
        return _letter_to_proto(letter)


def _letter_to_proto(row: DeadLetterRow) -> pb.DeadLetter:
    letter = pb.DeadLetter(
        event_id=str(row.event_id),
        consumer=row.consumer,
        subject=row.subject,
        body=row.body,
        error=row.error,
        deliveries=row.deliveries,
    )
    letter.create_time.FromDatetime(row.create_time)
    return letter
