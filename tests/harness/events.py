"""Events of other services: published on NATS, or passed to handlers directly."""

from uuid import UUID, uuid4

from google.protobuf import json_format
from google.protobuf.message import Message

from eventing.consumer import Consumer, Delivery
from eventing.subjects import source_of
from kit.telemetry import Trace
from serving.server import Service


def headers_of(event: type[Message], event_id: UUID | None = None, **more: str) -> dict[str, str]:
    """Return the headers that an event needs, with `more` in addition to or instead of them."""
    descriptor = event.DESCRIPTOR
    required = {
        "ce-id": str(event_id or uuid4()),
        "ce-type": descriptor.full_name,
        "ce-source": source_of(descriptor.file.package),
    }
    return required | {name.replace("_", "-"): value for name, value in more.items()}


class Replica:
    """A replica of a service to whose handlers events are passed one by one, without NATS."""

    def __init__(self, service: Service, name: str, tenant_id: UUID, *, actor: str = "carol") -> None:
        """`actor` causes the events."""
        self._consumers = {
            handler.event: Consumer(service.db, name, handler, service.dependencies) for handler in service.handlers
        }
        self._tenant_id, self._actor = tenant_id, actor

    async def handle(self, event: Message, event_id: UUID | None = None) -> None:
        """Handle an event once. Raises the same errors as the handler."""
        subject, body = f"{event.DESCRIPTOR.full_name}.{self._tenant_id.hex}", json_format.MessageToJson(event)
        delivery = Delivery(event_id or uuid4(), self._tenant_id, subject, body, self._actor, "")
        await self._consumers[type(event)].handle(delivery, Trace.from_header(None))
