"""Fixtures of the tests of the shared layers, on the tables that every service has.

db              kit.db.Database of the service `budgets`, in a database without running relays and consumers
kit_admin       the superuser in that database
origin()        an Origin of this test's tenant; call(key=…) a Call
timers          timers of a kind that only this test uses: `timers.set(origin(), id)`; see timer_driver.py
handler         the FakeHandler of the running `consumer`; `publish()` sends it events, `results` reads what it wrote
probe           a Probe servicer behind serving.calls on a real port: `probe.servicer.on_call = …`, `probe.stub.Do`
"""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from grpc import aio
from nats.js import JetStreamContext

from eventing import bus
from eventing.subjects import STREAM
from kit.auth import ROLES, Principal, Scope
from kit.db import Database
from kit.origin import Call, Origin
from kit.settings import Settings
from kit.telemetry import Trace
from serving.calls import CallPipeline
from tests.harness.databases import Copy
from tests.kit.consumers import consumer, handler, publish, results  # noqa: F401 - fixtures
from tests.kit.probe import Probe, ProbeStub
from tests.kit.timer_driver import TimerDriver


@pytest.fixture(scope="session")
async def kit_database(fresh_database: Callable[[], Awaitable[Copy]], database: Copy) -> Copy:
    """A database for these tests alone."""
    return await fresh_database()


@pytest.fixture(scope="session")
async def kit_admin(kit_database: Copy) -> AsyncIterator["asyncpg.Pool[asyncpg.Record]"]:
    """The superuser in it."""
    async with asyncpg.create_pool(kit_database.admin_url, min_size=1, max_size=4) as pool:
        yield pool


@pytest.fixture(scope="session")
def kit_settings(settings: Callable[..., Settings], kit_database: Copy) -> Callable[..., Settings]:
    """Make settings of a service in that database."""
    return lambda **changed: settings("budgets", database=kit_database, **changed)


@pytest.fixture(scope="session")
async def db(kit_settings: Callable[..., Settings], open_databases: list[Database]) -> AsyncIterator[Database]:
    """The database with the role of the service."""
    database = Database(kit_settings())
    open_databases.append(database)
    yield database
    await database.close()


@pytest.fixture(scope="session")
async def worker_jetstream(kit_settings: Callable[..., Settings]) -> AsyncIterator[JetStreamContext]:
    """The worker's JetStream, with our stream."""
    client, jetstream = await bus.connect(kit_settings())
    yield jetstream
    await client.close()


@pytest.fixture
async def jetstream(worker_jetstream: JetStreamContext, tenant: UUID) -> AsyncIterator[JetStreamContext]:
    """As above; events of the test are deleted afterwards, since new consumers of other tests would get them."""
    yield worker_jetstream
    await worker_jetstream.purge_stream(STREAM, subject=f"billing.*.v1.*.{tenant.hex}")


@pytest.fixture
def origin(tenant: UUID) -> Callable[..., Origin]:
    """Make an Origin of alice with ten seconds left."""

    def make(**changed: Any) -> Origin:
        given = {"tenant_id": tenant, "actor": "alice", "trace": Trace.from_header(None)}
        return Origin(**{**given, "deadline": time.monotonic() + 10, **changed})

    return make


@pytest.fixture
def call(tenant: UUID) -> Callable[..., Call]:
    """Make a Call of alice, role finance, with ten seconds left."""

    def make(**changed: Any) -> Call:
        tenant_id = changed.pop("tenant_id", tenant)
        principal = Principal(tenant_id, "alice", ("finance",), ROLES["finance"], None, None, time.time() + 60)
        given = {"tenant_id": tenant_id, "actor": "alice", "trace": Trace.from_header(None), "principal": principal}
        return Call(**{**given, "deadline": time.monotonic() + 10, "method": "probe/Do", **changed})

    return make


@pytest.fixture
def timers(db: Database, kit_admin: "asyncpg.Pool[asyncpg.Record]") -> TimerDriver:
    """Timers of a unique kind, so that no runner of another test claims them."""
    return TimerDriver(db, kit_admin, f"probe-{uuid4().hex}")


class NoScopes:
    """Scopes that let a confined caller see nothing."""

    async def resolve(self, call: Call) -> Scope:
        return Scope()


@dataclass(frozen=True, slots=True)
class ServedProbe:
    """A running server of a Probe."""

    servicer: Probe
    stub: ProbeStub
    calls: CallPipeline
    address: str


@contextlib.asynccontextmanager
async def serve_probe(settings: Settings) -> AsyncIterator[ServedProbe]:
    """Serve a probe until the block ends."""
    server, servicer, calls = aio.server(), Probe(), CallPipeline(settings, NoScopes())
    server.add_generic_rpc_handlers([calls.handler_for(servicer)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield ServedProbe(servicer, ProbeStub(channel), calls, f"127.0.0.1:{port}")
    finally:
        await server.stop(None)


@pytest.fixture
async def probe(kit_settings: Callable[..., Settings]) -> AsyncIterator[ServedProbe]:
    """A served probe; the test sets what it does."""
    async with serve_probe(kit_settings()) as served:
        yield served
