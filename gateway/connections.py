"""The connections of the HTTP server: one client must not hold memory or a connection for longer than it needs them.

`Connection` extends uvicorn's protocol, which limits neither the header block nor the time that a client takes, and
adds the trailer fields of a chunked body to the headers. Decision 0019 has the reasons and the alternatives.
"""

import asyncio
import math
from collections import Counter as Tally
from collections.abc import Coroutine, Iterable
from enum import Enum
from typing import Any, Final
from urllib.parse import unquote

import httptools
from prometheus_client import Counter, Gauge
from uvicorn._types import ASGI3Application, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway import problems
from gateway.http_types import Response
from kit.errors import BillingError, HeadersTooLarge, MalformedRequest, RequestTimeout
from kit.settings import Settings
from kit.telemetry import log

OPEN = Gauge("billing_gateway_connections", "Open connections of clients.")
CLOSED = Counter("billing_gateway_connections_closed", "Connections that the gateway closed, by reason.", ("reason",))

_SWEEP_S = 1.0
_PIECE_BYTES = 16 * 1024
"""How much is parsed at once. Limits are checked in between, so a client exceeds them by one piece at most."""
_PIPELINED_MAX = 16
_VERSIONS = {"1.1", "1.0"}
_LENGTH_HEADERS = {b"content-length", b"transfer-encoding"}
_LINGER_S = 5.0
"""How long the rest of a request is discarded after its response: closing earlier would reset the connection, and the
client might not receive the response."""
_EVICTED_SHARE = 64


class Phase(Enum):
    """What the client has to do next."""

    IDLE = "idle"
    """Begin the first or next request. Clients and load balancers open connections before they need them."""
    HEADER = "header"
    """Send the rest of the header block."""
    BODY = "body"
    """Send the rest of the body."""
    RESPONSE = "response"
    """Nothing: the request is being handled."""
    CLOSING = "closing"
    """Receive the rest of the last response, and close."""


