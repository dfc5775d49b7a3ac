"""What a clock starts has its effect when it is due, for the tenant that it was set for, unless it is taken back."""

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
from eventing.timers import Timers, cancel_timer, due, set_timer
from kit import clock, tasks
from kit.db import Database, WriteSession, sqlstate
from kit.origin import Origin
from tests.harness.observe import eventually
from tests.kit.clockwork import HOUR, Clockwork, running, some

Origins = Callable[..., Origin]
Pool = asyncpg.Pool


class TestFiring:
    async def test_it_has_its_effect_when_it_is_due_and_not_before(self, clockwork: Clockwork, origin: Origins) -> None:
        later, now = some(2)
        await clockwork.set(origin(), later, at=HOUR)
        await clockwork.set(origin(), now)
        async with running(clockwork.replica()):
            await eventually(lambda: clockwork.had(now))
        assert await clockwork.effects() == [now]
        (left,) = await clockwork.rows()
        assert (left["resource_id"], left["attempts"]) == (later, 0)

    async def test_the_service_itself_acts_in_a_trace_of_its_own(
        self, clockwork: Clockwork, origin: Origins, logs: list[dict[str, Any]], tenant: UUID
    ) -> None:
        seen: list[Origin] = []

        async def look(tx: WriteSession, resource_id: UUID) -> None:
            seen.append(tx.origin)

        clockwork.then = look
        mine = origin(actor="carol")
        (resource,) = some(1)
        await clockwork.set(mine, resource)
        async with running(clockwork.replica()):
            await eventually(clockwork.over)
        assert (seen[0].actor, seen[0].tenant_id) == ("service:budgets", tenant)
        assert 0 < seen[0].remaining_s() <= 8
        (line,) = [line for line in logs if line["event"] == "timer" and line["kind"] == clockwork.kind]
        assert line["resource_id"] == str(resource)
        assert line["trace_id"] == seen[0].trace.trace_id != mine.trace.trace_id

    async def test_more_than_a_batch_does_not_wait_for_the_next_poll(
        self, clockwork: Clockwork, origin: Origins
    ) -> None:
        many = some(20)
        await clockwork.set(origin(), *many)
        async with running(clockwork.replica(poll_s=60)):
            await eventually(clockwork.over)
        assert sorted(await clockwork.effects()) == sorted(many)

    async def test_what_is_under_way_when_told_to_stop_is_finished(self, clockwork: Clockwork, origin: Origins) -> None:
        began, told = asyncio.Event(), asyncio.Event()

        async def wait(tx: WriteSession, resource_id: UUID) -> None:
            began.set()
            await told.wait()

        clockwork.then = wait
        await clockwork.set(origin(), *some(1))
        runner = asyncio.create_task(clockwork.replica().run())
        await asyncio.wait_for(began.wait(), 5)
        ending = asyncio.create_task(tasks.cancel_and_wait(runner))
        for _ in range(10):
            await asyncio.sleep(0)  # the cancellation goes as deep as it may
        told.set()
        await ending
        assert len(await clockwork.effects()) == 1
        assert await clockwork.over()

    async def test_a_kind_that_this_replica_does_not_know_is_left_to_others(
        self, clockwork: Clockwork, origin: Origins, db: Database, kit_admin: "Pool[asyncpg.Record]"
    ) -> None:
        unknown = Clockwork(db, kit_admin, f"{clockwork.kind}-of-the-next-version")
        await unknown.set(origin(), *some(1), at=-HOUR)
        await clockwork.set(origin(), *some(1))
        async with running(clockwork.replica()):
            await eventually(clockwork.over)
        (left,) = await unknown.rows()
        assert left["attempts"] == 0

    async def test_how_late_they_are_is_measured(self, clockwork: Clockwork, origin: Origins) -> None:
        await clockwork.set(origin(), *some(1), at=-HOUR)
        replica = clockwork.replica()
        await replica._fire_batch()
        assert 3600 <= (REGISTRY.get_sample_value("billing_timers_late_seconds") or 0) < 3660
        await replica._fire_batch()
        assert REGISTRY.get_sample_value("billing_timers_late_seconds") == 0

    def test_a_kind_has_one_handler(self, clockwork: Clockwork) -> None:
        with pytest.raises(ValueError, match="two handlers"):
            Timers(clockwork.db, "budgets", (clockwork.handler, clockwork.handler))


