"""Timers fire once among several replicas, despite crashes, hanging handlers and failures."""

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
from tests.kit.timer_driver import HOUR, TimerDriver, new_ids, running

QUICK = (0.01,) * 5
"""Retry delays of milliseconds."""

Origins = Callable[..., Origin]
Pool = asyncpg.Pool


@pytest.fixture
async def another_db(kit_settings: Callable[..., Settings], open_databases: list[Database]) -> AsyncIterator[Database]:
    """A connection pool of another replica."""
    database = Database(kit_settings(database_pool_size=4))
    open_databases.append(database)
    yield database
    await database.close()
    open_databases.remove(database)


class TestReplicas:
    async def test_each_timer_fires_once_with_three_replicas(
        self, timers: TimerDriver, origin: Origins, kit_settings: Callable[..., Settings]
    ) -> None:
        many = new_ids(200)
        await timers.set(origin(), *many[:100])
        await timers.set(origin(tenant_id=uuid4()), *many[100:])
        async with contextlib.AsyncExitStack() as ending:
            databases = [Database(kit_settings(database_pool_size=4)) for _ in range(3)]
            for database in databases:
                ending.push_async_callback(database.close)
            async with running(*(timers.replica(db) for db in databases)):
                await eventually(timers.is_empty, within_s=30)
        assert sorted(await timers.effects()) == sorted(many)
        assert sorted(timers.calls) == sorted(many)

    async def test_replicas_claim_different_timers(
        self, timers: TimerDriver, origin: Origins, another_db: Database
    ) -> None:
        await timers.set(origin(), *new_ids(20))
        claims = await asyncio.gather(*(timers.replica(db)._claim() for db in (timers.db, another_db) * 2))
        claimed = [timer.resource_id for claim in claims for timer in claim]
        assert len(claimed) == len(set(claimed)) > 8

    async def test_a_timer_of_a_crashed_replica_fires_after_the_lease(
        self, timers: TimerDriver, origin: Origins
    ) -> None:
        (resource,) = new_ids(1)
        await timers.set(origin(), resource)
        (claimed,) = await timers.replica(lease_s=0.4)._claim()
        async with running(timers.replica()):
            await eventually(timers.is_empty)
        assert await timers.effects() == [resource]
        at = await timers._admin.fetchval(
            "select create_time from budgets.outbox where body like $1", f"%{timers.kind}%"
        )
        assert at >= claimed.due_time

    @pytest.mark.parametrize("own_transaction", [False, True])
    async def test_a_timer_of_a_killed_handler_fires_elsewhere(
        self, timers: TimerDriver, origin: Origins, kit_settings: Callable[..., Settings], *, own_transaction: bool
    ) -> None:
        (resource,) = new_ids(1)
        await timers.set(origin(), resource)
        with process_in_handler(kit_settings(), timers.kind, own_transaction=own_transaction) as (process, pipe):
            assert await asyncio.to_thread(pipe.poll, 20)
            assert pipe.recv() == resource
            async with running(timers.replica()):
                process.kill()
                await eventually(timers.is_empty)
        assert await timers.effects() == [resource]

    async def test_a_handler_that_outlasts_its_lease_is_not_repeated(
        self, timers: TimerDriver, origin: Origins, another_db: Database
    ) -> None:
        (slow,) = new_ids(1)

        async def outlast(tx: WriteSession, resource_id: UUID) -> None:
            if resource_id == slow:
                await eventually(lambda: lapsed(timers, slow))
                await timers.set(origin(), *after)
                await eventually(lambda: timers.has_effects(*after))

        after = new_ids(3)
        timers.on_call = outlast
        await timers.set(origin(), slow)
        async with running(timers.replica(lease_s=0.05), timers.replica(another_db)):
            await eventually(timers.is_empty)
        assert timers.calls.count(slow) == 1
        assert sorted(await timers.effects()) == sorted([slow, *after])

    async def test_a_replica_that_paused_loses_its_claim(
        self, timers: TimerDriver, origin: Origins, another_db: Database
    ) -> None:
        async def set_again_in_an_hour(tx: WriteSession, resource_id: UUID) -> None:
            set_timer(tx, timers.kind, resource_id, clock.now() + HOUR)

        timers.on_call = set_again_in_an_hour
        (resource,) = new_ids(1)
        await timers.set(origin(), resource)
        stopped = timers.replica(lease_s=0.05)
        (claimed,) = await stopped._claim()
        async with running(timers.replica(another_db)):
            await eventually(timers.effects)
        await stopped._fire(claimed)
        assert await timers.effects() == [resource]
        assert (await timers.row(resource))["left"] > HOUR / 2


async def lapsed(timers: TimerDriver, resource_id: UUID) -> bool:
    return bool((await timers.row(resource_id))["left"] < timedelta())


