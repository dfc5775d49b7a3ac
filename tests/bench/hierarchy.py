"""Group entities: a tree of ten thousand entities over REST, compared with the bare query and JSON of its rows."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import orjson
from billing.entities.v1 import entity_service_pb2 as pb
from billing.entities.v1.entity_pb2 import Address, Entity
from billing.entities.v1.entity_service_pb2_grpc import EntityServiceStub
from grpc import aio

from kit import ids
from tests.bench.data import multiply
from tests.bench.figures import Goal
from tests.bench.load import TIMEOUT_S, Call, WrongReply, slices
from tests.bench.plan import Bench, Part
from tests.bench.stack import Stack
from tests.gateway.conftest import BASE
from tests.gateway.wire import Wire, get

_ENTITIES: Final = 10_000
_CHILDREN: Final = 10
_CHANGES: Final = 8
_RESPONSE_BYTES_MAX: Final = 2**25
_QUERY: Final = """
    with recursive tree as (
        select id, 0 as depth from entities.billing_entities where tenant_id = $1 and id = $2
        union all
        select below.id, tree.depth + 1 from entities.billing_entities below
        join tree on below.tenant_id = $1 and below.parent_id = tree.id
    )
    select e.* from entities.billing_entities e join tree on e.tenant_id = $1 and e.id = tree.id
    order by tree.depth, e.code"""
_GOAL: Final = Goal(
    "hierarchy/floor_tree_sql", "hierarchy", ("floor_tree_sql",), lambda ours, floor: ours.p50_s / floor.p50_s,
    at_most=2.5,
)  # fmt: skip


async def measure(bench: Bench) -> None:
    """Measure one caller that reads the whole tree repeatedly."""
    stack, tenant_id = bench.stack, uuid4()
    async with contextlib.AsyncExitStack() as exits:
        admin = await exits.enter_async_context(stack.admin())
        root_id = await _tree(stack, admin, tenant_id)
        wire = await exits.enter_async_context(_connection(stack))
        request = get(f"{BASE}/entities/{root_id}", stack.token(tenant_id))
        bare, rest_call = _sql_call(admin, tenant_id, ids.ENTITY.parse(root_id)), _rest_call(wire, request)
        runners = {
            "floor_tree_sql": slices(bare, callers=1),
            "hierarchy": slices(rest_call, callers=1, pid=stack.gateway.pid),
        }
        await bench.measure({"hierarchy": ["floor_tree_sql"]}, runners, [_GOAL])
        changed = [await _changed(admin, tenant_id, bare, rest_call) for _ in range(_CHANGES)]
        bench.report.cases["hierarchy_changed"] = {
            "p50_ms": round(statistics.median(seconds for seconds, _ in changed) * 1e3),
            "times_floor": round(statistics.median(ours / floor for ours, floor in changed), 2),
        }


async def _changed(admin: "asyncpg.Connection", tenant_id: UUID, bare: Call, rest_call: Call) -> tuple[float, float]:
    """Return seconds for the whole tree right after all entities changed, and seconds of the floor."""
    async with admin.transaction():
        await admin.execute("set local session_replication_role = 'replica'")
        await admin.execute(
            "update entities.billing_entities set version = version + 1 where tenant_id = $1", tenant_id
        )
    await admin.execute("vacuum analyze entities.billing_entities")
    took = []
    for call in (rest_call, bare):
        started = time.perf_counter()
        await call(0)
        took.append(time.perf_counter() - started)
    return took[0], took[1]


async def _tree(stack: Stack, admin: "asyncpg.Connection", tenant_id: UUID) -> str:
    """Create the tree, ten children per entity; return the id of its root."""
    request = pb.CreateEntityRequest(
        code="ROOT", legal_name="Acme Holding SE", display_name="Acme", entity_type=Entity.SUBSIDIARY,
        currency_code="EUR", country_code="DE", tax_id="DE111111125", registration_number="HRB 4711",
        tax_rate_bp=1900, time_zone="Europe/Berlin", metadata={"region": "emea"},
        address=Address(lines=["Hauptstr. 1"], postal_code="10115", city="Berlin", country_code="DE"),
    )  # fmt: skip
    async with aio.insecure_channel(stack.entities.address) as channel:
        stub = EntityServiceStub(channel)
        root = await stub.CreateEntity(request, metadata=stack.metadata(tenant_id), timeout=TIMEOUT_S)
    above = f"case when n <= {_CHILDREN} then id else md5(tenant_id::text || (n - 1) / {_CHILDREN})::uuid end"
    await multiply(
        admin, "entities.billing_entities", _ENTITIES - 1, where=f"tenant_id = '{tenant_id}'",
        id="md5(tenant_id::text || n)::uuid", parent_id=above, code="'E' || n",
    )  # fmt: skip
    await admin.execute("analyze entities.billing_entities")
    return root.id


@contextlib.asynccontextmanager
async def _connection(stack: Stack) -> AsyncIterator[Wire]:
    """Open a connection that accepts a large response."""
    wire = Wire(*await asyncio.open_connection("127.0.0.1", stack.gateway.port, limit=_RESPONSE_BYTES_MAX))
    try:
        yield wire
    finally:
        wire.close()


def _sql_call(admin: "asyncpg.Connection", tenant_id: UUID, root_id: UUID) -> Call:
    """Return a call of the recursive query with orjson of its rows."""

    async def call(_: int) -> int:
        rows = await admin.fetch(_QUERY, tenant_id, root_id)
        if len(rows) != _ENTITIES:
            raise WrongReply(f"{len(rows)} rows")
        return min(1, len(orjson.dumps([dict(row) for row in rows], default=str)))

    return call


def _rest_call(wire: Wire, request: bytes) -> Call:
    """Return a call for the same tree through the gateway."""

    async def call(_: int) -> int:
        status, body = await wire.send(request)
        if status != 200 or body.count(b'"legal_name"') != _ENTITIES:
            raise WrongReply(f"{status} {body[:300]!r}")
        return 1

    return call


PART: Final = Part("entities", ("hierarchy",), measure)
