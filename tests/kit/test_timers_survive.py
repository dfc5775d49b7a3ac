"""Timers have their effect once among replicas, whichever of them dies, and whatever their handlers do."""

import asyncio
import contextlib
import multiprocessing
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection as Pipe
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing.budgets.v1.events_pb2 import BudgetClosed
from prometheus_client import REGISTRY

from eventing import outbox
from eventing.timers import Timers, due, set_timer
from kit import clock
from kit.db import Database, WriteSession
from kit.origin import Origin
from kit.settings import Settings
from tests.harness.observe import eventually
from tests.kit.clockwork import HOUR, Clockwork, running, some

QUICK = (0.01,) * 5
"""Retry delays of milliseconds."""

Origins = Callable[..., Origin]
Pool = asyncpg.Pool


@pytest.fixture
async def another_db(kit_settings: Callable[..., Settings], open_databases: list[Database]) -> AsyncIterator[Database]:
    """The database as another replica has it."""
    database = Database(kit_settings(database_pool_size=4))
    open_databases.append(database)
    yield database
    await database.close()
    open_databases.remove(database)


class TestReplicas:
    async def test_three_at_the_same_time_have_each_effect_once(
        self, clockwork: Clockwork, origin: Origins, kit_settings: Callable[..., Settings]
    ) -> None:
        many = some(200)
        await clockwork.set(origin(), *many[:100])
        await clockwork.set(origin(tenant_id=uuid4()), *many[100:])
        async with contextlib.AsyncExitStack() as ending:
            databases = [Database(kit_settings(database_pool_size=4)) for _ in range(3)]
            for database in databases:
                ending.push_async_callback(database.close)
            async with running(*(clockwork.replica(db) for db in databases)):
                await eventually(clockwork.over, within_s=30)
        assert sorted(await clockwork.effects()) == sorted(many)
        assert sorted(clockwork.tries) == sorted(many)

    async def test_each_takes_what_no_other_has(
        self, clockwork: Clockwork, origin: Origins, another_db: Database
    ) -> None:
        await clockwork.set(origin(), *some(20))
        claims = await asyncio.gather(*(clockwork.replica(db)._claim() for db in (clockwork.db, another_db) * 2))
        claimed = [timer.resource_id for claim in claims for timer in claim]
        assert len(claimed) == len(set(claimed)) > 8

    async def test_one_that_died_with_its_claim_is_followed_after_the_lease(
        self, clockwork: Clockwork, origin: Origins
    ) -> None:
        (resource,) = some(1)
        await clockwork.set(origin(), resource)
        (claimed,) = await clockwork.replica(lease_s=0.4)._claim()
        async with running(clockwork.replica()):
            await eventually(clockwork.over)
        assert await clockwork.effects() == [resource]
        at = await clockwork._admin.fetchval(
            "select create_time from budgets.outbox where body like $1", f"%{clockwork.kind}%"
        )
        assert at >= claimed.due_time

    @pytest.mark.parametrize("own_transaction", [False, True])
    async def test_one_that_is_killed_amid_its_effect_leaves_it_to_others(
        self, clockwork: Clockwork, origin: Origins, kit_settings: Callable[..., Settings], *, own_transaction: bool
    ) -> None:
        (resource,) = some(1)
        await clockwork.set(origin(), resource)
        with process_amid_effect(kit_settings(), clockwork.kind, outside=own_transaction) as (process, pipe):
            assert await asyncio.to_thread(pipe.poll, 20)
            assert pipe.recv() == resource
            async with running(clockwork.replica()):
                process.kill()
                await eventually(clockwork.over)
        assert await clockwork.effects() == [resource]

    async def test_one_whose_lease_is_over_amid_its_effect_is_not_overtaken(
        self, clockwork: Clockwork, origin: Origins, another_db: Database
    ) -> None:
        (slow,) = some(1)

        async def outlast(tx: WriteSession, resource_id: UUID) -> None:
            if resource_id == slow:
                await eventually(lambda: lapsed(clockwork, slow))
                await clockwork.set(origin(), *after)
                await eventually(lambda: clockwork.had(*after))

        after = some(3)
        clockwork.then = outlast
        await clockwork.set(origin(), slow)
        async with running(clockwork.replica(lease_s=0.05), clockwork.replica(another_db)):
            await eventually(clockwork.over)
        assert clockwork.tries.count(slow) == 1
        assert sorted(await clockwork.effects()) == sorted([slow, *after])

    async def test_one_that_stood_still_finds_its_claim_gone(
        self, clockwork: Clockwork, origin: Origins, another_db: Database
    ) -> None:
        async def again_in_an_hour(tx: WriteSession, resource_id: UUID) -> None:
            set_timer(tx, clockwork.kind, resource_id, clock.now() + HOUR)

        clockwork.then = again_in_an_hour
        (resource,) = some(1)
        await clockwork.set(origin(), resource)
        stopped = clockwork.replica(lease_s=0.05)
        (claimed,) = await stopped._claim()
        async with running(clockwork.replica(another_db)):
            await eventually(clockwork.effects)
        await stopped._fire(claimed)
        assert await clockwork.effects() == [resource]
        assert (await clockwork.row(resource))["left"] > HOUR / 2


