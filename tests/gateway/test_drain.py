"""SIGTERM under load: every request that was sent gets its response, and the process exits with 0."""

import asyncio
import contextlib
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable

import pytest

from gateway.server import _drop_new_connections
from kit.settings import Settings
from tests.gateway.backend import Backend
from tests.gateway.conftest import BASE, BUDGET
from tests.gateway.process import running
from tests.gateway.wire import Wire, get

CALLERS = 32
END_WITHIN_S = 10.0


async def call_until_refused(port: int, request: bytes, counts: Counter[str]) -> None:
    """Send requests without pause until connections are refused; reconnect if asked to close.

    A request that is cut off counts as lost.
    """
    wire: Wire | None = None
    while True:
        if wire is None:
            try:
                wire = await Wire.open(port)
            except OSError:
                return
        try:
            status, _ = await wire.send(request)
        except (OSError, asyncio.IncompleteReadError):
            counts["lost"] += 1
            return
        counts[f"status {status}"] += 1
        if wire.closing:
            counts["asked to close"] += 1
            wire.close()
            wire = None
            await asyncio.sleep(0.05)  # as a client that switches to another replica


@pytest.mark.parametrize("attempt", range(3))
async def test_no_request_is_lost_on_sigterm(
    attempt: int, settings: Callable[..., Settings], backend: Backend, token: Callable[..., str]
) -> None:
    addresses = dict.fromkeys(("entities", "budgets", "approvals"), backend.address)
    request, counts = get(f"{BASE}/budgets/{BUDGET}", token()), Counter[str]()
    backend.replies["GetBudget"] = backend.message("budgets.v1.Budget", id=BUDGET)
    async with running(settings("gateway", addresses=addresses, rate_limit=1_000_000)) as gateway:
        callers = [call_until_refused(gateway.port, request, counts) for _ in range(CALLERS)]
        calling = asyncio.gather(*callers)
        await asyncio.sleep(0.3 + attempt / 10)
        gateway.process.send_signal(signal.SIGTERM)
        signalled_at = time.monotonic()
        code = await asyncio.wait_for(gateway.process.wait(), END_WITHIN_S)
        took = time.monotonic() - signalled_at
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(calling, 5.0)
    assert code == 0
    assert took < END_WITHIN_S
    assert counts["lost"] == 0, counts
    assert counts["asked to close"] >= CALLERS
    assert {name for name in counts if name.startswith("status")} == {"status 200"}


def test_queued_connections_are_served_and_new_ones_dropped() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as open_sockets:
        address = listener.getsockname()
        waiting = open_sockets.enter_context(socket.create_connection(address, timeout=1))
        waiting.sendall(b"request")
        _drop_new_connections(listener)
        with pytest.raises(TimeoutError):
            socket.create_connection(address, timeout=0.3)
        served = open_sockets.enter_context(listener.accept()[0])
        assert served.recv(7) == b"request"
        served.sendall(b"reply!")
        assert waiting.recv(6) == b"reply!"
