"""Group entities: what a department cost by month, out of a million allocations, against the SQL that adds them up."""

import contextlib
from typing import Final

import asyncpg
from billing.entities.v1.cost_pb2 import DepartmentCosts
from billing.entities.v1.cost_service_pb2 import GetDepartmentCostsRequest
from billing.entities.v1.cost_service_pb2_grpc import CostServiceStub
from grpc import aio

from kit import ids
from tests.bench.figures import Goal
from tests.bench.load import WITHIN_S, Call, WrongAnswer, slices
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


def _asking(stub: CostServiceStub, metadata: Metadata, department_id: str) -> Call:
    """All that lies below the department, along the tree of then."""

    async def call(_: int) -> int:
        request = GetDepartmentCostsRequest(
            id=department_id, start_date=FIRST_DAY.isoformat(), end_date=AFTER_LAST_DAY.isoformat(),
            group_by=[DepartmentCosts.MONTH], include_descendants=True,
        )  # fmt: skip
        reply = await stub.GetDepartmentCosts(request, metadata=metadata, timeout=WITHIN_S)
        if (len(reply.groups), reply.total.cost.amount) != (_MONTHS, f"{_ALLOCATIONS}.00"):
            raise WrongAnswer(str(reply)[:500])
        return 1

    return call


def _adding_up(admin: "asyncpg.Connection", group: Group) -> Call:
    """The same months and sums, as the superuser, whom no row-level security concerns."""

    async def call(_: int) -> int:
        rows = await admin.fetch(_BARE_SQL, group.tenant_id, group.top_ids[0], FIRST_DAY, AFTER_LAST_DAY)
        if (len(rows), sum(row["sum"] for row in rows)) != (_MONTHS, _ALLOCATIONS):
            raise WrongAnswer(str(rows)[:500])
        return 1

    return call


async def measure(bench: Bench) -> None:
    """One caller, on a service with a database of its own."""
    stack = bench.stack
    database = await stack.cluster.copy("costs")
    async with contextlib.AsyncExitStack() as ending:
        admin = await ending.enter_async_context(connected(database.admin_url))
        group = await insert_group(admin, entities=1)
        await insert_allocations(admin, group, _ALLOCATIONS)
        await admin.execute("checkpoint")
        service = await ending.enter_async_context(stack.served("entities", database=database))
        channel = await ending.enter_async_context(aio.insecure_channel(service.address))
        asked = _asking(
            CostServiceStub(channel), stack.metadata(group.tenant_id), ids.DEPARTMENT.format(group.top_ids[0])
        )
        runners = {
            "floor_sql_costs": slices(_adding_up(admin, group), callers=1),
            "costs": slices(asked, callers=1, pid=service.pid),
        }
        await bench.measure({"costs": ["floor_sql_costs"]}, runners, [_GOAL])


PART: Final = Part("entities", ("costs",), measure)
