"""A NATS publisher that sends header blocks and subjects as bytes, which the client library can't."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit


class RawPublisher:
    """A connection that publishes bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def publish(self, subject: bytes, headers: bytes, body: bytes) -> None:
        """Publish and wait until the server has processed the message."""
        command = b"HPUB %b %d %d\r\n" % (subject, len(headers), len(headers) + len(body))
        self._writer.write(command + headers + body + b"\r\nPING\r\n")
        while (line := await self._reader.readline()) != b"PONG\r\n":
            if line.startswith(b"-ERR"):
                raise RuntimeError(line.decode())
            assert line, "the connection was closed"


@contextlib.asynccontextmanager
async def raw_publisher(url: str) -> AsyncIterator[RawPublisher]:
    """Connect for the block."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    await reader.readline()  # INFO
    login = {"user": parts.username, "pass": parts.password} if parts.password else {"auth_token": parts.username}
    writer.write(b"CONNECT " + json.dumps({"verbose": False, "headers": True, **login}).encode() + b"\r\n")
    try:
        yield RawPublisher(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()


def header_block(headers: Mapping[str, bytes]) -> bytes:
    """Return headers in the format of NATS."""
    lines = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in headers.items())
    return b"NATS/1.0\r\n" + lines + b"\r\n"
