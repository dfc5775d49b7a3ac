"""Connections to the gateway over which bytes are sent as they are, and checks that tests share."""

import asyncio
import contextlib
import json
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from tests.gateway.process import Process
from tests.gateway.wire import Wire

T = TypeVar("T")

CHARGE = "/api/enterprise-billing/budgets/bud_019a5c7e2f407b3c8d1e5a6f7b8c9d0e/charge"
HEAD = b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n"
HEADER_S, BODY_S, IDLE_S, WRITE_S = 1.0, 2.0, 3.0, 2.0
SWEEP_S = 2.5
"""Deadlines start and end with a sweep, each within a second."""

opened: list[Wire] = []


class Raw:
    """A connection over which bytes are sent as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int, first: bytes = b"") -> "Raw":
        wire = await Wire.open(port)
        opened.append(wire)
        wire.writer.write(first)
        return cls(wire.reader, wire.writer)

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """Read one response: status, headers, body."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
        return int(lines[0].split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))

    async def problem(self) -> tuple[int, str, str]:
        """Read one error: status, code, detail."""
        status, headers, body = await self.response()
        assert headers["content-type"] == "application/problem+json"
        problem = json.loads(body)
        return status, problem["code"], problem["detail"]

    async def dripped(self, response: Coroutine[Any, Any, T]) -> T:
        """Send a byte every 0.2 s until `response` has been read; return it."""
        reading = asyncio.ensure_future(response)
        while not reading.done():
            with contextlib.suppress(ConnectionError):
                self.writer.write(b"a")
                await self.writer.drain()
            await asyncio.wait([reading], timeout=0.2)
        return await reading

    async def closed(self, within_s: float) -> bytes:
        """Wait until the gateway closes the connection; return what it sent until then."""
        async with asyncio.timeout(within_s):
            with contextlib.suppress(ConnectionResetError):
                return await self.reader.read()
        return b""


async def send(port: int, request: bytes) -> Raw:
    return await Raw.open(port, request)


def post(token: str, *headers: str, body: bytes = b"", path: str = CHARGE) -> bytes:
    """Return a POST request."""
    lines = "".join(f"{header}\r\n" for header in ("Host: gateway", f"Authorization: Bearer {token}", *headers))
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def memory_mib(process: Process) -> float:
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def is_served(port: int) -> None:
    """Assert that another client gets its response, and at once."""
    started = time.monotonic()
    wire = await asyncio.wait_for(Wire.open(port), 1)
    assert (await asyncio.wait_for(wire.send(HEAD + b"\r\n"), 1))[0] == 200
    wire.close()
    assert time.monotonic() - started < 1