class TestClock:
    @pytest.mark.parametrize("ahead", [timedelta(days=1), timedelta(days=-1)])
    async def test_what_a_replica_takes_for_the_time_does_not_matter(
        self, clockwork: Clockwork, origin: Origins, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
    ) -> None:
        monkeypatch.setattr(clock, "now", lambda: datetime.now(UTC) + ahead)
        over, coming, now = some(3)
        await clockwork.set(origin(), over, at=-HOUR)
        await clockwork.set(origin(), coming, at=HOUR)
        await clockwork.set(origin(), now)
        async with running(clockwork.replica()):
            await eventually(lambda: clockwork.had(over, now))
        assert sorted(await clockwork.effects()) == sorted([over, now])
        assert (await clockwork.row(coming))["attempts"] == 0


class TestSetting:
    async def test_what_is_set_again_replaces_what_was_set(self, clockwork: Clockwork, origin: Origins) -> None:
        earlier, later = some(2)
        await clockwork.set(origin(), earlier, at=HOUR)
        await clockwork.set(origin(), later)
        await clockwork.set(origin(), earlier)
        await clockwork.set(origin(), later, at=HOUR)
        async with running(clockwork.replica()):
            await eventually(lambda: clockwork.had(earlier))
        assert await clockwork.effects() == [earlier]
        assert [row["resource_id"] for row in await clockwork.rows()] == [later]

    async def test_what_is_set_in_a_transaction_that_fails_was_never_set(
        self, clockwork: Clockwork, origin: Origins
    ) -> None:
        async def fail() -> None:
            async with clockwork.db.write(origin()) as tx:
                set_timer(tx, clockwork.kind, uuid4(), clock.now())
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fail()
        assert await clockwork.over()

    async def test_a_cancelled_one_has_no_effect(self, clockwork: Clockwork, origin: Origins) -> None:
        cancelled, other = some(2)
        await clockwork.set(origin(), cancelled, at=-HOUR)
        await clockwork.set(origin(), other)
        async with clockwork.db.write(origin()) as tx:
            cancel_timer(tx, clockwork.kind, cancelled)
            cancel_timer(tx, clockwork.kind, uuid4())
        async with running(clockwork.replica()):
            await eventually(clockwork.over)
        assert await clockwork.effects() == [other]

    @pytest.mark.parametrize("again", [True, False])
    async def test_one_that_is_changed_between_claim_and_effect_has_none(
        self, clockwork: Clockwork, origin: Origins, *, again: bool
    ) -> None:
        (resource,) = some(1)
        await clockwork.set(origin(), resource)
        replica = clockwork.replica()
        (claimed,) = await replica._claim()
        async with clockwork.db.write(origin()) as tx:
            if again:
                set_timer(tx, clockwork.kind, resource, clock.now() + HOUR)
            else:
                cancel_timer(tx, clockwork.kind, resource)
        await replica._fire(claimed)
        assert clockwork.tries == []
        assert [row["attempts"] for row in await clockwork.rows()] == [0] * again

    async def test_a_handler_may_set_its_timer_again(self, clockwork: Clockwork, origin: Origins) -> None:
        async def three_times(tx: WriteSession, resource_id: UUID) -> None:
            ahead = HOUR if len(clockwork.tries) == 3 else -HOUR
            set_timer(tx, clockwork.kind, resource_id, clock.now() + ahead)

        clockwork.then = three_times
        (resource,) = some(1)
        await clockwork.set(origin(), resource)
        async with running(clockwork.replica()):

            async def three() -> bool:
                return len(await clockwork.effects()) == 3

            await eventually(three)
        (row,) = await clockwork.rows()
        assert row["attempts"] == 0
        assert HOUR / 2 < row["left"] < 2 * HOUR

    async def test_a_call_that_meets_a_handler_is_not_chosen_for_a_deadlock(
        self, clockwork: Clockwork, origin: Origins, kit_admin: "Pool[asyncpg.Record]"
    ) -> None:
        """The call holds the resource and wants the timer; the handler holds the timer and wants the resource."""
        (resource,) = some(1)
        began = asyncio.Event()
        locked = select(OutboxRow.id).where(OutboxRow.type == "billing.budgets.v1.BudgetClosed").with_for_update()

        async def want_the_resource(tx: WriteSession, resource_id: UUID) -> None:
            began.set()
            await eventually(lambda: waits_for_timer(kit_admin))
            await tx.all(locked)

        async with clockwork.db.write(origin()) as tx:
            outbox.append(tx, BudgetClosed(budget_id="the resource"))
        clockwork.then = want_the_resource
        await clockwork.set(origin(), resource)
        async with running(clockwork.replica()):
            async with clockwork.db.write(origin()) as call:
                await call.all(locked)
                await asyncio.wait_for(began.wait(), 5)
                cancel_timer(call, clockwork.kind, resource)
            await eventually(clockwork.over)
        assert clockwork.tries == [resource]
        assert await clockwork.effects() == []


