"""Fixtures of all tests. PostgreSQL, NATS, gRPC and JWT are real; our own code is not mocked.

Servers: one PostgreSQL per run, shared by all workers of pytest-xdist, and one NATS per worker; harness/servers.py
describes containers and external servers. Each worker has its own database, a copy of one that is migrated once. The
servers end with pytest.

Isolation: every test has its own tenant (`tenant`), separated by row-level security. Nothing is truncated, and the
services run for all tests of a worker. After each test no transaction may be open, and no task of test code may run.

    tenant                          UUID, new for each test
    token(role=…, tenant=…, …)      returns a JWT: role, tenant, subject, entity_scope, department_scope, any claim
    caller(role=…, subject=…, …)    a Caller with such a token: `await caller("finance").call(stub.Method, request)`
    finance                         caller("finance")
    entities, budgets, approvals    stubs of the real services, which run in this process on real ports:
                                    entities.entities, entities.departments, budgets.budgets, budgets.ledger,
                                    <each>.operations
    entities_served, …_served       the same with address, settings and the composed service
    settings(service, **changed)    Settings of a service in this worker
    fresh_database()                another copy of the migrated database, for tests with their own relay
    admin                           asyncpg pool of the superuser: reads all rows of all tenants
    app_connection(service)         asyncpg connection with the role of the service
    outbox_events(service)          events in the outbox for this tenant; audit_rows(service): its audit log
    published_events                events of this tenant on NATS: `await published_events.first(BudgetAlertRaised)`
    logs                            log lines since the start of the test, as dicts with trace_id
    nats_url                        URL of the NATS of this worker

To import: `from tests.harness.callers import refusal` returns code, reason, metadata and fields of a rejected call;
`from tests.harness.observe import eventually` waits for a condition.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import hypothesis
import nats as nats_client
import pytest
import uvloop
from nats.aio.client import Client

from kit.db import Database
from kit.settings import Settings
from tests.harness import leaks, log_capture, observe, servers
from tests.harness.callers import Caller
from tests.harness.databases import Cluster, Copy
from tests.harness.observe import AuditRow, OutboxEvent, PublishedEvents, eventually
from tests.harness.services import Approvals, Budgets, Entities, Served, served, settings_for
from tests.harness.tokens import Keys

hypothesis.settings.register_profile("suite", deadline=None)  # a busy machine must not fail a test
hypothesis.settings.load_profile("suite")

_CLUSTER = pytest.StashKey[Cluster]()
_CLEANUP = pytest.StashKey[contextlib.ExitStack]()


def pytest_configure(config: pytest.Config) -> None:
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # as the services run
    for name in [name for name in os.environ if name.startswith("BILLING_")]:
        del os.environ[name]  # settings of a local stack don't apply to tests
    log_capture.configure()
    config.stash[_CLEANUP] = contextlib.ExitStack()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_CLEANUP].close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Start PostgreSQL once, in the process that starts the workers, and pass its URL to each of them."""
    node.workerinput["cluster"] = _prepared_cluster(node.config).to_share()


def _prepared_cluster(config: pytest.Config) -> Cluster:
    if _CLUSTER not in config.stash:
        cleanup = config.stash[_CLEANUP]
        admin_url = cleanup.enter_context(servers.postgres())
        config.stash[_CLUSTER] = cluster = uvloop.run(Cluster.prepared(admin_url))
        if "TEST_DATABASE_URL" in os.environ:
            cleanup.callback(lambda: uvloop.run(cluster.drop()))
    return config.stash[_CLUSTER]


@pytest.fixture(scope="session", autouse=True)
async def no_sockets_left() -> AsyncIterator[None]:
    """Set up first, so that it ends last: all fixtures must have closed their sockets."""
    async with leaks.no_sockets_left():
        yield


@pytest.fixture(autouse=True)
async def no_tasks_left() -> AsyncIterator[None]:
    """Set up after the fixtures of wider scope, whose tasks may go on."""
    async with leaks.no_tasks_left():
        yield


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Cluster:
    """The PostgreSQL server of the run."""
    workerinput = getattr(pytestconfig, "workerinput", None)
    return _prepared_cluster(pytestconfig) if workerinput is None else Cluster.shared(workerinput["cluster"])


@pytest.fixture(scope="session")
async def database(fresh_database: Callable[[], Awaitable[Copy]]) -> Copy:
    """The database of this worker."""
    return await fresh_database()


@pytest.fixture(scope="session")
def fresh_database(cluster: Cluster, copies: list[Copy]) -> Callable[[], Awaitable[Copy]]:
    """Creates another database."""

    async def make() -> Copy:
        copies.append(await cluster.copy(uuid4().hex[:8]))
        return copies[-1]

    return make


@pytest.fixture(scope="session")
def copies() -> list[Copy]:
    """The databases that this worker has created."""
    return []


@pytest.fixture(scope="session")
async def admin(database: Copy) -> AsyncIterator["asyncpg.Pool[asyncpg.Record]"]:
    """The superuser in the worker's database."""
    async with asyncpg.create_pool(database.admin_url, min_size=1, max_size=4) as pool:
        yield pool


