"""Events of committed transactions are published, once in effect, despite outages."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing.budgets.v1.events_pb2 import BudgetClosed
from nats.js import JetStreamContext

from deploy.local import servers
from eventing import bus, outbox
from eventing.outbox import Relay
from eventing.subjects import STREAM
from kit import tasks
from kit.db import Database
from kit.origin import Origin
from kit.settings import Settings
from kit.telemetry import Trace
from tests.harness.observe import PublishedEvents, eventually

Origins = Callable[..., Origin]
Pool = asyncpg.Pool


@contextlib.asynccontextmanager
async def relaying(
    db: Database, jetstream: JetStreamContext, replicas: int = 1, **options: float
) -> AsyncIterator[None]:
    """Run relays until the block ends."""
    relays = [asyncio.create_task(Relay(db, jetstream, "budgets", **options).run()) for _ in range(replicas)]
    try:
        yield
    finally:
        await tasks.cancel_and_wait(*relays)


async def append(db: Database, origin: Origin, *budget_ids: str) -> None:
    async with db.write(origin) as tx:
        for budget_id in budget_ids:
            outbox.append(tx, BudgetClosed(budget_id=budget_id, entity_id="e"))


class OutboxTable:
    """Rows of the test's tenant in the outbox."""

    def __init__(self, admin: "Pool[asyncpg.Record]", tenant_id: UUID) -> None:
        self._admin = admin
        self._tenant_id = tenant_id

    async def rows(self) -> list[asyncpg.Record]:
        return await self._admin.fetch("select * from budgets.outbox where tenant_id = $1 order by id", self._tenant_id)

    async def is_empty(self) -> bool:
        return all(row["publish_time"] for row in await self.rows())


@pytest.fixture
def table(kit_admin: "Pool[asyncpg.Record]", tenant: UUID) -> OutboxTable:
    return OutboxTable(kit_admin, tenant)


class TestAppend:
    async def test_an_event_is_stored_with_actor_and_trace(
        self, db: Database, origin: Origins, table: OutboxTable
    ) -> None:
        mine = origin(actor="carol")
        await append(db, mine, "b")
        (row,) = await table.rows()
        assert (row["type"], row["actor"]) == ("billing.budgets.v1.BudgetClosed", "carol")
        assert json.loads(row["body"]) == {"budget_id": "b", "entity_id": "e"}
        assert Trace.from_header(row["traceparent"]).trace_id == mine.trace.trace_id
        assert row["publish_time"] is None

    async def test_many_events_are_appended_in_order(self, db: Database, origin: Origins, table: OutboxTable) -> None:
        mine = origin(actor="carol")
        db.appended.clear()
        async with db.write(mine) as tx:
            outbox.append_all(tx, (BudgetClosed(budget_id=str(number)) for number in range(500)))
        rows = await table.rows()
        assert [json.loads(row["body"])["budget_id"] for row in rows] == [str(number) for number in range(500)]
        assert {(row["type"], row["actor"]) for row in rows} == {("billing.budgets.v1.BudgetClosed", "carol")}
        assert db.appended.is_set()

    async def test_appending_no_events_does_not_wake_the_relay(self, db: Database, origin: Origins) -> None:
        db.appended.clear()
        async with db.write(origin()) as tx:
            outbox.append_all(tx, ())
        assert not db.appended.is_set()

    async def test_events_of_a_failed_transaction_are_not_published(
        self,
        db: Database,
        jetstream: JetStreamContext,
        origin: Origins,
        table: OutboxTable,
        published_events: PublishedEvents,
    ) -> None:
        async def fail() -> None:
            async with db.write(origin()) as tx:
                outbox.append(tx, BudgetClosed(budget_id="never"))
                await tx.flush()
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fail()
        async with relaying(db, jetstream):
            await append(db, origin(), "after")
            await published_events.first(BudgetClosed)
        assert [row["type"] for row in await table.rows()] == ["billing.budgets.v1.BudgetClosed"]
        assert [event.budget_id for event in published_events.of(BudgetClosed)] == ["after"]


