"""Publish events as an outside system does: over NATS JetStream, in the form of docs/outside-systems.md."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

from google.protobuf import json_format
from google.protobuf.message import Message
from nats.js import JetStreamContext


async def publish(
    jetstream: JetStreamContext, event: Message, tenant_id: UUID, source: str, *, event_id: UUID | None = None
) -> None:
    """Publish the event for a tenant; returns when NATS has stored it. Events with the same id are duplicates."""
    name = event.DESCRIPTOR.full_name
    id = event_id or uuid4()
    headers = {
        "Nats-Msg-Id": str(id),
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": str(id),
        "ce-type": name,
        "ce-source": source,
        "ce-time": datetime.now(UTC).isoformat(),
    }
    body = json_format.MessageToJson(event, preserving_proto_field_name=True, indent=None)
    await jetstream.publish(f"{name}.{tenant_id.hex}", body.encode(), timeout=5, headers=headers)
