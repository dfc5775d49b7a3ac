"""A minimal HTTP/1.1 client over one connection: exposes the state of the connection, and costs little."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Wire:
    """A keep-alive connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    closing: bool = False
    """True once a response has asked to close the connection."""

    @classmethod
    async def open(cls, port: int) -> "Wire":
        """Connect. Raises ConnectionRefusedError if the port is closed."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; return status and body. Raises IncompleteReadError if the response is cut off."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[16:]) for line in lines if line.startswith(b"content-length:"))
        body = await self.reader.readexactly(length)
        self.closing = b"connection: close" in lines
        return int(head[9:12]), body

    def close(self) -> None:
        """Close the connection."""
        self.writer.close()


@dataclass(slots=True)
class Events:
    """A stream of server-sent events."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int
    headers: dict[str, str]

    @classmethod
    async def open(cls, port: int, path: str, token: str, *, body: str = "", **headers: str) -> "Events":
        """Send the request and read the head of the response."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        length = {"Content-Length": str(len(body))} if body else {}
        writer.write(get(path, token, **headers, **length) + body.encode())
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        return cls(reader, writer, int(lines[0].split()[1]), {name.lower(): value for name, value in pairs})

    async def chunk(self) -> str:
        """Return the next chunk; empty at the end."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2].decode()

    async def event(self) -> dict[str, Any]:
        """Return the fields of the next event with its data decoded; comments are skipped."""
        while "data: " not in (chunk := await self.chunk()):
            assert chunk, "the stream has ended"
        assert chunk.endswith("\n\n")
        fields = dict(line.split(": ", 1) for line in chunk[:-2].split("\n"))
        return {**fields, "data": json.loads(fields["data"])}

    async def body(self) -> dict[str, Any]:
        """Return the body of a response that is not a stream."""
        return json.loads(await self.reader.readexactly(int(self.headers["content-length"])))  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connection."""
        self.writer.close()


def get(path: str, token: str, **headers: str) -> bytes:
    """Return a GET request as bytes."""
    all_headers = {"Host": "gateway", "Authorization": f"Bearer {token}", **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in all_headers.items())
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode()
