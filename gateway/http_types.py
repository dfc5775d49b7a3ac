"""The HTTP request, the HTTP response, and the endpoint protocol that connects them."""

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
    stream_watchers: MutableSet[asyncio.Task[None]]
    """Tasks that wait for the client of a stream to disconnect; the gateway cancels them on shutdown."""
    trace: Trace
    id: str
    """Identifies the request in logs and responses: the client's `X-Request-Id`, or a new one."""
    variables: Mapping[str, str] = field(default_factory=dict)
    principal: Principal | None = None
    """The caller, once authenticated."""
    response_headers: Headers = ()
    """Headers of the response, whether it succeeds or fails."""

    async def body(self, bytes_max: int) -> bytes:
        """Return the whole body. Raises MessageTooLarge."""
        headers = self.headers
        length = headers.get("content-length", "0")
        if length == "0" and "transfer-encoding" not in headers:
            return b""
        content, more = b"", int(length) <= bytes_max
        while more and len(content) <= bytes_max:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise MalformedBody("The body ended early.")
            content += message["body"]
            more = message["more_body"]
        if more or len(content) > bytes_max or int(length) > bytes_max:
            raise MessageTooLarge(f"The body may have {bytes_max} bytes at most.", bytes_max=bytes_max)
        return content


@dataclass(slots=True)
class Response:
    """One HTTP response."""

    status: int
    body: bytes = b""
    headers: Headers = ()
    reason: str = ""
    """The error reason, for the log."""
    stream: AsyncGenerator[bytes, None] | None = None
    """The chunks after `body`, from a generator that has yielded `body` already; closed when the client disconnects."""


class Endpoint(Protocol):
    """Handles the requests of one route."""

    async def handle(self, request: Request) -> Response:
        """Return the response, or raise the error."""

    def error_response(self, error: Exception, request: Request) -> Response:
        """Convert an error that `handle` raised to a response."""
