"""Files as replies: RPCs return them as a stream, so that a file may be larger than a message.

The service and the gateway hold one part of it for each client, besides what gRPC sends ahead.
"""

from collections.abc import Iterator
from typing import Final

from billing.type.v1.file_pb2 import FileInfo
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.any_pb2 import Any

PART_BYTES: Final = 64 * 1024


def parts(content: bytes, *, media_type: str, name: str, sha256: bytes) -> Iterator[HttpBody]:
    """Yield the messages that an RPC sends for a file with this content."""
    info = Any()
    info.Pack(FileInfo(name=name, sha256=sha256.hex(), size_bytes=len(content)))
    yield HttpBody(content_type=media_type, data=content[:PART_BYTES], extensions=[info])
    for at in range(PART_BYTES, len(content), PART_BYTES):
        yield HttpBody(data=content[at : at + PART_BYTES])
