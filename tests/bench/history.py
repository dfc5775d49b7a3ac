"""Group budgets: whether charges become slower with a long history."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final
from uuid import uuid4

from billing.budgets.v1.ledger_service_pb2_grpc import LedgerServiceStub
from grpc import aio

from tests.bench.budgets import charge_call
from tests.bench.data import ChargeTarget, Factory, concurrently, id_sql, multiply
from tests.bench.figures import rate_goal
from tests.bench.load import CALLERS, Runner, slices
from tests.bench.plan import Bench, Part
from tests.bench.stack import connected
from tests.harness.databases import Copy

_BUDGETS: Final = 100
_ENTRIES: Final = {"charge_history_1000": 1_000, "charge_history": 1_000_000}


async def measure(bench: Bench) -> None:
    """Measure the same charges on two services with their own databases: one with little, one with much history."""
    async with contextlib.AsyncExitStack() as exits:
        runners = {
            name: await exits.enter_async_context(_charged(bench, name, entries)) for name, entries in _ENTRIES.items()
        }
        floors_of = {"charge_history": ["charge_history_1000"]}
        await bench.measure(floors_of, runners, [rate_goal("charge_history", "charge_history_1000", 0.95)])


@contextlib.asynccontextmanager
async def _charged(bench: Bench, name: str, entries: int) -> AsyncIterator[Runner]:
    """Return a runner of charges on a service whose ledger has this many entries."""
    stack, tenant_id = bench.stack, uuid4()
    database = await stack.cluster.copy(name)
    people = [stack.metadata(tenant_id, f"user-{number}") for number in range(CALLERS)]
    async with (
        stack.served("budgets", database=database) as service,
        aio.insecure_channel(stack.entities.address) as entities,
        aio.insecure_channel(service.address) as budgets,
    ):
        budget_ids = await Factory(entities, budgets, people[0]).tree(_BUDGETS)
        charge = charge_call(LedgerServiceStub(budgets), [ChargeTarget(metadata, budget_ids) for metadata in people])
        first = min(_ENTRIES.values())
        await concurrently([lambda: charge(0)] * first)
        await _add_history(database, entries // first - 1)
        yield slices(charge, pid=service.pid)


async def _add_history(database: Copy, times: int) -> None:
    """Copy each charge `times` times, with other keys."""
    async with connected(database.admin_url) as admin:
        if times:
            await multiply(admin, "budgets.budget_entries", times, id=id_sql(), request_id="request_id || '-' || n")
            await multiply(admin, "budgets.idempotency_keys", times, key="key || '-' || n")
        await admin.execute("vacuum (analyze)", timeout=300)
        await admin.execute("checkpoint")


PART: Final = Part("budgets", ("charge_history",), measure)
