"""Group budgets: how long it takes from a commit in one service to the effect in another, and how fast events leave."""

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
from tests.bench.data import Maker, id_sql, multiply
from tests.bench.figures import Goal
from tests.bench.plan import Bench, Part
from tests.bench.stack import Process, Stack

_PER_S: Final = 200
_FOR_S: Final = 6
_WAITING: Final = 10_000
_SAID_WITHIN_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.05
_EVENT: Final = "billing.entities.v1.CostAllocated"
_CONSUMER: Final = "budgets.charge_allocated_cost"

_RATE_GOAL: Final = Goal("events/said_per_s", "events", (), float, at_least=0.95 * _PER_S)
_AGE_GOAL: Final = Goal("events/p99_ms", "events", (), float, at_most=250)
_DRAIN_GOAL: Final = Goal("events/drained_per_s", "events", (), float, at_least=1_500)


async def measure(bench: Bench) -> None:
    """Two hundred records of usage a second become costs and are charged; then a full outbox is emptied."""
    said_per_s, ages = await _ages_ms(bench.stack)
    ages_ms = sorted(ages)
    p99_ms = ages_ms[int(0.99 * len(ages_ms))]
    drained_per_s = await _drained_per_s(bench.stack)
    bench.report.cases["events"] = {
        "events": len(ages_ms),
        "said_per_s": round(said_per_s),
        "effect_p50_ms": round(ages_ms[len(ages_ms) // 2], 1),
        "effect_p99_ms": round(p99_ms, 1),
        "drained": _WAITING,
        "drained_per_s": round(drained_per_s),
    }
    bench.report.judge(_RATE_GOAL, said_per_s)
    bench.report.judge(_AGE_GOAL, p99_ms)
    bench.report.judge(_DRAIN_GOAL, drained_per_s)


async def _ages_ms(stack: Stack) -> tuple[float, Sequence[float]]:
    """How many costs were allocated in a second, and how old each was when a budget was charged with it.

    Its age counts from when the event was appended, which is right before the commit.
    """
    tenant_id = uuid4()
    async with (
        aio.insecure_channel(stack.entities.address) as entities,
        aio.insecure_channel(stack.budgets.address) as budgets,
    ):
        maker = Maker(entities, budgets, stack.metadata(tenant_id))
        await maker.budget(await maker.entity("ACME"))
    plan = Plan(count=_PER_S * _FOR_S, rate=_PER_S, entity_code="ACME", department_codes=(), currency="EUR")
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
    """The events that so many costs were allocated, in their order; raises TimeoutError where some are not."""
    said = "select id, create_time from entities.outbox where tenant_id = $1 and type = $2 order by create_time"
    async with stack.admin() as admin, asyncio.timeout(_SAID_WITHIN_S):
        while len(rows := await admin.fetch(said, tenant_id, _EVENT)) < count:  # noqa: ASYNC110 - looked at from outside
            await asyncio.sleep(_LOOK_EVERY_S)
        return rows


async def _effects(service: Process, event_ids: set[UUID]) -> dict[UUID, datetime]:
    """When each event had had its effect, as the service's log tells; raises TimeoutError for one that has none."""
    found: dict[UUID, datetime] = {}
    async with asyncio.timeout(_SAID_WITHIN_S):
        while event_ids - found.keys():
            await asyncio.sleep(_LOOK_EVERY_S)
            *lines, _unfinished = service.log.read_bytes().split(b"\n")
            for told in (orjson.loads(line) for line in lines if _CONSUMER.encode() in line):
                if told["message"] == "event":
                    found.setdefault(UUID(told["event_id"]), datetime.fromisoformat(told["timestamp"]))
    return found


async def _drained_per_s(stack: Stack) -> float:
    """How fast a full outbox is emptied, the time until the relay looks included."""
    async with stack.admin() as admin:
        one = "id = (select id from entities.outbox where type like '%.EntityCreated' limit 1)"
        await multiply(admin, "entities.outbox", _WAITING, where=one, id=id_sql(), publish_time="null::timestamptz")
        started = time.monotonic()
        async with asyncio.timeout(_SAID_WITHIN_S):
            while await _waiting(admin):  # noqa: ASYNC110 - PostgreSQL is looked at from outside
                await asyncio.sleep(_LOOK_EVERY_S)
        return _WAITING / (time.monotonic() - started)


async def _waiting(admin: "asyncpg.Connection") -> bool:
    return bool(await admin.fetchval("select exists (select from entities.outbox where publish_time is null)"))


PART: Final = Part("budgets", ("events",), measure)
