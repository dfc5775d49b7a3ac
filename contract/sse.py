"""Messages of a stream as server-sent events, as browsers and the HTML standard have them."""

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor

from contract import codec

BEGIN = b"retry: 2000\n\n"
"""What a stream starts with: who loses it comes back after two seconds."""
KEEP_ALIVE = b": keep-alive\n\n"
"""A comment, which tells those between us and the caller that the connection is in use."""


def encoder(descriptor: Descriptor) -> Callable[[Any], bytes]:
    """The function that gives a message of this type as an event.

    Its id is the field `event_id`, where there is one; its name what is set of the oneof, or else the type.
    """
    encode = codec.encoder(descriptor)
    choice = next((choice.name for choice in descriptor.oneofs if len(choice.fields) > 1), None)

    def event(message: Any) -> bytes:
        values = encode(message)
        id_line = f"id: {values['event_id']}\n" if values.get("event_id") else ""
        name = (choice and message.WhichOneof(choice)) or descriptor.name
        return f"{id_line}event: {name}\ndata: ".encode() + codec.dumps(values) + b"\n\n"

    return event


def error(problem: bytes) -> bytes:
    """A refusal in the middle of a stream, which is its end."""
    return b"event: error\ndata: " + problem + b"\n\n"