class Connections:
    """All connections of the process and their limits."""

    def __init__(self, settings: Settings, connections_max: int) -> None:
        self.header_bytes_max = settings.http_header_bytes_max
        self.time_limits: Final = {
            Phase.IDLE: settings.http_idle_timeout_s,
            Phase.HEADER: settings.http_header_timeout_s,
            Phase.BODY: settings.http_body_timeout_s,
            Phase.RESPONSE: math.inf,
            Phase.CLOSING: _LINGER_S,
        }
        self.write_timeout_s = settings.http_write_timeout_s
        self._connections_max = connections_max
        self._open: dict[Connection, None] = {}  # in the order in which they were opened
        OPEN.set_function(lambda: len(self._open))

    def protocol(self, **arguments: Any) -> "Connection":
        """Return the protocol of a new connection, as uvicorn creates it."""
        return Connection(self, **arguments)

    def add(self, connection: "Connection") -> None:
        """Count a connection; if there are too many, close others that wait for their clients, or else this one."""
        if len(self._open) >= self._connections_max:
            victims = self._least_needed()
            for victim in victims:
                victim.abort("evicted")
            if not victims:
                connection.abort("refused")
                return
        self._open[connection] = None

    def remove(self, connection: "Connection") -> None:
        """Count the end of a connection."""
        self._open.pop(connection, None)

    def _least_needed(self) -> list["Connection"]:
        """Return connections that wait for the client, of the peer that has most of them.

        Idle ones come first, so that many of them can't replace one that sends a request; then those whose time is over
        first.
        """
        waiting = [connection for connection in self._open if connection.phase is not Phase.RESPONSE]
        if not waiting:
            return []
        ((peer, _),) = Tally(connection.peer for connection in waiting).most_common(1)
        of_peer = [connection for connection in waiting if connection.peer == peer]
        of_peer.sort(key=lambda each: (each.phase is not Phase.IDLE, each.deadline or math.inf))
        return of_peer[: max(1, self._connections_max // _EVICTED_SHARE)]

    async def close_expired(self) -> None:
        """Close the connections whose client takes too long; runs until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self.check(asyncio.get_running_loop().time())

    def check(self, now: float) -> None:
        """Close the connections whose time is over at `now`, by the clock of the loop."""
        for connection in list(self._open):
            try:
                connection.check(now)
            except Exception as error:  # noqa: BLE001 - a fault of one connection must not end the limits of all
                log.error("connection not checked", exc_info=error)
                connection.abort("internal_error")


class Connection(HttpToolsProtocol):
    """A connection of a client.

    To save timers, a deadline is set by the next sweep: `deadline` is 0 until then.
    """

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._connections = connections
        self.phase = Phase.IDLE
        self.deadline = 0.0
        self._write_deadline = 0.0
        self._in_header = self._in_body = False
        self._framing_bytes = 0
        """Bytes since the last event that made progress: the start of a message, its headers, or a part of its body."""
        self._discards = False
        """True if nothing more is read from the client."""
        self._active: Cycle | None = None
        """The cycle whose response is being sent; `cycle` is the latest one, which may wait for its turn."""

    @property
    def peer(self) -> str:
        """The address of the client."""
        return self.client[0] if self.client else ""

    # What the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start reading, unless there are too many connections."""
        super().connection_made(transport)
        self.write = transport.write
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End all cycles of the connection."""
        self._connections.remove(self)
        for cycle in (self._active, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                _disconnect(cycle)
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, in pieces."""
        if len(data) <= _PIECE_BYTES:
            if not self._discards:
                self._parse(data)
        else:
            for at in range(0, len(data), _PIECE_BYTES):
                if self._discards:
                    return
                self._parse(data[at : at + _PIECE_BYTES])
        if self._discards:
            return
        if self._in_header:
            self._wait_for(Phase.HEADER)
        elif self._in_body:
            self._wait_for(Phase.BODY)
        elif self._active is not None:
            self.phase, self.deadline = Phase.RESPONSE, math.inf

    def _wait_for(self, phase: Phase) -> None:
        if self.phase is not phase:
            self.phase, self.deadline = phase, 0.0

    def _parse(self, piece: bytes) -> None:
        self._framing_bytes += len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._discard_after(self.cycle)  # the other protocol is not supported: the response is in HTTP/1.1
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._reject(
                cause if isinstance(cause, BillingError) else MalformedRequest(f"This is not HTTP/1.1: {error}.")
            )
        else:
            if self._framing_bytes > self._connections.header_bytes_max:
                self._reject(HeadersTooLarge(self._connections.header_bytes_max))

    def resume_writing(self) -> None:
        """Note that the client reads."""
        self._write_deadline = 0.0
        super().resume_writing()

    # What the parser calls

    def on_message_begin(self) -> None:
        """Begin a request. Stops parsing if the one before was the last, or if too many wait for their turn."""
        latest = self.cycle
        if self._active is not None and (not latest.keep_alive or len(self.pipeline) >= _PIPELINED_MAX):
            raise MalformedRequest("Too many requests were sent before their responses.")
        super().on_message_begin()
        self._in_header = True
        self._framing_bytes = 0

    def on_headers_complete(self) -> None:
        """Start handling the request, or queue it until the one before has its response."""
        headers, self.headers = self.headers, []  # the new list takes the trailer fields of the body
        self._in_header, self._in_body = False, True
        if self._framing_bytes:
            self._check_header_size(headers)
            self._framing_bytes = 0
        version, scope = self.parser.get_http_version(), self.scope
        if version not in _VERSIONS:
            raise MalformedRequest(f"HTTP/{version} is not supported; use HTTP/1.1.")
        if self.parser.should_upgrade() and _LENGTH_HEADERS & {name for name, _ in headers}:
            raise MalformedRequest("A request with a body can't offer to upgrade the connection.", header="Upgrade")
        url = httptools.parse_url(self.url)
        raw_path = url.path or b"/"
        path = raw_path.decode("latin-1")
        scope["http_version"], scope["method"] = version, self.parser.get_method().decode("ascii")
        scope["path"], scope["raw_path"] = unquote(path) if "%" in path else path, raw_path
        scope["query_string"] = url.query or b""
        previous = self._active
        self.cycle = cycle = Cycle(
            scope=scope,
            transport=self,  # type: ignore[arg-type]  # what it uses of a transport: write, close, is_closing
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if previous is None:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _check_header_size(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        size = len(self.url) + sum(len(name) + len(value) + len(b": \r\n") for name, value in headers)
        if size > self._connections.header_bytes_max:
            raise HeadersTooLarge(self._connections.header_bytes_max)

    def on_body(self, body: bytes) -> None:
        """Add a part of the body."""
        self._framing_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        self._in_body = False
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    # What cycles call

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._active = cycle  # type: ignore[assignment]  # we create cycles only
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Start the next request in the queue, or wait for one."""
        self.server_state.total_requests += 1
        if self._active is not None and self._active.body:
            self._active.body.clear()  # it was not read; the connection may be idle for long
        self._active = None
        if self.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            if cycle.more_body:
                self._wait_for(Phase.BODY)
        elif self.phase is Phase.RESPONSE:
            self.phase, self.deadline = Phase.IDLE, 0.0

    def is_closing(self) -> bool:
        """Return True once the connection gets no further response."""
        return self.phase is Phase.CLOSING or self.transport.is_closing()

    def close(self) -> None:
        """Close the connection once everything is sent; the rest of a request is discarded meanwhile."""
        self.phase, self.deadline = Phase.CLOSING, 0.0
        if self.transport.is_closing():
            return
        if self._in_header or self._in_body:
            self._discards = True
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()

    # Limits

    def check(self, now: float) -> None:
        """Close the connection if the client has exceeded its time at `now`."""
        if self.deadline == 0:
            is_sending = self.phase is Phase.CLOSING and self.transport.get_write_buffer_size()
            limits = self._connections
            self.deadline = now + (limits.write_timeout_s if is_sending else limits.time_limits[self.phase])
        elif self.deadline < now:
            self._expire()
        if not self.flow.write_paused:
            return
        if self._write_deadline == 0:
            self._write_deadline = now + self._connections.write_timeout_s
        elif self._write_deadline < now:
            self.abort("write_timeout")

    def _expire(self) -> None:
        if self.phase is Phase.CLOSING or (self.phase is Phase.IDLE and self.transport.get_write_buffer_size()):
            self.abort("write_timeout")
        elif self.phase is Phase.IDLE:
            CLOSED.labels("idle_timeout").inc()
            self.close()
        else:
            self._reject(RequestTimeout(self.phase.value, self._connections.time_limits[self.phase]))

    def abort(self, reason: str) -> None:
        """Close the connection at once."""
        CLOSED.labels(reason).inc()
        self._discards = True
        self._connections.remove(self)
        self.transport.abort()

    def _reject(self, error: BillingError) -> None:
        """Respond to a request that can't be read, after the responses to those before it, and close the connection."""
        CLOSED.labels(error.reason.lower()).inc()
        active, latest = self._active, self.cycle
        if active is None:
            self._respond(error)
        elif not self._in_body:
            self._discard_after(latest)
        elif latest is active and not active.response_started:
            _disconnect(active)
            self._respond(error)
        else:  # the body is broken after the response has begun, or before its turn
            self.transport.abort()

    def _respond(self, error: BillingError) -> None:
        self.transport.write(_serialize(problems.connection_response(error)))
        self._in_header = True  # what follows can't be parsed
        self.close()

    def _discard_after(self, cycle: RequestResponseCycle) -> None:
        """Read nothing after the request of `cycle`, and close after its response."""
        cycle.keep_alive = False
        self._discards, self._in_header = True, False
        self.phase, self.deadline = Phase.RESPONSE, math.inf


class Cycle(RequestResponseCycle):
    """A request and its response."""

    def send(self, message: ASGISendEvent) -> Coroutine[Any, Any, None]:
        """Send a part of the response; if it comes before the end of the request, the connection is closed after it."""
        if self.more_body and not self.response_started:
            self.keep_alive = False
        return super().send(message)  # not awaited here, which would cost a coroutine for each part


def _disconnect(cycle: RequestResponseCycle) -> None:
    cycle.disconnected = True
    cycle.message_event.set()


def _serialize(response: Response) -> bytes:
    headers = [*response.headers, ("content-length", str(len(response.body))), ("connection", "close")]
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {response.status} \r\n{lines}\r\n".encode("latin-1", "replace") + response.body
