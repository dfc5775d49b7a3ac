"""The HTTP server with a graceful shutdown that loses no request.

On SIGTERM streams end, /readyz fails and every response closes its connection. Requests are still accepted for two
seconds, so that the next request of each client gets such a response. Then new connections are refused, pending
requests are completed, and the process exits with 0.
"""

import asyncio
import contextlib
import ctypes
import gc
import resource
import signal
import socket
import struct
from collections.abc import Iterator, Sequence

import uvicorn

from contract import validation
from contract.routes import Route
from gateway.app import App
from gateway.connections import Connections
from kit import telemetry
from kit.settings import Settings
from kit.telemetry import log

_GRACE_S = 2.0
"""How long requests are still accepted after SIGTERM."""
_QUEUE_S = 0.5
"""Time to accept the connections that wait in the queue of the listening socket."""
_FIRST_REQUEST_S, _FIRST_REQUEST_TRIES = 0.05, 30
_SHUTDOWN_S = _GRACE_S + _QUEUE_S + _FIRST_REQUEST_S * _FIRST_REQUEST_TRIES
_BACKLOG = 4096
_OTHER_FILES = 256
"""Open files beside the connections of clients."""
_SO_ATTACH_FILTER = 26  # of Linux; the socket module has no name for it


class HttpServer(uvicorn.Server):
    """uvicorn's server with limits on its connections, and without its signal handlers, which would stop it at once."""

    def __init__(self, app: App, settings: Settings) -> None:
        self.connections = Connections(settings, _allow_open_files(settings.http_connections_max))
        config = uvicorn.Config(
            app,
            http=self.connections.protocol,  # type: ignore[arg-type]  # uvicorn only calls it
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=max(1, int(settings.drain_s - _SHUTDOWN_S)),
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `serve`."""
        yield


async def serve(settings: Settings, route_list: Sequence[Route] = ()) -> None:
    """Serve the routes, by default all of the contract, until SIGTERM or SIGINT."""
    app = App(settings, route_list)
    validation.preload()
    await app.limits.open()
    host, _, port = settings.listen.rpartition(":")
    listener = socket.create_server((host, int(port)), backlog=_BACKLOG)
    server = HttpServer(app, settings)
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    tasks = [
        asyncio.create_task(telemetry.flush_logs()),
        asyncio.create_task(server.connections.close_expired()),
        asyncio.create_task(_shut_down(stop, app, server, listener)),
    ]
    log.info("serving", address="{}:{}".format(*listener.getsockname()[:2]))
    gc.freeze()  # objects created so far live as long as the process: exclude them from garbage collection
    gc.set_threshold(20_000, 20, 100)  # a large reply would otherwise trigger several collections
    await server.serve(sockets=[listener])
    for task in tasks:
        task.cancel()
    await app.close()


def _allow_open_files(connections_max: int) -> int:
    """Raise the limit of open files to what the connections need; return how many connections the system allows."""
    needed = connections_max + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft < allowed and soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        log.warning("the limit of open files is lower than the connections need", limit=allowed, needed=needed)
    return max(1, allowed - _OTHER_FILES)


async def _shut_down(stop: asyncio.Event, app: App, server: HttpServer, listener: socket.socket) -> None:
    await stop.wait()
    log.info("stopping")
    app.drain()
    await asyncio.sleep(_GRACE_S)
    _drop_new_connections(listener)
    await asyncio.sleep(_QUEUE_S)
    for _ in range(_FIRST_REQUEST_TRIES):
        if all(getattr(connection, "cycle", None) for connection in server.server_state.connections):
            break
        await asyncio.sleep(_FIRST_REQUEST_S)  # a client has connected, and its first request is on the way
    app.drain()  # again, for streams that started meanwhile
    server.should_exit = True


def _drop_new_connections(listener: socket.socket) -> None:
    """Drop the SYN packets of new connections; connections that are already being established still succeed.

    Closing the listener would reset the connections in its queue. A client whose SYN is dropped retries, and is refused
    a moment later, when the listener is closed.
    """
    flags_byte, syn, accept_all = 13, 0x02, 0xFFFF_FFFF
    filter_ = ctypes.create_string_buffer(
        struct.pack("HBBI", 0x30, 0, 0, flags_byte)  # BPF: load the flags byte of the TCP header,
        + struct.pack("HBBI", 0x45, 0, 1, syn)  # if SYN is set
        + struct.pack("HBBI", 0x06, 0, 0, 0)  # drop the packet,
        + struct.pack("HBBI", 0x06, 0, 0, accept_all)  # else accept it
    )
    with contextlib.suppress(OSError):  # without such a filter a connection being established may be reset
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 4, ctypes.addressof(filter_)))