async def waits_for_timer(admin: "Pool[asyncpg.Record]") -> bool:
    query = (
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        " and query like 'delete from timers%'"
    )
    return bool(await admin.fetchval(query))


class TestTenants:
    async def test_a_handler_sees_and_writes_for_its_own_only(
        self, clockwork: Clockwork, origin: Origins, tenant: UUID
    ) -> None:
        other, seen, refused = uuid4(), dict[UUID, set[UUID]](), list[str]()
        mine, theirs, waiting = some(3)
        everything = text("select tenant_id from timers union all select tenant_id from outbox")

        async def look(tx: WriteSession, resource_id: UUID) -> None:
            seen[tx.tenant_id] = set(await tx.returning(everything))
            if tx.tenant_id == other:
                foreign = "insert into timers values (:tenant_id, 'x', :tenant_id, now())"
                try:
                    await tx.execute(text(foreign).bindparams(tenant_id=tenant))
                except DBAPIError as error:
                    refused.append(sqlstate(error))
                    raise

        clockwork.then = look
        for owner, resource in ((tenant, mine), (other, theirs)):
            await clockwork.set(origin(tenant_id=owner), waiting, at=HOUR)
            await clockwork.set(origin(tenant_id=owner), resource)
        async with running(clockwork.replica()):
            await eventually(lambda: clockwork.had(mine))
            await eventually(lambda: _some(refused))
        assert seen == {tenant: {tenant}, other: {other}}
        assert refused[0] == "42501"

    async def test_the_same_resource_id_of_two_tenants_is_two_timers(
        self, clockwork: Clockwork, origin: Origins
    ) -> None:
        (resource,) = some(1)
        for tenant_id in some(2):
            await clockwork.set(origin(tenant_id=tenant_id), resource)
        assert len(await clockwork.rows()) == 2
        async with running(clockwork.replica()):
            await eventually(clockwork.over)
        assert await clockwork.effects() == [resource] * 2

    async def test_a_tenant_sees_its_own_timers_and_the_service_those_of_all(
        self, clockwork: Clockwork, origin: Origins, tenant: UUID
    ) -> None:
        (theirs,) = some(1)
        for tenant_id in (tenant, theirs):
            await clockwork.set(origin(tenant_id=tenant_id), *some(1), at=HOUR)
        query = text("select tenant_id from timers where kind = :kind").bindparams(kind=clockwork.kind)
        async with clockwork.db.write(origin()) as tx:
            assert await tx.returning(query) == [tenant]
        async with clockwork.db.all_tenants() as session:
            assert set((await session.execute(query)).scalars()) == {tenant, theirs}


async def _some(found: list[str]) -> bool:
    return bool(found)


class TestOutside:
    async def test_it_is_over_when_its_handler_is(self, clockwork: Clockwork, origin: Origins) -> None:
        (resource,) = some(1)
        seen: list[int] = []

        async def look(tx: WriteSession, resource_id: UUID) -> None:
            seen.append(len(await clockwork.rows()))

        clockwork.then = look
        await clockwork.set(origin(), resource)
        async with running(clockwork.replica(handler=due(clockwork.kind, own_transaction=True)(clockwork.act_outside))):
            await eventually(clockwork.over)
        assert (clockwork.tries, seen) == ([resource], [1])
        assert await clockwork.effects() == [resource]

    async def test_one_that_its_handler_set_again_stays(self, clockwork: Clockwork, origin: Origins) -> None:
        async def again_in_an_hour(tx: WriteSession, resource_id: UUID) -> None:
            set_timer(tx, clockwork.kind, resource_id, clock.now() + HOUR)

        clockwork.then = again_in_an_hour
        (resource,) = some(1)
        await clockwork.set(origin(), resource, at=-HOUR)
        replica = clockwork.replica(handler=due(clockwork.kind, own_transaction=True)(clockwork.act_outside))
        await replica._fire_batch()
        await replica._fire_batch()
        assert clockwork.tries == [resource]
        row = await clockwork.row(resource)
        assert (row["attempts"], HOUR / 2 < row["left"] < 2 * HOUR) == (0, True)
