"""HTTP/1.1 by hand over one connection: shows what happens to it, and costs little."""

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
    """Whether the server has asked to close it."""

    @classmethod
    async def open(cls, port: int) -> "Wire":
        """Connect; raises ConnectionRefusedError where nobody listens any more."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request; gives status and body. Raises IncompleteReadError where the answer is cut off."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[16:]) for line in lines if line.startswith(b"content-length:"))
        body = await self.reader.readexactly(length)
        self.closing = b"connection: close" in lines
        return int(head[9:12]), body

    def close(self) -> None:
        """Let go."""
        self.writer.close()


@dataclass(slots=True)
class Events:
    """Server-sent events, as they come."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int
    headers: dict[str, str]

    @classmethod
    async def open(cls, port: int, path: str, token: str, **headers: str) -> "Events":
        """Ask, and read the head of the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get(path, token, **headers))
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        return cls(reader, writer, int(lines[0].split()[1]), {name.lower(): value for name, value in pairs})

    async def piece(self) -> str:
        """What was written at once; empty at the end."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2].decode()

    async def event(self) -> dict[str, Any]:
        """The fields of the next event, its data decoded; what is no event is passed over."""
        while "data: " not in (piece := await self.piece()):
            assert piece, "the stream is over"
        assert piece.endswith("\n\n")
        fields = dict(line.split(": ", 1) for line in piece[:-2].split("\n"))
        return {**fields, "data": json.loads(fields["data"])}

    async def body(self) -> dict[str, Any]:
        """The whole of an answer that is no stream."""
        return json.loads(await self.reader.readexactly(int(self.headers["content-length"])))  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let go."""
        self.writer.close()


def get(path: str, token: str, **headers: str) -> bytes:
    """A GET as it goes over the wire."""
    given = {"Host": "gateway", "Authorization": f"Bearer {token}", **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items())
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode()
