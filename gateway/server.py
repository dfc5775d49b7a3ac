"""The HTTP server, and its end: no request is lost when the process is told to stop.

On SIGTERM streams end, `/readyz` says no and every answer asks its connection to be closed, while requests are still
taken for longer than callers pause. Then nobody new is let in, whoever is in is answered, and the process exits with 0.
"""

import asyncio
import contextlib
import ctypes
import gc
import signal
import socket
import struct
from collections.abc import Iterator, Sequence

import uvicorn

from contract.routes import Route
from gateway.app import App
from kit import telemetry
from kit.settings import Settings
from kit.telemetry import log

_GRACE_S = 2.0
_QUEUE_S = 0.5
_FIRST_REQUEST_S, _FIRST_REQUEST_TRIES = 0.05, 30
_END_S = _GRACE_S + _QUEUE_S + _FIRST_REQUEST_S * _FIRST_REQUEST_TRIES
_KEEP_ALIVE_S = 75
_BACKLOG = 4096
_SO_ATTACH_FILTER = 26  # of Linux; Python has no name for it


class _Server(uvicorn.Server):
    """uvicorn, told to stop by us and not by signals, which it would take as the order to stop at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings, found: Sequence[Route] = ()) -> None:
    """Serve the routes, by default all of the contract, until SIGTERM or SIGINT."""
    app = App(settings, found)
    await app.limits.open()
    host, _, port = settings.listen.rpartition(":")
    listener = socket.create_server((host, int(port)), backlog=_BACKLOG)
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, int(settings.drain_s - _END_S)),
    )
    server = _Server(config)
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    tasks = [asyncio.create_task(telemetry.flush_logs()), asyncio.create_task(_end(stop, app, server, listener))]
    log.info("serving", address="{}:{}".format(*listener.getsockname()[:2]))
    gc.freeze()  # what is made by now stays: the collector need not look at it again and again
    gc.set_threshold(20_000, 20, 100)  # nor at each part of a large answer
    await server.serve(sockets=[listener])
    for task in tasks:
        task.cancel()
    await app.close()


async def _end(stop: asyncio.Event, app: App, server: _Server, listener: socket.socket) -> None:
    await stop.wait()
    log.info("stopping")
    app.drain()
    await asyncio.sleep(_GRACE_S)
    _let_nobody_in(listener)
    await asyncio.sleep(_QUEUE_S)  # those who wait to be accepted are
    for _ in range(_FIRST_REQUEST_TRIES):
        if all(getattr(connection, "cycle", None) for connection in server.server_state.connections):
            break
        await asyncio.sleep(_FIRST_REQUEST_S)  # somebody came in and has not asked yet: it is on its way
    app.drain()  # again, for streams that began meanwhile
    server.should_exit = True


def _let_nobody_in(listener: socket.socket) -> None:
    """Ignore who starts to connect from here on, while those who are about to be connected still get in.

    Closing the listener would cut off whoever waits to be accepted. Those who are ignored try again, and learn a
    moment later, when it is closed, that nobody listens.
    """
    flags_byte, syn, everything = 13, 0x02, 0xFFFF_FFFF
    filter_ = ctypes.create_string_buffer(
        struct.pack("HBBI", 0x30, 0, 0, flags_byte)  # BPF: load the flags of the TCP header,
        + struct.pack("HBBI", 0x45, 0, 1, syn)  # where SYN is among them
        + struct.pack("HBBI", 0x06, 0, 0, 0)  # drop,
        + struct.pack("HBBI", 0x06, 0, 0, everything)  # else let through
    )
    with contextlib.suppress(OSError):  # where there is no such filter, a connection being made may be cut off
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 4, ctypes.addressof(filter_)))
