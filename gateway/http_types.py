"""The HTTP request, the HTTP response, and the endpoint protocol that connects them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableSet, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.capacity import LARGE_BYTES, Usage
from kit.auth import Principal
from kit.errors import MalformedBody, MessageTooLarge, UnsupportedMediaType
from kit.telemetry import Trace

_UNCOUNTED_BYTES = 64 * 1024
"""Smaller bodies that arrive at once are not counted."""

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

    usage: Usage | None = None
    """What the request uses of the gateway; None for one that could not be read."""

    async def body(self, bytes_max: int) -> bytes:
        """Return the whole body; the caller must be authenticated.

        Raises MessageTooLarge, UnsupportedMediaType; ConcurrencyLimited or Overloaded if there is no memory for it.
        """
        headers = self.headers
        length = headers.get("content-length", "0")
        if length == "0" and "transfer-encoding" not in headers:
            return b""
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType(
                f"Content-Encoding {headers['content-encoding'][:50]} is not supported; only identity is.",
                accept_encoding="identity",
            )
        if int(length) > bytes_max:
            raise _too_large(bytes_max)
        parts, size, more = [], 0, True
        if self.usage and (int(length) > LARGE_BYTES or "transfer-encoding" in headers):
            await self.usage.begin_large()
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise MalformedBody("The body ended early.")
            part, more = message["body"], message["more_body"]
            parts.append(part)
            size += len(part)
            if size > bytes_max:
                raise _too_large(bytes_max)
            if more or size > _UNCOUNTED_BYTES:
                self.reserve(len(part))
        return b"".join(parts) if len(parts) > 1 else parts[0]

    async def wait_for_disconnect(self) -> None:
        """Return when the client has closed the connection. The body must have been read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    def reserve(self, size: int) -> None:
        """Count memory that the request holds until its response is sent. Raises ConcurrencyLimited or Overloaded."""
        if self.usage:
            self.usage.reserve(size)


def _too_large(bytes_max: int) -> MessageTooLarge:
    return MessageTooLarge(f"The body may have {bytes_max} bytes at most.", bytes_max=bytes_max)


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


class ResponseBroken(Exception):
    """The rest of a response that has begun can't be sent: the connection is closed before its end."""


class Endpoint(Protocol):
    """Handles the requests of one route."""

    async def handle(self, request: Request) -> Response:
        """Return the response, or raise the error."""

    def error_response(self, error: Exception, request: Request) -> Response:
        """Convert an error that `handle` raised to a response."""
