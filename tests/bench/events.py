"""Group budgets: delay from a commit in one service to the effect in another, and the rate of the outbox relay."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import nats
import orjson
from grpc import aio

from deploy.simulators.usage import Plan, publish_all
from tests.bench.data import Factory, id_sql, multiply
from tests.bench.figures import Goal
from tests.bench.plan import Bench, Part
from tests.bench.stack import Process, Stack

_RATE: Final = 200
_DURATION_S: Final = 6
_BACKLOG: Final = 10_000
_EVENTS_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.05
_EVENT: Final = "billing.entities.v1.CostAllocated"
_CONSUMER: Final = "budgets.charge_allocated_cost"

_RATE_GOAL: Final = Goal("events/published_per_s", "events", (), float, at_least=0.95 * _RATE)
_DELAY_GOAL: Final = Goal("events/p99_ms", "events", (), float, at_most=250)
_DRAIN_GOAL: Final = Goal("events/drained_per_s", "events", (), float, at_least=1_500)


async def measure(bench: Bench) -> None:
    """Allocate and charge two hundred usage records per second; then publish a full outbox."""
    published_per_s, delays = await _delays_ms(bench.stack)
    delays_ms = sorted(delays)
    p99_ms = delays_ms[int(0.99 * len(delays_ms))]
    drained_per_s = await _drained_per_s(bench.stack)
    bench.report.cases["events"] = {
        "events": len(delays_ms),
        "published_per_s": round(published_per_s),
        "effect_p50_ms": round(delays_ms[len(delays_ms) // 2], 1),
        "effect_p99_ms": round(p99_ms, 1),
        "drained": _BACKLOG,
        "drained_per_s": round(drained_per_s),
    }
    bench.report.judge(_RATE_GOAL, published_per_s)
    bench.report.judge(_DELAY_GOAL, p99_ms)
    bench.report.judge(_DRAIN_GOAL, drained_per_s)


async def _delays_ms(stack: Stack) -> tuple[float, Sequence[float]]:
    """Return costs allocated per second, and for each the delay until the budget was charged.

    The delay starts when the event is appended to the outbox, right before the commit.
    """
    tenant_id = uuid4()
    async with (
        aio.insecure_channel(stack.entities.address) as entities,
        aio.insecure_channel(stack.budgets.address) as budgets,
    ):
        factory = Factory(entities, budgets, stack.metadata(tenant_id))
        await factory.budget(await factory.entity("ACME"))
    plan = Plan(count=_RATE * _DURATION_S, rate=_RATE, entity_code="ACME", department_codes=(), currency="EUR")
    client = await nats.connect(stack.nats_url)
    try:
        await publish_all(client.jetstream(), tenant_id, plan)
    finally:
        await client.close()
    rows = await _allocated(stack, tenant_id, plan.count)
    effects = await _effects(stack.budgets, {row["id"] for row in rows})
    took_s = (rows[-1]["create_time"] - rows[0]["create_time"]).total_seconds()
    return len(rows) / took_s, [(effects[row["id"]] - row["create_time"]).total_seconds() * 1e3 for row in rows]


async def _allocated(stack: Stack, tenant_id: UUID, count: int) -> Sequence[asyncpg.Record]:
    """Wait for this many CostAllocated events and return them in order. Raises TimeoutError."""
    query = "select id, create_time from entities.outbox where tenant_id = $1 and type = $2 order by create_time"
    async with stack.admin() as admin, asyncio.timeout(_EVENTS_TIMEOUT_S):
        while len(rows := await admin.fetch(query, tenant_id, _EVENT)) < count:  # noqa: ASYNC110 - polls the database
            await asyncio.sleep(_POLL_S)
        return rows


async def _effects(service: Process, event_ids: set[UUID]) -> dict[UUID, datetime]:
    """Return when each event was handled, from the log of the service. Raises TimeoutError if one was not."""
    times: dict[UUID, datetime] = {}
    async with asyncio.timeout(_EVENTS_TIMEOUT_S):
        while event_ids - times.keys():
            await asyncio.sleep(_POLL_S)
            *lines, _unfinished = service.log.read_bytes().split(b"\n")
            for entry in (orjson.loads(line) for line in lines if _CONSUMER.encode() in line):
                if entry["message"] == "event":
                    times.setdefault(UUID(entry["event_id"]), datetime.fromisoformat(entry["timestamp"]))
    return times


async def _drained_per_s(stack: Stack) -> float:
    """Return how many events per second leave a full outbox, including the poll interval of the relay."""
    async with stack.admin() as admin:
        one = "id = (select id from entities.outbox where type like '%.EntityCreated' limit 1)"
        await multiply(admin, "entities.outbox", _BACKLOG, where=one, id=id_sql(), publish_time="null::timestamptz")
        started = time.monotonic()
        async with asyncio.timeout(_EVENTS_TIMEOUT_S):
            while await _waiting(admin):  # noqa: ASYNC110 - polls the database
                await asyncio.sleep(_POLL_S)
        return _BACKLOG / (time.monotonic() - started)


async def _waiting(admin: "asyncpg.Connection") -> bool:
    return bool(await admin.fetchval("select exists (select from entities.outbox where publish_time is null)"))


PART: Final = Part("budgets", ("events",), measure)