async def lapsed(clockwork: Clockwork, resource_id: UUID) -> bool:
    return bool((await clockwork.row(resource_id))["left"] < timedelta())


@contextlib.contextmanager
def process_amid_effect(settings: Settings, kind: str, *, outside: bool) -> Iterator[tuple[Any, Pipe]]:
    """A replica of its own process, which says when it is in the middle of an effect, and goes no further."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=replica_that_hangs, args=(settings, kind, there), kwargs={"outside": outside})
    process.start()
    try:
        yield process, here
    finally:
        process.kill()
        process.join()
        process.close()
        here.close()
        there.close()


def replica_that_hangs(settings: Settings, kind: str, pipe: Pipe, *, outside: bool) -> None:
    db = Database(settings)

    async def hang(tx: WriteSession, resource_id: UUID) -> None:
        outbox.append(tx, BudgetClosed(budget_id=f"{kind} {resource_id}"))
        await tx.flush()
        pipe.send(resource_id)
        await asyncio.Event().wait()

    async def hang_outside(_: object, origin: Origin, resource_id: UUID) -> None:
        async with db.write(origin) as tx:
            await hang(tx, resource_id)

    handler = due(kind, own_transaction=True)(hang_outside) if outside else due(kind)(hang)
    asyncio.run(Timers(db, "budgets", (handler,), lease_s=0.5).run())


class TestFailure:
    @pytest.mark.parametrize("outside", [False, True])
    async def test_one_that_fails_is_tried_again_and_the_others_go_on(
        self, clockwork: Clockwork, origin: Origins, *, outside: bool
    ) -> None:
        handler = due(clockwork.kind, own_transaction=True)(clockwork.act_outside) if outside else clockwork.handler
        bad, *good = some(10)
        clockwork.failing = {bad}
        await clockwork.set(origin(), bad, at=-HOUR)
        await clockwork.set(origin(), *good)

        async def tried_seven_times() -> bool:
            return clockwork.tries.count(bad) >= 7

        async with running(clockwork.replica(handler=handler, retry_delays_s=QUICK)):
            await eventually(tried_seven_times)
            await eventually(lambda: clockwork.had(*good))
            assert bad not in await clockwork.effects()
            clockwork.failing = set()
            await eventually(clockwork.over)
        assert sorted(await clockwork.effects()) == sorted([bad, *good])

    @pytest.mark.parametrize(("before", "pause_s"), [(0, 1), (1, 5), (2, 30), (4, 600), (40, 600)])
    async def test_the_pauses_grow(
        self, clockwork: Clockwork, origin: Origins, kit_admin: "Pool[asyncpg.Record]", before: int, pause_s: int
    ) -> None:
        (bad,) = some(1)
        clockwork.failing = {bad}
        await clockwork.set(origin(), bad)
        query = "update budgets.timers set attempts = $1 where resource_id = $2"
        await kit_admin.execute(query, before, bad)
        await clockwork.replica()._fire_batch()
        row = await clockwork.row(bad)
        assert row["attempts"] == before + 1
        assert timedelta(seconds=pause_s - 1) < row["left"] <= timedelta(seconds=pause_s)

    async def test_one_that_fails_many_times_is_told(
        self, clockwork: Clockwork, origin: Origins, logs: list[dict[str, Any]]
    ) -> None:
        (bad,) = some(1)
        clockwork.failing = {bad}
        await clockwork.set(origin(), bad)
        replica = clockwork.replica(poll_s=0, retry_delays_s=QUICK)

        async def stuck() -> bool:
            counted = {"kind": clockwork.kind, "outcome": "stuck"}
            return (REGISTRY.get_sample_value("billing_timers_fired_total", counted) or 0) >= 1

        async with running(replica):
            await eventually(stuck)
        told = [line for line in logs if line["event"] == "timer failed" and line["kind"] == clockwork.kind]
        assert [line["level"] for line in told[:5]] == ["warning"] * 4 + ["error"]
        assert told[4]["resource_id"] == bad
        assert "broken" in told[4]["exception"]

    async def test_one_that_hangs_is_cut_off_and_tried_again(self, clockwork: Clockwork, origin: Origins) -> None:
        bad, good = some(2)

        async def hang(tx: WriteSession, resource_id: UUID) -> None:
            if clockwork.tries.count(bad) == 1 and resource_id == bad:
                await asyncio.Event().wait()

        clockwork.then = hang
        await clockwork.set(origin(), bad, good)
        async with running(clockwork.replica(handler_s=0.2, retry_delays_s=QUICK)):
            await eventually(clockwork.over)
        assert sorted(await clockwork.effects()) == sorted([bad, good])
        assert clockwork.tries.count(bad) == 2

    async def test_they_wait_while_the_database_does_not_answer(
        self, clockwork: Clockwork, origin: Origins, kit_admin: "Pool[asyncpg.Record]", logs: list[dict[str, Any]]
    ) -> None:
        (resource,) = some(1)
        await clockwork.set(origin(), resource)
        await kit_admin.execute("alter table budgets.timers rename to away")

        async def told() -> bool:
            return any(line["event"] == "timers not fired" for line in logs)

        try:
            async with running(clockwork.replica()):
                await eventually(told)
                await kit_admin.execute("alter table budgets.away rename to timers")
                await eventually(clockwork.over)
        finally:
            await kit_admin.execute("alter table if exists budgets.away rename to timers")
        assert await clockwork.effects() == [resource]

    async def test_one_whose_pause_cannot_be_kept_waits_for_the_end_of_its_lease(
        self, clockwork: Clockwork, origin: Origins, kit_admin: "Pool[asyncpg.Record]", logs: list[dict[str, Any]]
    ) -> None:
        (resource,) = some(1)

        async def lose_the_table(_: object, __: Origin, resource_id: UUID) -> None:
            clockwork.tries.append(resource_id)
            if len(clockwork.tries) == 1:
                await kit_admin.execute("alter table budgets.timers rename to away")

        await clockwork.set(origin(), resource)
        replica = clockwork.replica(handler=due(clockwork.kind, own_transaction=True)(lose_the_table), lease_s=0.3)
        try:
            assert await replica._fire_batch() == 1
        finally:
            await kit_admin.execute("alter table if exists budgets.away rename to timers")
        told = [line["event"] for line in logs if line.get("kind") == clockwork.kind]
        assert told == ["timer failed", "timer retried after its lease"]
        async with running(replica):
            await eventually(clockwork.over)
        assert clockwork.tries == [resource] * 2
