"""What was said in a transaction that committed is published, once in effect, whatever is away meanwhile."""

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


async def say(db: Database, origin: Origin, *budget_ids: str) -> None:
    async with db.write(origin) as tx:
        for budget_id in budget_ids:
            outbox.append(tx, BudgetClosed(budget_id=budget_id, entity_id="e"))


class Outbox:
    """The outbox of the test's tenant."""

    def __init__(self, admin: "Pool[asyncpg.Record]", tenant_id: UUID) -> None:
        self._admin = admin
        self._tenant_id = tenant_id

    async def rows(self) -> list[asyncpg.Record]:
        return await self._admin.fetch("select * from budgets.outbox where tenant_id = $1 order by id", self._tenant_id)

    async def is_empty(self) -> bool:
        return all(row["publish_time"] for row in await self.rows())


@pytest.fixture
def waiting(kit_admin: "Pool[asyncpg.Record]", tenant: UUID) -> Outbox:
    return Outbox(kit_admin, tenant)


class TestAppend:
    async def test_it_is_kept_with_who_caused_it(self, db: Database, origin: Origins, waiting: Outbox) -> None:
        mine = origin(actor="carol")
        await say(db, mine, "b")
        (row,) = await waiting.rows()
        assert (row["type"], row["actor"]) == ("billing.budgets.v1.BudgetClosed", "carol")
        assert json.loads(row["body"]) == {"budget_id": "b", "entity_id": "e"}
        assert Trace.from_header(row["traceparent"]).trace_id == mine.trace.trace_id
        assert row["publish_time"] is None

    async def test_many_events_are_appended_in_order(self, db: Database, origin: Origins, waiting: Outbox) -> None:
        mine = origin(actor="carol")
        db.appended.clear()
        async with db.write(mine) as tx:
            outbox.append_all(tx, (BudgetClosed(budget_id=str(number)) for number in range(500)))
        rows = await waiting.rows()
        assert [json.loads(row["body"])["budget_id"] for row in rows] == [str(number) for number in range(500)]
        assert {(row["type"], row["actor"]) for row in rows} == {("billing.budgets.v1.BudgetClosed", "carol")}
        assert db.appended.is_set()

    async def test_no_events_are_nothing_to_publish(self, db: Database, origin: Origins) -> None:
        db.appended.clear()
        async with db.write(origin()) as tx:
            outbox.append_all(tx, ())
        assert not db.appended.is_set()

    async def test_what_is_rolled_back_was_never_said(
        self,
        db: Database,
        jetstream: JetStreamContext,
        origin: Origins,
        waiting: Outbox,
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
            await say(db, origin(), "after")
            await published_events.first(BudgetClosed)
        assert [row["type"] for row in await waiting.rows()] == ["billing.budgets.v1.BudgetClosed"]
        assert [event.budget_id for event in published_events.of(BudgetClosed)] == ["after"]


class TestRelay:
    async def test_an_event_is_published_once_as_a_cloud_event(
        self,
        db: Database,
        jetstream: JetStreamContext,
        origin: Origins,
        waiting: Outbox,
        published_events: PublishedEvents,
    ) -> None:
        mine = origin(actor="carol")
        async with relaying(db, jetstream):
            await say(db, mine, "b")
            event = await published_events.first(BudgetClosed)
            await eventually(waiting.is_empty)
        assert event == BudgetClosed(budget_id="b", entity_id="e")
        (message,), (row,) = published_events.messages, await waiting.rows()
        assert message.subject == f"billing.budgets.v1.BudgetClosed.{mine.tenant_id.hex}"
        headers = message.headers or {}
        assert headers["Nats-Msg-Id"] == headers["ce-id"] == str(row["id"])
        assert headers["ce-type"] == "billing.budgets.v1.BudgetClosed"
        assert headers["ce-source"] == "/billing/budgets"
        assert headers["ce-actor"] == "carol"
        assert headers["ce-specversion"] == "1.0"
        assert headers["ce-time"] == row["create_time"].isoformat()
        assert Trace.from_header(headers["traceparent"]).trace_id == mine.trace.trace_id

    async def test_an_actor_of_any_script_gets_through(
        self, db: Database, jetstream: JetStreamContext, origin: Origins, published_events: PublishedEvents
    ) -> None:
        async with relaying(db, jetstream):
            await say(db, origin(actor="Zoë Ångström 名"), "b")
            await published_events.first(BudgetClosed)
        assert published_events.headers(BudgetClosed)["ce-actor"] == "Zoë Ångström 名"

    async def test_it_is_published_at_once_and_not_at_the_next_poll(
        self,
        db: Database,
        jetstream: JetStreamContext,
        origin: Origins,
        published_events: PublishedEvents,
    ) -> None:
        async with relaying(db, jetstream, poll_s=60.0):
            for number in range(3):
                await say(db, origin(), str(number))
                await published_events.at_least(number + 1, BudgetClosed, within_s=5)

    async def test_what_another_process_said_is_published_too(
        self, db: Database, jetstream: JetStreamContext, origin: Origins, published_events: PublishedEvents,
        kit_settings: Callable[..., Settings],
    ) -> None:  # fmt: skip
        other = Database(kit_settings())
        async with relaying(db, jetstream):
            await say(other, origin(), "b")
            await published_events.first(BudgetClosed)
        await other.close()

    async def test_several_relays_publish_each_once_in_effect(
        self,
        db: Database,
        jetstream: JetStreamContext,
        origin: Origins,
        waiting: Outbox,
        published_events: PublishedEvents,
    ) -> None:
        said = [str(number) for number in range(500)]
        async with relaying(db, jetstream, replicas=3):
            for start in range(0, len(said), 50):
                await say(db, origin(), *said[start : start + 50])
            await eventually(waiting.is_empty)
        told = [event.budget_id for event in await published_events.at_least(len(said), BudgetClosed)]
        assert sorted(told, key=int) == said

    async def test_what_is_published_again_is_stored_once(
        self, db: Database, jetstream: JetStreamContext, origin: Origins, waiting: Outbox, tenant: UUID,
        kit_admin: "Pool[asyncpg.Record]",
    ) -> None:  # fmt: skip
        async with relaying(db, jetstream):
            await say(db, origin(), "b")
            await eventually(waiting.is_empty)
            await kit_admin.execute("update budgets.outbox set publish_time = null where tenant_id = $1", tenant)
            await eventually(waiting.is_empty)
        stream = await jetstream.stream_info(bus.STREAM, subjects_filter=f"billing.*.v1.*.{tenant.hex}")
        assert stream.state.subjects == {f"billing.budgets.v1.BudgetClosed.{tenant.hex}": 1}

    async def test_rows_wait_while_nats_is_away(
        self, db: Database, origin: Origins, waiting: Outbox, kit_settings: Callable[..., Settings], tmp_path: Path,
    ) -> None:  # fmt: skip
        with servers.nats(tmp_path, durable=False) as nats:
            client, jetstream = await bus.connect(kit_settings(nats_url=nats.url))
            async with relaying(db, jetstream, publish_timeout_s=0.3):
                nats.kill()
                await say(db, origin(), "while away")
                await asyncio.sleep(0.5)
                assert not await waiting.is_empty()
                nats.start()
                await eventually(waiting.is_empty, within_s=20)
            messages = await jetstream.stream_info(bus.STREAM, subjects_filter="billing.>")
            assert f"billing.budgets.v1.BudgetClosed.{origin().tenant_id.hex}" in (messages.state.subjects or {})
            await client.close()

    async def test_a_stream_that_was_deleted_is_made_again(
        self, db: Database, origin: Origins, waiting: Outbox, kit_settings: Callable[..., Settings], tmp_path: Path
    ) -> None:
        with servers.nats(tmp_path, durable=False) as nats:
            client, jetstream = await bus.connect(kit_settings(nats_url=nats.url))
            async with relaying(db, jetstream):
                await jetstream.delete_stream(bus.STREAM)
                await say(db, origin(), "after the loss")
                await eventually(waiting.is_empty, within_s=20)
            assert (await jetstream.stream_info(bus.STREAM)).state.messages == 1
            await client.close()


class TestPrune:
    async def test_only_what_was_published_long_ago_is_dropped(
        self, db: Database, jetstream: JetStreamContext, origin: Origins, waiting: Outbox, tenant: UUID,
        kit_admin: "Pool[asyncpg.Record]",
    ) -> None:  # fmt: skip
        await say(db, origin(), "old", "young", "waiting")
        old, young, not_yet = [row["id"] for row in await waiting.rows()]
        publish = "update budgets.outbox set publish_time = now() - cast($2 as interval) where id = $1"
        for row, ago in ((old, "8 days"), (young, "6 days")):
            await kit_admin.execute(publish.replace("cast($2 as interval)", f"interval '{ago}'"), row)
        await kit_admin.execute(
            "update budgets.outbox set create_time = now() - interval '9 days' where id = $1", not_yet
        )
        await Relay(db, jetstream, "budgets").prune()
        assert [row["id"] for row in await waiting.rows()] == [young, not_yet]


class TestStream:
    async def test_it_is_made_again_without_harm_and_keeps_what_it_is(self, jetstream: JetStreamContext) -> None:
        before: Any = (await jetstream.stream_info(bus.STREAM)).config
        await bus.ensure_stream(jetstream)
        assert (await jetstream.stream_info(bus.STREAM)).config == before
        assert before.subjects == ["billing.>", "platform.>"]
        assert before.retention == "limits"
        assert before.storage == "file"
        assert before.duplicate_window == 600

    async def test_the_same_message_id_is_stored_once(self, jetstream: JetStreamContext) -> None:
        subject, headers = f"billing.probe.v1.Said.{uuid4().hex}", {"Nats-Msg-Id": uuid4().hex}
        first = await jetstream.publish(subject, b"{}", headers=headers)
        again = await jetstream.publish(subject, b"{}", headers=headers)
        assert (first.seq, again.duplicate) == (again.seq, True)
