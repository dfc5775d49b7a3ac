"""Group entities: costs of a department by month from a million allocations, compared with bare SQL."""

import contextlib
from typing import Final

import asyncpg
from billing.entities.v1.cost_pb2 import DepartmentCosts
from billing.entities.v1.cost_service_pb2 import GetDepartmentCostsRequest
from billing.entities.v1.cost_service_pb2_grpc import CostServiceStub
from grpc import aio

from kit import ids
from tests.bench.figures import Goal
from tests.bench.load import TIMEOUT_S, Call, WrongReply, slices
from tests.bench.plan import Bench, Part
from tests.bench.stack import Metadata, connected
from tests.harness.costs import AFTER_LAST_DAY, FIRST_DAY, Group, insert_allocations, insert_group

_ALLOCATIONS: Final = 1_000_000
_MONTHS: Final = 24
_BARE_SQL: Final = """
    select date_trunc('month', allocation_date), sum(entity_amount), count(*) from entities.cost_allocations
    where tenant_id = $1 and $2 = any(department_path) and allocation_date >= $3 and allocation_date < $4
    group by 1 order by 1"""
_GOAL: Final = Goal(
    "costs/floor_sql_costs",
    "costs",
    ("floor_sql_costs",),
    lambda ours, theirs: ours.p50_s / theirs.p50_s,
    at_most=1.5,
)


def _costs_call(stub: CostServiceStub, metadata: Metadata, department_id: str) -> Call:
    """Return a call for the costs of the department and its descendants, by month."""

    async def call(_: int) -> int:
        request = GetDepartmentCostsRequest(
            id=department_id, start_date=FIRST_DAY.isoformat(), end_date=AFTER_LAST_DAY.isoformat(),
            group_by=[DepartmentCosts.MONTH], include_descendants=True,
        )  # fmt: skip
        reply = await stub.GetDepartmentCosts(request, metadata=metadata, timeout=TIMEOUT_S)
        if (len(reply.groups), reply.total.cost.amount) != (_MONTHS, f"{_ALLOCATIONS}.00"):
            raise WrongReply(str(reply)[:500])
        return 1

    return call


def _sql_call(admin: "asyncpg.Connection", group: Group) -> Call:
    """Return a call for the same sums by SQL, as the superuser without row-level security."""

    async def call(_: int) -> int:
        rows = await admin.fetch(_BARE_SQL, group.tenant_id, group.top_ids[0], FIRST_DAY, AFTER_LAST_DAY)
        if (len(rows), sum(row["sum"] for row in rows)) != (_MONTHS, _ALLOCATIONS):
            raise WrongReply(str(rows)[:500])
        return 1

    return call


async def measure(bench: Bench) -> None:
    """Measure one caller on a service with its own database."""
    stack = bench.stack
    database = await stack.cluster.copy("costs")
    async with contextlib.AsyncExitStack() as exits:
        admin = await exits.enter_async_context(connected(database.admin_url))
        group = await insert_group(admin, entities=1)
        await insert_allocations(admin, group, _ALLOCATIONS)
        await admin.execute("checkpoint")
        service = await exits.enter_async_context(stack.served("entities", database=database))
        channel = await exits.enter_async_context(aio.insecure_channel(service.address))
        costs = _costs_call(
            CostServiceStub(channel), stack.metadata(group.tenant_id), ids.DEPARTMENT.format(group.top_ids[0])
        )
        runners = {
            "floor_sql_costs": slices(_sql_call(admin, group), callers=1),
            "costs": slices(costs, callers=1, pid=service.pid),
        }
        await bench.measure({"costs": ["floor_sql_costs"]}, runners, [_GOAL])


PART: Final = Part("entities", ("costs",), measure)
