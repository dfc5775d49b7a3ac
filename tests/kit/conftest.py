"""Fixtures of kit's tests: a service without rules, on the tables that every service has.

db              kit.db.Database of the service `budgets`, in a database where no relay or consumer runs by itself
kit_admin       the superuser in that database
origin()        an Origin of this test's tenant; call(key=…) a Call
clockwork       timers of a kind that only this test knows: `clockwork.set(origin(), id)`; see clockwork.py
probe           a Probe servicer behind serving.calls on a real port: `probe.servicer.does = …`, `probe.stub.Do`
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
from kit.auth import ROLES, Principal, Scope
from kit.db import Database
from kit.origin import Call, Origin
from kit.settings import Settings
from kit.telemetry import Trace
from serving.calls import CallPipeline
from tests.harness.databases import Copy
from tests.kit.clockwork import Clockwork
from tests.kit.probe import Probe, ProbeStub


@pytest.fixture(scope="session")
async def kit_database(fresh_database: Callable[[], Awaitable[Copy]], database: Copy) -> Copy:
    """A database for kit's tests alone."""
    return await fresh_database()


@pytest.fixture(scope="session")
async def kit_admin(kit_database: Copy) -> AsyncIterator["asyncpg.Pool[asyncpg.Record]"]:
    """The superuser in it."""
    async with asyncpg.create_pool(kit_database.admin_url, min_size=1, max_size=4) as pool:
        yield pool


@pytest.fixture(scope="session")
def kit_settings(settings: Callable[..., Settings], kit_database: Copy) -> Callable[..., Settings]:
    """Makes settings of a service in that database."""
    return lambda **changed: settings("budgets", database=kit_database, **changed)


@pytest.fixture(scope="session")
async def db(kit_settings: Callable[..., Settings], open_databases: list[Database]) -> AsyncIterator[Database]:
    """The database as the service sees it."""
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
    """As above; what the test published is taken out afterwards, since a new consumer is given all that is there."""
    yield worker_jetstream
    await worker_jetstream.purge_stream(bus.STREAM, subject=f"billing.*.v1.*.{tenant.hex}")


@pytest.fixture
def origin(tenant: UUID) -> Callable[..., Origin]:
    """Makes an Origin: on behalf of alice, with ten seconds left."""

    def make(**changed: Any) -> Origin:
        given = {"tenant_id": tenant, "actor": "alice", "trace": Trace.from_header(None)}
        return Origin(**{**given, "deadline": time.monotonic() + 10, **changed})

    return make


@pytest.fixture
def call(tenant: UUID) -> Callable[..., Call]:
    """Makes a Call: alice of finance, with ten seconds left."""

    def make(**changed: Any) -> Call:
        tenant_id = changed.pop("tenant_id", tenant)
        principal = Principal(tenant_id, "alice", ("finance",), ROLES["finance"], None, None, time.time() + 60)
        given = {"tenant_id": tenant_id, "actor": "alice", "trace": Trace.from_header(None), "principal": principal}
        return Call(**{**given, "deadline": time.monotonic() + 10, "method": "probe/Do", **changed})

    return make


@pytest.fixture
def clockwork(db: Database, kit_admin: "asyncpg.Pool[asyncpg.Record]") -> Clockwork:
    """Timers of a kind of their own, so that no runner of another test takes them."""
    return Clockwork(db, kit_admin, f"probe-{uuid4().hex}")


class NoScopes:
    """Scopes of a service that knows no trees: a confined caller sees nothing."""

    async def resolve(self, call: Call) -> Scope:
        return Scope()


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe servicer that is served."""

    servicer: Probe
    stub: ProbeStub
    calls: CallPipeline
    address: str


@contextlib.asynccontextmanager
async def probed(settings: Settings) -> AsyncIterator[Probed]:
    """Serve a probe until the block ends."""
    server, servicer, calls = aio.server(), Probe(), CallPipeline(settings, NoScopes())
    server.add_generic_rpc_handlers([calls.handler_for(servicer)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Probed(servicer, ProbeStub(channel), calls, f"127.0.0.1:{port}")
    finally:
        await server.stop(None)


@pytest.fixture
async def probe(kit_settings: Callable[..., Settings]) -> AsyncIterator[Probed]:
    """A probe that this test may tell what to do."""
    async with probed(kit_settings()) as served:
        yield served
