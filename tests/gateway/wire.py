"""HTTP/1.1 by hand over one connection: shows what happens to it, and costs little."""

import asyncio
from dataclasses import dataclass


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


def get(path: str, token: str) -> bytes:
    """A GET as it goes over the wire."""
    return f"GET {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
