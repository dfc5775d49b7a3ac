"""Encodes the messages of a stream as server-sent events (HTML standard)."""

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor

from contract import codec

START = b"retry: 2000\n\n"
"""Sent first: a client that loses the connection reconnects after two seconds."""
KEEP_ALIVE = b": keep-alive\n\n"
"""A comment, so that proxies don't close an idle connection."""


def encoder(descriptor: Descriptor) -> Callable[[Any], bytes]:
    """Return the function that encodes a message of this type as an event.

    `id` is the field `event_id` if there is one; `event` is the name of the field set in the oneof, or else the type.
    """
    encode = codec.encoder(descriptor)
    oneof = next((oneof.name for oneof in descriptor.oneofs if len(oneof.fields) > 1), None)

    def event(message: Any) -> bytes:
        values = encode(message)
        id_line = f"id: {values['event_id']}\n" if values.get("event_id") else ""
        name = (oneof and message.WhichOneof(oneof)) or descriptor.name
        return f"{id_line}event: {name}\ndata: ".encode() + codec.dumps(values) + b"\n\n"

    return event


def error(problem: bytes) -> bytes:
    """Return the event for an error after the stream has started; nothing follows it."""
    return b"event: error\ndata: " + problem + b"\n\n"
