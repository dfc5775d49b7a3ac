"""Group budgets: how long it takes from a commit in one service to the effect in another, and how fast events leave."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import orjson
from billing.entities.v1.entity_service_pb2 import DeactivateEntityRequest
from billing.entities.v1.entity_service_pb2_grpc import EntityServiceStub
from grpc import aio

from tests.bench.data import Maker, at_once, id_sql, multiply
from tests.bench.figures import Goal
from tests.bench.load import WITHIN_S
from tests.bench.plan import Bench, Part
from tests.bench.stack import Metadata, Process, Stack

_PER_S: Final = 200
_FOR_S: Final = 6
_WAITING: Final = 10_000
_SAID_WITHIN_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.05
_EVENT: Final = "billing.entities.v1.EntityDeactivated"
_CONSUMER: Final = "budgets.close_budgets_of_entity"

_RATE_GOAL: Final = Goal("events/said_per_s", "events", (), float, at_least=0.95 * _PER_S)
_AGE_GOAL: Final = Goal("events/p99_ms", "events", (), float, at_most=250)
_DRAIN_GOAL: Final = Goal("events/drained_per_s", "events", (), float, at_least=1_500)


async def measure(bench: Bench) -> None:
    """Two hundred entities a second go out of business and their budgets are closed; then a full outbox is emptied."""
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
    """How many events there were in a second, and how old each was when its consumer was through with it.

    Its age counts from when it was appended, which is right before the commit.
    """
    tenant_id = uuid4()
    metadata = stack.metadata(tenant_id)
    async with (
        aio.insecure_channel(stack.entities.address) as entities,
        aio.insecure_channel(stack.budgets.address) as budgets,
    ):
        maker = Maker(entities, budgets, metadata)
        entity_ids = await at_once([maker.entity] * (_PER_S * _FOR_S))
        await at_once([partial(maker.budget, entity_id) for entity_id in entity_ids])
        said_per_s = await _deactivate(EntityServiceStub(entities), entity_ids, metadata)
    async with stack.admin() as admin:
        said = "select id, create_time from entities.outbox where tenant_id = $1 and type = $2"
        rows = await admin.fetch(said, tenant_id, _EVENT)
    effects = await _effects(stack.budgets, {row["id"] for row in rows})
    return said_per_s, [(effects[row["id"]] - row["create_time"]).total_seconds() * 1e3 for row in rows]


async def _deactivate(stub: EntityServiceStub, entity_ids: Sequence[str], metadata: Metadata) -> float:
    """One after the other at an even pace, or as fast as some at once are answered; gives the rate."""
    started = time.monotonic()
    calls = [
        partial(_deactivated, stub, entity_id, metadata, started + number / _PER_S)
        for number, entity_id in enumerate(entity_ids)
    ]
    await at_once(calls)
    return len(entity_ids) / (time.monotonic() - started)


async def _deactivated(stub: EntityServiceStub, entity_id: str, metadata: Metadata, due: float) -> None:
    await asyncio.sleep(max(0.0, due - time.monotonic()))
    await stub.DeactivateEntity(DeactivateEntityRequest(id=entity_id), metadata=metadata, timeout=WITHIN_S)


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