class TestRelay:
    async def test_an_event_is_published_once_as_a_cloud_event(
        self,
        db: Database,
        jetstream: JetStreamContext,
        origin: Origins,
        table: OutboxTable,
        published_events: PublishedEvents,
    ) -> None:
        mine = origin(actor="carol")
        async with relaying(db, jetstream):
            await append(db, mine, "b")
            event = await published_events.first(BudgetClosed)
            await eventually(table.is_empty)
        assert event == BudgetClosed(budget_id="b", entity_id="e")
        (message,), (row,) = published_events.messages, await table.rows()
        assert message.subject == f"billing.budgets.v1.BudgetClosed.{mine.tenant_id.hex}"
        headers = message.headers or {}
        assert headers["Nats-Msg-Id"] == headers["ce-id"] == str(row["id"])
        assert headers["ce-type"] == "billing.budgets.v1.BudgetClosed"
        assert headers["ce-source"] == "/billing/budgets"
        assert headers["ce-actor"] == "carol"
        assert headers["ce-specversion"] == "1.0"
        assert headers["ce-time"] == row["create_time"].isoformat()
        assert Trace.from_header(headers["traceparent"]).trace_id == mine.trace.trace_id

    async def test_actors_may_contain_any_characters(
        self, db: Database, jetstream: JetStreamContext, origin: Origins, published_events: PublishedEvents
    ) -> None:
        async with relaying(db, jetstream):
            await append(db, origin(actor="Zoë Ångström 名"), "b")
            await published_events.first(BudgetClosed)
        assert published_events.headers(BudgetClosed)["ce-actor"] == "Zoë Ångström 名"

    async def test_own_events_are_published_without_waiting_for_the_poll(
        self,
        db: Database,
        jetstream: JetStreamContext,
        origin: Origins,
        published_events: PublishedEvents,
    ) -> None:
        async with relaying(db, jetstream, poll_s=60.0):
            for number in range(3):
                await append(db, origin(), str(number))
                await published_events.at_least(number + 1, BudgetClosed, within_s=5)

    async def test_events_of_other_processes_are_published(
        self, db: Database, jetstream: JetStreamContext, origin: Origins, published_events: PublishedEvents,
        kit_settings: Callable[..., Settings],
    ) -> None:  # fmt: skip
        other = Database(kit_settings())
        async with relaying(db, jetstream):
            await append(other, origin(), "b")
            await published_events.first(BudgetClosed)
        await other.close()

    async def test_several_relays_publish_each_event_once(
        self,
        db: Database,
        jetstream: JetStreamContext,
        origin: Origins,
        table: OutboxTable,
        published_events: PublishedEvents,
    ) -> None:
        appended = [str(number) for number in range(500)]
        async with relaying(db, jetstream, replicas=3):
            for start in range(0, len(appended), 50):
                await append(db, origin(), *appended[start : start + 50])
            await eventually(table.is_empty)
        published = [event.budget_id for event in await published_events.at_least(len(appended), BudgetClosed)]
        assert sorted(published, key=int) == appended

    async def test_an_event_published_twice_is_stored_once(
        self, db: Database, jetstream: JetStreamContext, origin: Origins, table: OutboxTable, tenant: UUID,
        kit_admin: "Pool[asyncpg.Record]",
    ) -> None:  # fmt: skip
        async with relaying(db, jetstream):
            await append(db, origin(), "b")
            await eventually(table.is_empty)
            await kit_admin.execute("update budgets.outbox set publish_time = null where tenant_id = $1", tenant)
            await eventually(table.is_empty)
        stream = await jetstream.stream_info(STREAM, subjects_filter=f"billing.*.v1.*.{tenant.hex}")
        assert stream.state.subjects == {f"billing.budgets.v1.BudgetClosed.{tenant.hex}": 1}

    async def test_events_are_published_after_an_outage_of_nats(
        self, db: Database, origin: Origins, table: OutboxTable, kit_settings: Callable[..., Settings], tmp_path: Path,
    ) -> None:  # fmt: skip
        with servers.nats(tmp_path, durable=False) as nats:
            client, jetstream = await bus.connect(kit_settings(nats_url=nats.url))
            async with relaying(db, jetstream, publish_timeout_s=0.3):
                nats.kill()
                await append(db, origin(), "during the outage")
                await asyncio.sleep(0.5)
                assert not await table.is_empty()
                nats.start()
                await eventually(table.is_empty, within_s=20)
            messages = await jetstream.stream_info(STREAM, subjects_filter="billing.>")
            assert f"billing.budgets.v1.BudgetClosed.{origin().tenant_id.hex}" in (messages.state.subjects or {})
            await client.close()

    async def test_a_deleted_stream_is_created_again(
        self,
        db: Database,
        origin: Origins,
        table: OutboxTable,
        kit_settings: Callable[..., Settings],
        tmp_path: Path,
    ) -> None:
        with servers.nats(tmp_path, durable=False) as nats:
            client, jetstream = await bus.connect(kit_settings(nats_url=nats.url))
            async with relaying(db, jetstream):
                await jetstream.delete_stream(STREAM)
                await append(db, origin(), "after the loss")
                await eventually(table.is_empty, within_s=20)
            assert (await jetstream.stream_info(STREAM)).state.messages == 1
            await client.close()


class TestPrune:
    async def test_only_events_published_long_ago_are_deleted(
        self, db: Database, jetstream: JetStreamContext, origin: Origins, table: OutboxTable, tenant: UUID,
        kit_admin: "Pool[asyncpg.Record]",
    ) -> None:  # fmt: skip
        await append(db, origin(), "old", "recent", "unpublished")
        old, recent, unpublished = [row["id"] for row in await table.rows()]
        publish = "update budgets.outbox set publish_time = now() - cast($2 as interval) where id = $1"
        for row, ago in ((old, "8 days"), (recent, "6 days")):
            await kit_admin.execute(publish.replace("cast($2 as interval)", f"interval '{ago}'"), row)
        await kit_admin.execute(
            "update budgets.outbox set create_time = now() - interval '9 days' where id = $1", unpublished
        )
        await Relay(db, jetstream, "budgets").prune()
        assert [row["id"] for row in await table.rows()] == [recent, unpublished]


class TestStream:
    async def test_creating_it_again_changes_nothing(self, jetstream: JetStreamContext) -> None:
        before: Any = (await jetstream.stream_info(STREAM)).config
        await bus.ensure_stream(jetstream)
        assert (await jetstream.stream_info(STREAM)).config == before
        assert before.subjects == ["billing.>", "platform.>"]
        assert before.retention == "limits"
        assert before.storage == "file"
        assert before.duplicate_window == 600

    async def test_the_same_message_id_is_stored_once(self, jetstream: JetStreamContext) -> None:
        subject, headers = f"billing.probe.v1.Probed.{uuid4().hex}", {"Nats-Msg-Id": uuid4().hex}
        first = await jetstream.publish(subject, b"{}", headers=headers)
        again = await jetstream.publish(subject, b"{}", headers=headers)
        assert (first.seq, again.duplicate) == (again.seq, True)