@contextlib.contextmanager
def process_in_handler(settings: Settings, kind: str, *, own_transaction: bool) -> Iterator[tuple[Any, Pipe]]:
    """Run a replica in another process, which sends the resource id from inside its handler and then hangs."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(
        target=replica_that_hangs, args=(settings, kind, there), kwargs={"own_transaction": own_transaction}
    )
    process.start()
    try:
        yield process, here
    finally:
        process.kill()
        process.join()
        process.close()
        here.close()
        there.close()


def replica_that_hangs(settings: Settings, kind: str, pipe: Pipe, *, own_transaction: bool) -> None:
    db = Database(settings)

    async def hang(tx: WriteSession, resource_id: UUID) -> None:
        outbox.append(tx, BudgetClosed(budget_id=f"{kind} {resource_id}"))
        await tx.flush()
        pipe.send(resource_id)
        await asyncio.Event().wait()

    async def hang_in_own_transaction(_: object, origin: Origin, resource_id: UUID) -> None:
        async with db.write(origin) as tx:
            await hang(tx, resource_id)

    handler = due(kind, own_transaction=True)(hang_in_own_transaction) if own_transaction else due(kind)(hang)
    asyncio.run(Timers(db, "budgets", (handler,), lease_s=0.5).run())


class TestFailure:
    @pytest.mark.parametrize("own_transaction", [False, True])
    async def test_a_failed_timer_is_retried_and_others_fire(
        self, timers: TimerDriver, origin: Origins, *, own_transaction: bool
    ) -> None:
        handler = timers.own_transaction_handler if own_transaction else timers.handler
        bad, *good = new_ids(10)
        timers.failing = {bad}
        await timers.set(origin(), bad, at=-HOUR)
        await timers.set(origin(), *good)

        async def called_seven_times() -> bool:
            return timers.calls.count(bad) >= 7

        async with running(timers.replica(handler=handler, retry_delays_s=QUICK)):
            await eventually(called_seven_times)
            await eventually(lambda: timers.has_effects(*good))
            assert bad not in await timers.effects()
            timers.failing = set()
            await eventually(timers.is_empty)
        assert sorted(await timers.effects()) == sorted([bad, *good])

    @pytest.mark.parametrize(("attempts", "delay_s"), [(0, 1), (1, 5), (2, 30), (4, 600), (40, 600)])
    async def test_retry_delays_grow(
        self, timers: TimerDriver, origin: Origins, kit_admin: "Pool[asyncpg.Record]", attempts: int, delay_s: int
    ) -> None:
        (bad,) = new_ids(1)
        timers.failing = {bad}
        await timers.set(origin(), bad)
        query = "update budgets.timers set attempts = $1 where resource_id = $2"
        await kit_admin.execute(query, attempts, bad)
        await timers.replica()._fire_batch()
        row = await timers.row(bad)
        assert row["attempts"] == attempts + 1
        assert timedelta(seconds=delay_s - 1) < row["left"] <= timedelta(seconds=delay_s)

    async def test_a_stuck_timer_is_logged_as_an_error(
        self, timers: TimerDriver, origin: Origins, logs: list[dict[str, Any]]
    ) -> None:
        (bad,) = new_ids(1)
        timers.failing = {bad}
        await timers.set(origin(), bad)
        replica = timers.replica(poll_s=0, retry_delays_s=QUICK)

        async def stuck() -> bool:
            counted = {"kind": timers.kind, "outcome": "stuck"}
            return (REGISTRY.get_sample_value("billing_timers_fired_total", counted) or 0) >= 1

        async with running(replica):
            await eventually(stuck)
        lines = [line for line in logs if line["event"] == "timer failed" and line["kind"] == timers.kind]
        assert [line["level"] for line in lines[:5]] == ["warning"] * 4 + ["error"]
        assert lines[4]["resource_id"] == bad
        assert "broken" in lines[4]["exception"]

    async def test_a_hanging_handler_is_cancelled_and_retried(self, timers: TimerDriver, origin: Origins) -> None:
        bad, good = new_ids(2)

        async def hang(tx: WriteSession, resource_id: UUID) -> None:
            if timers.calls.count(bad) == 1 and resource_id == bad:
                await asyncio.Event().wait()

        timers.on_call = hang
        await timers.set(origin(), bad, good)
        async with running(timers.replica(handler_s=0.2, retry_delays_s=QUICK)):
            await eventually(timers.is_empty)
        assert sorted(await timers.effects()) == sorted([bad, good])
        assert timers.calls.count(bad) == 2

    async def test_timers_stay_while_the_table_is_unavailable(
        self, timers: TimerDriver, origin: Origins, kit_admin: "Pool[asyncpg.Record]", logs: list[dict[str, Any]]
    ) -> None:
        (resource,) = new_ids(1)
        await timers.set(origin(), resource)
        await kit_admin.execute("alter table budgets.timers rename to renamed_timers")

        async def logged() -> bool:
            return any(line["event"] == "timers not fired" for line in logs)

        try:
            async with running(timers.replica()):
                await eventually(logged)
                await kit_admin.execute("alter table budgets.renamed_timers rename to timers")
                await eventually(timers.is_empty)
        finally:
            await kit_admin.execute("alter table if exists budgets.renamed_timers rename to timers")
        assert await timers.effects() == [resource]

    async def test_a_failed_timer_without_a_stored_delay_fires_after_its_lease(
        self, timers: TimerDriver, origin: Origins, kit_admin: "Pool[asyncpg.Record]", logs: list[dict[str, Any]]
    ) -> None:
        (resource,) = new_ids(1)

        async def lose_the_table(_: object, __: Origin, resource_id: UUID) -> None:
            timers.calls.append(resource_id)
            if len(timers.calls) == 1:
                await kit_admin.execute("alter table budgets.timers rename to renamed_timers")

        await timers.set(origin(), resource)
        replica = timers.replica(handler=due(timers.kind, own_transaction=True)(lose_the_table), lease_s=0.3)
        try:
            assert await replica._fire_batch() == 1
        finally:
            await kit_admin.execute("alter table if exists budgets.renamed_timers rename to timers")
        messages = [line["event"] for line in logs if line.get("kind") == timers.kind]
        assert messages == ["timer failed", "timer retried after its lease"]
        async with running(replica):
            await eventually(timers.is_empty)
        assert timers.calls == [resource] * 2
