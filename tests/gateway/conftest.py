"""The gateway in this process, in front of a fake backend that stands for all services."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from gateway.app import App
from gateway.server import HttpServer
from kit.settings import Settings
from tests.gateway import backend as backends
from tests.gateway import raw
from tests.gateway.backend import PROBE_ROUTES, Backend
from tests.gateway.process import Process, running
from tests.gateway.served import Client, Served
from tests.gateway.wire import Events

BASE = "/api/enterprise-billing"
BUDGET = "bud_019a5c7e2f407b3c8d1e5a6f7b8c9d0e"


@pytest.fixture(scope="session")
async def session_backend() -> AsyncIterator[Backend]:
    async with backends.serving() as backend:
        yield backend


@pytest.fixture
def backend(session_backend: Backend) -> Backend:
    """The backend, without replies and received calls of other tests."""
    session_backend.replies.clear()
    session_backend.received.clear()
    return session_backend


@pytest.fixture(scope="session")
async def app(settings: Callable[..., Settings], session_backend: Backend) -> AsyncIterator[App]:
    """The gateway."""
    addresses = dict.fromkeys(("entities", "budgets", "approvals"), session_backend.address)
    app = App(settings("gateway", addresses=addresses, rate_limit=1000, message_bytes_max=100_000))
    await app.limits.open()
    yield app
    await app.close()


@pytest.fixture
async def anonymous(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@pytest.fixture
async def client(anonymous: httpx.AsyncClient, token: Callable[..., str]) -> httpx.AsyncClient:
    """A client with a token of this test's tenant."""
    anonymous.headers["authorization"] = f"Bearer {token()}"
    return anonymous


@pytest.fixture(scope="module")
async def gateway(settings: Callable[..., Settings], session_backend: Backend) -> AsyncIterator[Process]:
    """A gateway with short timeouts."""
    process_settings = settings(
        "gateway",
        addresses=dict.fromkeys(("entities", "budgets", "approvals"), session_backend.address),
        http_header_timeout_s=raw.HEADER_S,
        http_body_timeout_s=raw.BODY_S,
        http_idle_timeout_s=raw.IDLE_S,
        http_write_timeout_s=raw.WRITE_S,
    )
    async with running(process_settings) as process:
        yield process


@pytest.fixture
def client_of(token: Callable[..., str]) -> Iterator[Callable[[int], Client]]:
    """Returns a client of the gateway at a port."""
    opened: list[Events] = []
    yield lambda port: Client(port, token(), opened)
    for events in opened:
        events.close()


@pytest.fixture
async def serve(
    settings: Callable[..., Settings], client_of: Callable[[int], Client]
) -> AsyncIterator[Callable[..., Served]]:
    """Starts a gateway with the routes of the probe service: `serve(address)`."""
    started: list[tuple[HttpServer, asyncio.Task[None], App]] = []

    def start(address: str, **changed: Any) -> Served:
        gateway_settings = settings("gateway", addresses={"budgets": address}, **changed)
        app = App(gateway_settings, PROBE_ROUTES)
        listener = socket.create_server(("127.0.0.1", 0))
        server = HttpServer(app, gateway_settings)
        started.append((server, asyncio.create_task(server.serve(sockets=[listener])), app))
        return Served(**vars(client_of(listener.getsockname()[1])), app=app)

    yield start
    for server, task, app in started:
        app.drain()
        server.should_exit = True
        await task
        await app.close()


@pytest.fixture(autouse=True)
async def close_connections() -> AsyncIterator[None]:
    """Closes the connections of a test at its end."""
    yield
    for wire in raw.opened:
        wire.close()
    for wire in raw.opened:
        with contextlib.suppress(OSError):
            await wire.writer.wait_closed()
    raw.opened.clear()
