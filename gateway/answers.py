"""What comes in over HTTP and what goes back."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableSet, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kit.auth import Principal
from kit.errors import MalformedBody, MessageTooLarge
from kit.telemetry import Trace

Headers = Sequence[tuple[str, str]]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]


@dataclass(slots=True)
class Request:
    """One HTTP request."""

    verb: str
    query: str
    headers: Mapping[str, str]
    receive: Receive
    listening: MutableSet[asyncio.Task[None]]
    """Where a stream leaves the task that waits for its caller to go; it is cancelled when the process is to end."""
    trace: Trace
    id: str
    """Names it in logs and answers: the caller's `X-Request-Id`, or a new one."""
    variables: Mapping[str, str] = field(default_factory=dict)
    principal: Principal | None = None
    """Who calls, once that is known."""
    told: Headers = ()
    """Headers that the answer bears whatever comes of it."""

    async def body(self, bytes_max: int) -> bytes:
        """All of the body; raises MessageTooLarge."""
        headers = self.headers
        length = headers.get("content-length", "0")
        if length == "0" and "transfer-encoding" not in headers:
            return b""
        read, more = b"", int(length) <= bytes_max
        while more and len(read) <= bytes_max:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise MalformedBody("The body ended early.")
            read += message["body"]
            more = message["more_body"]
        if more or len(read) > bytes_max or int(length) > bytes_max:
            raise MessageTooLarge(f"The body may have {bytes_max} bytes at most.", bytes_max=bytes_max)
        return read


@dataclass(slots=True)
class Answer:
    """One HTTP response."""

    status: int
    body: bytes = b""
    headers: Headers = ()
    reason: str = ""
    """Why it was refused, for the log."""
    more: AsyncGenerator[bytes, None] | None = None
    """What follows the body, piece by piece, begun already; it is closed when the caller leaves."""


class Endpoint(Protocol):
    """What answers the requests of one route."""

    async def answer(self, request: Request) -> Answer:
        """The answer; a refusal is raised."""

    def refused(self, error: Exception, request: Request) -> Answer:
        """A refusal that was raised, as an answer."""