@pytest.fixture(scope="session")
def app_connection(database: Copy) -> Callable[[str], contextlib.AbstractAsyncContextManager[asyncpg.Connection]]:
    """Opens a connection with the role of a service."""

    @contextlib.asynccontextmanager
    async def connect(service: str) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(database.url(f"{service}_app"))
        try:
            yield connection
        finally:
            await connection.close()

    return connect


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The NATS server of this worker."""
    with servers.nats(tmp_path_factory.mktemp("nats")) as url:
        yield url


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """The keys that tokens are signed with."""
    return Keys.create(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def settings(database: Copy, nats_url: str, keys: Keys) -> Callable[..., Settings]:
    """Creates settings of a service: `settings("budgets", calls_max=1)`."""

    def make(service: str, *, database: Copy = database, nats_url: str = nats_url, **changed: Any) -> Settings:
        return settings_for(service, database, nats_url, keys, **changed)

    return make


@pytest.fixture(scope="session")
def open_databases() -> list[Database]:
    """The databases whose connections must all be back in their pools when a test ends."""
    return []


@pytest.fixture(scope="session")
async def entities_served(
    settings: Callable[..., Settings], open_databases: list[Database]
) -> AsyncIterator[Served[Entities]]:
    """The entities service."""
    from services.entities.main import compose

    async with served(settings("entities"), compose, Entities) as entities:
        open_databases.append(entities.service.db)
        yield entities


@pytest.fixture(scope="session")
async def budgets_served(
    settings: Callable[..., Settings], entities_served: Served[Entities], open_databases: list[Database]
) -> AsyncIterator[Served[Budgets]]:
    """The budgets service, which calls the entities service."""
    from services.budgets.main import compose

    addresses = {"entities": entities_served.address}
    async with served(settings("budgets", addresses=addresses), compose, Budgets) as budgets:
        open_databases.append(budgets.service.db)
        yield budgets


@pytest.fixture(scope="session")
async def approvals_served(
    settings: Callable[..., Settings],
    entities_served: Served[Entities],
    budgets_served: Served[Budgets],
    open_databases: list[Database],
) -> AsyncIterator[Served[Approvals]]:
    """The approvals service, which calls the entities and the budgets service."""
    from services.approvals.main import compose

    addresses = {"entities": entities_served.address, "budgets": budgets_served.address}
    async with served(settings("approvals", addresses=addresses), compose, Approvals) as approvals:
        open_databases.append(approvals.service.db)
        yield approvals


@pytest.fixture(scope="session")
def approvals(approvals_served: Served[Approvals]) -> Approvals:
    """Stubs of the approvals service."""
    return approvals_served.stubs


@pytest.fixture(scope="session")
def entities(entities_served: Served[Entities]) -> Entities:
    """Stubs of the entities service."""
    return entities_served.stubs


@pytest.fixture(scope="session")
def budgets(budgets_served: Served[Budgets]) -> Budgets:
    """Stubs of the budgets service."""
    return budgets_served.stubs


@pytest.fixture
def tenant() -> UUID:
    """The tenant of this test."""
    return uuid4()


@pytest.fixture
def token(keys: Keys, tenant: UUID) -> Callable[..., str]:
    """Creates a token: `token(role="viewer", subject="bob", entity_scope=[…])`; the tenant of the test by default."""
    return lambda **claims: keys.token(claims.pop("tenant", tenant), **claims)


@pytest.fixture
def caller(keys: Keys, tenant: UUID) -> Callable[..., Caller]:
    """Creates a caller: `caller("viewer", tenant=…, subject=…)`, with the arguments of `token`."""

    def make(role: str = "finance", **claims: Any) -> Caller:
        tenant_id: UUID = claims.pop("tenant", tenant)
        subject: str = claims.pop("subject", "alice")
        return Caller(tenant_id, subject, keys.token(tenant_id, role=role, subject=subject, **claims))

    return make


@pytest.fixture
def finance(caller: Callable[..., Caller]) -> Caller:
    """A caller with the role finance, which has nearly all permissions."""
    return caller("finance")


@pytest.fixture
def outbox_events(admin: "asyncpg.Pool[asyncpg.Record]", tenant: UUID) -> Callable[..., Awaitable[list[OutboxEvent]]]:
    """Reads the outbox of a service for the tenant: `await outbox_events("budgets")`."""
    return lambda service, tenant_id=tenant: observe.outbox_events(admin, service, tenant_id)


@pytest.fixture
def audit_rows(admin: "asyncpg.Pool[asyncpg.Record]", tenant: UUID) -> Callable[..., Awaitable[list[AuditRow]]]:
    """Reads the audit log of a service for the tenant: `await audit_rows("budgets")`."""
    return lambda service, tenant_id=tenant: observe.audit_rows(admin, service, tenant_id)


@pytest.fixture(scope="session")
async def nats(nats_url: str) -> AsyncIterator[Client]:
    """A connection to the worker's NATS."""
    client = await nats_client.connect(nats_url)
    yield client
    await client.close()


@pytest.fixture
async def published_events(nats: Client, tenant: UUID) -> AsyncIterator[PublishedEvents]:
    """The events of the tenant that NATS delivers during the test."""
    published_events, stop = await observe.subscribe(nats, tenant)
    yield published_events
    await stop()


@pytest.fixture
def logs() -> Iterator[list[dict[str, Any]]]:
    """The log lines of this process during the test."""
    with log_capture.lines() as lines:
        yield lines


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Check for open transactions after every test that uses the database."""
    for item in items:
        if isinstance(item, pytest.Function) and "database" in item.fixturenames:
            item.fixturenames.insert(item.fixturenames.index("no_tasks_left"), "no_open_transactions")


@pytest.fixture
async def no_open_transactions(
    admin: "asyncpg.Pool[asyncpg.Record]", copies: list[Copy], open_databases: list[Database]
) -> AsyncIterator[None]:
    """Fail a test that leaves a transaction open or a connection checked out."""
    yield
    await eventually(lambda: observe.is_all_closed(admin, copies, open_databases), within_s=3.0)
