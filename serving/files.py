"""Files as replies: RPCs return them as a stream of messages, so that a file may be larger than a message."""

import hashlib
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from billing.type.v1.file_pb2 import FileInfo
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.any_pb2 import Any

PART_BYTES: Final = 64 * 1024
_IN_MEMORY_BYTES_MAX: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a file, in pieces of any size."""

    sha256: bytes
    size: int
    pieces: AsyncGenerator[bytes, None]


async def messages(content: Content, *, name: str, media_type: str) -> AsyncGenerator[HttpBody, None]:
    """Yield the messages of a file: first its description, then its content. Close the generator (`aclosing`)."""
    info = Any()
    info.Pack(FileInfo(name=name, sha256=content.sha256.hex(), size_bytes=content.size))
    yield HttpBody(content_type=media_type, extensions=[info])
    async with aclosing(content.pieces):
        async for piece in content.pieces:
            for at in range(0, len(piece), PART_BYTES):
                yield HttpBody(data=piece[at : at + PART_BYTES])


def spooled(content: bytes) -> Content:
    """Return content that needs no memory while it is sent, unless it is small."""
    return Content(hashlib.sha256(content).digest(), len(content), _spooled(content))


async def _spooled(content: bytes) -> AsyncGenerator[bytes, None]:
    with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES_MAX) as file:
        file.write(content)
        del content
        file.seek(0)
        while piece := file.read(PART_BYTES):
            yield piece
