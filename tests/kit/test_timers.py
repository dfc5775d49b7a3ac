"""Timers fire when they are due, for their tenant, unless they are cancelled."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing.budgets.v1.events_pb2 import BudgetClosed
from prometheus_client import REGISTRY
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from eventing import outbox
from eventing.outbox import OutboxRow
from eventing.timers import CANCEL_ALL, SET_ALL, Timers, cancel_timer, set_timer
from kit import clock, tasks
from kit.db import Database, WriteSession, sqlstate
from kit.origin import Origin
from tests.harness.observe import eventually, until_blocked
from tests.kit.timer_driver import HOUR, TimerDriver, new_ids, running

Origins = Callable[..., Origin]
Pool = asyncpg.Pool


def lateness(queue: str) -> float:
    """The last measured lateness of a queue."""
    return REGISTRY.get_sample_value("billing_timers_late_seconds", {"queue": queue}) or 0.0


class TestFiring:
    async def test_a_timer_fires_when_it_is_due(self, timers: TimerDriver, origin: Origins) -> None:
        later, now = new_ids(2)
        await timers.set(origin(), later, at=HOUR)
        await timers.set(origin(), now)
        async with running(timers.replica()):
            await eventually(lambda: timers.has_effects(now))
        assert await timers.effects() == [now]
        (left,) = await timers.rows()
        assert (left["resource_id"], left["attempts"]) == (later, 0)

    async def test_the_actor_is_the_service_in_a_new_trace(
        self, timers: TimerDriver, origin: Origins, logs: list[dict[str, Any]], tenant: UUID
    ) -> None:
        seen: list[Origin] = []

        async def record(tx: WriteSession, resource_id: UUID) -> None:
            seen.append(tx.origin)

        timers.on_call = record
        mine = origin(actor="carol")
        (resource,) = new_ids(1)
        await timers.set(mine, resource)
        async with running(timers.replica()):
            await eventually(timers.is_empty)
        assert (seen[0].actor, seen[0].tenant_id) == ("service:budgets", tenant)
        assert 0 < seen[0].remaining_s() <= 8
        (line,) = [line for line in logs if line["event"] == "timer" and line["kind"] == timers.kind]
        assert line["resource_id"] == str(resource)
        assert line["trace_id"] == seen[0].trace.trace_id != mine.trace.trace_id

    async def test_a_full_batch_is_followed_by_the_next_one_at_once(self, timers: TimerDriver, origin: Origins) -> None:
        many = new_ids(20)
        await timers.set(origin(), *many)
        async with running(timers.replica(poll_s=60)):
            await eventually(timers.is_empty)
        assert sorted(await timers.effects()) == sorted(many)

    async def test_a_handler_in_progress_finishes_before_the_runner_stops(
        self, timers: TimerDriver, origin: Origins
    ) -> None:
        began, go_on = asyncio.Event(), asyncio.Event()

        async def wait(tx: WriteSession, resource_id: UUID) -> None:
            began.set()
            await go_on.wait()

        timers.on_call = wait
        await timers.set(origin(), *new_ids(1))
        runner = asyncio.create_task(timers.replica().run())
        await asyncio.wait_for(began.wait(), 5)
        ending = asyncio.create_task(tasks.cancel_and_wait(runner))
        for _ in range(10):
            await asyncio.sleep(0)  # lets the cancellation reach the handler
        go_on.set()
        await ending
        assert len(await timers.effects()) == 1
        assert await timers.is_empty()

    async def test_timers_of_unknown_kinds_are_left_to_other_replicas(
        self, timers: TimerDriver, origin: Origins, db: Database, kit_admin: "Pool[asyncpg.Record]"
    ) -> None:
        unknown = TimerDriver(db, kit_admin, f"{timers.kind}-of-the-next-version")
        await unknown.set(origin(), *new_ids(1), at=-HOUR)
        await timers.set(origin(), *new_ids(1))
        async with running(timers.replica()):
            await eventually(timers.is_empty)
        (left,) = await unknown.rows()
        assert left["attempts"] == 0

    async def test_lateness_is_measured(self, timers: TimerDriver, origin: Origins) -> None:
        await timers.set(origin(), *new_ids(1), at=-HOUR)
        replica = timers.replica()
        await replica._fire_batch()
        assert 3600 <= lateness("default") < 3660
        await timers.replica(queue="other")._fire_batch()
        assert 3600 <= lateness("default") < 3660  # not hidden by a queue without timers
        await replica._fire_batch()
        assert lateness("default") == lateness("other") == 0

    def test_two_handlers_of_one_kind_are_an_error(self, timers: TimerDriver) -> None:
        with pytest.raises(ValueError, match="two handlers"):
            Timers(timers.db, "budgets", (timers.handler, timers.handler))


class TestClock:
    @pytest.mark.parametrize("ahead", [timedelta(days=1), timedelta(days=-1)])
    async def test_the_clock_of_the_replica_does_not_matter(
        self, timers: TimerDriver, origin: Origins, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
    ) -> None:
        monkeypatch.setattr(clock, "now", lambda: datetime.now(UTC) + ahead)
        overdue, coming, now = new_ids(3)
        await timers.set(origin(), overdue, at=-HOUR)
        await timers.set(origin(), coming, at=HOUR)
        await timers.set(origin(), now)
        async with running(timers.replica()):
            await eventually(lambda: timers.has_effects(overdue, now))
        assert sorted(await timers.effects()) == sorted([overdue, now])
        assert (await timers.row(coming))["attempts"] == 0


class TestSetting:
    async def test_setting_a_timer_again_replaces_it(self, timers: TimerDriver, origin: Origins) -> None:
        earlier, later = new_ids(2)
        await timers.set(origin(), earlier, at=HOUR)
        await timers.set(origin(), later)
        await timers.set(origin(), earlier)
        await timers.set(origin(), later, at=HOUR)
        async with running(timers.replica()):
            await eventually(lambda: timers.has_effects(earlier))
        assert await timers.effects() == [earlier]
        assert [row["resource_id"] for row in await timers.rows()] == [later]

    async def test_many_timers_are_set_and_cancelled_in_one_statement(
        self, timers: TimerDriver, origin: Origins, tenant: UUID
    ) -> None:
        first, second, third = new_ids(3)
        await timers.set(origin(), first, at=-HOUR)
        due_times = [clock.now() + HOUR] * 3
        async with timers.db.write(origin()) as tx:
            await tx.fetch(SET_ALL, [tenant] * 3, [first, second, third], due_times, timers.kind)
        assert all(row["left"] > HOUR / 2 for row in await timers.rows())
        async with timers.db.write(origin()) as tx:
            await tx.fetch(CANCEL_ALL, [tenant] * 3, [first, third, uuid4()], timers.kind)
        assert [row["resource_id"] for row in await timers.rows()] == [second]

    async def test_a_timer_set_in_a_failed_transaction_is_not_set(self, timers: TimerDriver, origin: Origins) -> None:
        async def fail() -> None:
            async with timers.db.write(origin()) as tx:
                set_timer(tx, timers.kind, uuid4(), clock.now())
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fail()
        assert await timers.is_empty()

    async def test_a_cancelled_timer_does_not_fire(self, timers: TimerDriver, origin: Origins) -> None:
        cancelled, other = new_ids(2)
        await timers.set(origin(), cancelled, at=-HOUR)
        await timers.set(origin(), other)
        async with timers.db.write(origin()) as tx:
            cancel_timer(tx, timers.kind, cancelled)
            cancel_timer(tx, timers.kind, uuid4())
        async with running(timers.replica()):
            await eventually(timers.is_empty)
        assert await timers.effects() == [other]

    @pytest.mark.parametrize("set_again", [True, False])
    async def test_a_timer_changed_after_its_claim_does_not_fire(
        self, timers: TimerDriver, origin: Origins, *, set_again: bool
    ) -> None:
        (resource,) = new_ids(1)
        await timers.set(origin(), resource)
        replica = timers.replica()
        (claimed,) = await replica._claim()
        async with timers.db.write(origin()) as tx:
            if set_again:
                set_timer(tx, timers.kind, resource, clock.now() + HOUR)
            else:
                cancel_timer(tx, timers.kind, resource)
        await replica._fire(claimed)
        assert timers.calls == []
        assert [row["attempts"] for row in await timers.rows()] == [0] * set_again

    async def test_a_handler_can_set_its_timer_again(self, timers: TimerDriver, origin: Origins) -> None:
        async def three_times(tx: WriteSession, resource_id: UUID) -> None:
            ahead = HOUR if len(timers.calls) == 3 else -HOUR
            set_timer(tx, timers.kind, resource_id, clock.now() + ahead)

        timers.on_call = three_times
        (resource,) = new_ids(1)
        await timers.set(origin(), resource)
        async with running(timers.replica()):

            async def three() -> bool:
                return len(await timers.effects()) == 3

            await eventually(three)
        (row,) = await timers.rows()
        assert row["attempts"] == 0
        assert HOUR / 2 < row["left"] < 2 * HOUR

    async def test_a_call_is_never_the_victim_of_a_deadlock_with_a_handler(
        self, timers: TimerDriver, origin: Origins, kit_admin: "Pool[asyncpg.Record]"
    ) -> None:
        """The call locks the resource, then the timer; the handler locks the timer, then the resource."""
        (resource,) = new_ids(1)
        began = asyncio.Event()
        locked = select(OutboxRow.id).where(OutboxRow.type == "billing.budgets.v1.BudgetClosed").with_for_update()

        async def lock_the_resource(tx: WriteSession, resource_id: UUID) -> None:
            began.set()
            await until_blocked(kit_admin, query="delete from timers%")
            await tx.all(locked)

        async with timers.db.write(origin()) as tx:
            outbox.append(tx, BudgetClosed(budget_id="the resource"))
        timers.on_call = lock_the_resource
        await timers.set(origin(), resource)
        async with running(timers.replica()):
            async with timers.db.write(origin()) as call:
                await call.all(locked)
                await asyncio.wait_for(began.wait(), 5)
                cancel_timer(call, timers.kind, resource)
            await eventually(timers.is_empty)
        assert timers.calls == [resource]
        assert await timers.effects() == []


class TestTenants:
    async def test_a_handler_sees_and_writes_rows_of_its_tenant_only(
        self, timers: TimerDriver, origin: Origins, tenant: UUID
    ) -> None:
        other, seen, refused = uuid4(), dict[UUID, set[UUID]](), list[str]()
        mine, theirs, waiting = new_ids(3)
        everything = text("select tenant_id from timers union all select tenant_id from outbox")

        async def record(tx: WriteSession, resource_id: UUID) -> None:
            seen[tx.tenant_id] = set(await tx.returning(everything))
            if tx.tenant_id == other:
                foreign = "insert into timers values (:tenant_id, 'x', :tenant_id, now())"
                try:
                    await tx.execute(text(foreign).bindparams(tenant_id=tenant))
                except DBAPIError as error:
                    refused.append(sqlstate(error))
                    raise

        timers.on_call = record
        for owner, resource in ((tenant, mine), (other, theirs)):
            await timers.set(origin(tenant_id=owner), waiting, at=HOUR)
            await timers.set(origin(tenant_id=owner), resource)
        async with running(timers.replica()):
            await eventually(lambda: timers.has_effects(mine))
            await eventually(lambda: _some(refused))
        assert seen == {tenant: {tenant}, other: {other}}
        assert refused[0] == "42501"

    async def test_the_same_resource_id_of_two_tenants_is_two_timers(
        self, timers: TimerDriver, origin: Origins
    ) -> None:
        (resource,) = new_ids(1)
        for tenant_id in new_ids(2):
            await timers.set(origin(tenant_id=tenant_id), resource)
        assert len(await timers.rows()) == 2
        async with running(timers.replica()):
            await eventually(timers.is_empty)
        assert await timers.effects() == [resource] * 2

    async def test_a_transaction_of_all_tenants_sees_all_timers(
        self, timers: TimerDriver, origin: Origins, tenant: UUID
    ) -> None:
        (theirs,) = new_ids(1)
        for tenant_id in (tenant, theirs):
            await timers.set(origin(tenant_id=tenant_id), *new_ids(1), at=HOUR)
        query = text("select tenant_id from timers where kind = :kind").bindparams(kind=timers.kind)
        async with timers.db.write(origin()) as tx:
            assert await tx.returning(query) == [tenant]
        async with timers.db.all_tenants() as session:
            assert set((await session.execute(query)).scalars()) == {tenant, theirs}


async def _some(found: list[str]) -> bool:
    return bool(found)


class TestOwnTransaction:
    async def test_the_timer_is_deleted_after_its_handler(self, timers: TimerDriver, origin: Origins) -> None:
        (resource,) = new_ids(1)
        seen: list[int] = []

        async def record(tx: WriteSession, resource_id: UUID) -> None:
            seen.append(len(await timers.rows()))

        timers.on_call = record
        await timers.set(origin(), resource)
        async with running(timers.replica(handler=timers.own_transaction_handler)):
            await eventually(timers.is_empty)
        assert (timers.calls, seen) == ([resource], [1])
        assert await timers.effects() == [resource]

    async def test_a_timer_that_its_handler_set_again_stays(self, timers: TimerDriver, origin: Origins) -> None:
        async def set_again_in_an_hour(tx: WriteSession, resource_id: UUID) -> None:
            set_timer(tx, timers.kind, resource_id, clock.now() + HOUR)

        timers.on_call = set_again_in_an_hour
        (resource,) = new_ids(1)
        await timers.set(origin(), resource, at=-HOUR)
        replica = timers.replica(handler=timers.own_transaction_handler)
        await replica._fire_batch()
        await replica._fire_batch()
        assert timers.calls == [resource]
        row = await timers.row(resource)
        assert (row["attempts"], HOUR / 2 < row["left"] < 2 * HOUR) == (0, True)
