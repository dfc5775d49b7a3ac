"""Publish events on NATS as their owners do."""

from uuid import UUID, uuid4

from google.protobuf.message import Message

from eventing.subjects import source_of


def headers_of(event: type[Message], event_id: UUID | None = None, **more: str) -> dict[str, str]:
    """Return the headers that an event needs, with `more` in addition to or instead of them."""
    descriptor = event.DESCRIPTOR
    required = {
        "ce-id": str(event_id or uuid4()),
        "ce-type": descriptor.full_name,
        "ce-source": source_of(descriptor.file.package),
    }
    return required | {name.replace("_", "-"): value for name, value in more.items()}
