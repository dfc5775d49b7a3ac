"""Consumers: one effect per event, retries and dead letters."""

import asyncio
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing.budgets.v1.events_pb2 import BudgetClosed
from nats.js import JetStreamContext

from eventing import outbox
from eventing.consumer import Consumer, Handler, on
from eventing.subjects import STREAM
from kit import tasks
from kit.db import Database, WriteSession
from kit.errors import Conflict, DeadlineExceeded, Overloaded, Unavailable
from kit.origin import Origin
from kit.telemetry import Trace
from tests.harness.observe import eventually
from tests.kit.consumers import FakeHandler, Publish, Results, consuming

Pool = asyncpg.Pool


class TestEffect:
    async def test_a_handler_runs_for_the_tenant_and_in_the_trace_of_the_event(
        self, consumer: Consumer, handler: FakeHandler, publish: Publish, results: Results, tenant: UUID
    ) -> None:
        trace = Trace.from_header(None)
        await publish("b", traceparent=trace.header())
        assert await eventually(results.effects) == ["effect of b"]
        origin = handler.transactions[0].origin
        assert (origin.tenant_id, origin.actor, origin.trace.trace_id) == (tenant, "carol", trace.trace_id)

    async def test_an_event_delivered_twice_has_one_effect(
        self,
        consumer: Consumer,
        jetstream: JetStreamContext,
        handler: FakeHandler,
        publish: Publish,
        results: Results,
    ) -> None:
        event_id = await publish("one")
        await publish("one", event_id=event_id)
        await publish("one", event_id=event_id)
        await publish("last")
        await eventually(lambda: _has_effects(2, results))
        await eventually(lambda: _has_handled_all(consumer, jetstream))
        assert sorted(await results.effects()) == ["effect of last", "effect of one"]
        assert handler.tries == 2

    async def test_two_replicas_share_the_work(
        self,
        consumer: Consumer,
        db: Database,
        jetstream: JetStreamContext,
        publish: Publish,
        results: Results,
        handler: FakeHandler,
    ) -> None:
        replica = Consumer(db, "budgets", consumer._handler)
        async with consuming(replica, jetstream):
            for number in range(40):
                await publish(str(number))
            await eventually(lambda: _has_effects(40, results))
        assert handler.tries == 40

    async def test_each_consumer_handles_the_event(
        self,
        consumer: Consumer,
        db: Database,
        jetstream: JetStreamContext,
        publish: Publish,
        results: Results,
        handler: FakeHandler,
    ) -> None:
        other = Consumer(db, "budgets", Handler(f"other_{uuid4().hex}", BudgetClosed, handler.handle))
        async with consuming(other, jetstream):
            await publish()
            await eventually(lambda: _has_effects(2, results))

    async def test_a_filtered_event_is_acknowledged_without_a_transaction(
        self, db: Database, jetstream: JetStreamContext, publish: Publish, results: Results, handler: FakeHandler
    ) -> None:
        filtering = Handler(
            f"filtering_{uuid4().hex}", BudgetClosed, handler.handle, accepts=lambda event: event.budget_id != "b"
        )
        consumer = Consumer(db, "budgets", filtering)
        async with consuming(consumer, jetstream):
            await publish("b")
            await publish("c")
            assert await eventually(results.effects) == ["effect of c"]
        assert (handler.tries, await results.inbox_count(consumer.name)) == (1, 1)

    async def test_unknown_fields_are_ignored(self, consumer: Consumer, publish: Publish, results: Results) -> None:
        await publish(body=b'{"budget_id": "b", "field_of_a_later_version": {"x": 1}}')
        assert await eventually(results.effects) == ["effect of b"]

    async def test_a_handler_in_progress_finishes_before_the_consumer_stops(
        self,
        db: Database,
        jetstream: JetStreamContext,
        publish: Publish,
        results: Results,
        handler: FakeHandler,
        tenant: UUID,
    ) -> None:
        began = asyncio.Event()

        async def slow(tx: WriteSession, event: BudgetClosed) -> None:
            if tx.tenant_id == tenant:  # a new consumer also gets earlier events of other tests
                began.set()
                await asyncio.sleep(0.1)  # still in progress when the consumer is cancelled
            await handler.handle(tx, event)

        slow_consumer = Consumer(db, "budgets", Handler(f"slow_{uuid4().hex}", BudgetClosed, slow))
        async with consuming(slow_consumer, jetstream):
            await publish()
            await asyncio.wait_for(began.wait(), 30)
        assert await results.effects() == ["effect of b"]

    async def test_it_stops_at_every_moment(
        self, db: Database, jetstream: JetStreamContext, publish: Publish, handler: FakeHandler
    ) -> None:
        """At some moments the NATS client swallows the cancellation."""
        consumer = Consumer(db, "budgets", Handler(f"stopped_{uuid4().hex}", BudgetClosed, handler.handle))
        for turn in range(60):
            running = asyncio.create_task(consumer.run(jetstream))
            publishing = asyncio.gather(*(publish(str(number)) for number in range(3)))
            await asyncio.sleep(turn % 30 * 0.0005)
            await asyncio.wait_for(tasks.cancel_and_wait(running, retry_s=0.02), 5)
            await publishing
        await jetstream.delete_consumer(STREAM, consumer.name.replace(".", "_"))

    def test_a_handler_is_named_by_its_function(self) -> None:
        @on(BudgetClosed)
        async def archive_budget(tx: WriteSession, event: BudgetClosed) -> None: ...

        assert archive_budget.name == "archive_budget"
        assert archive_budget.subject == "billing.budgets.v1.BudgetClosed.*"


async def _has_effect(effect: str, results: Results) -> bool:
    return effect in await results.effects()


async def _has_effects(count: int, results: Results) -> bool:
    return len(await results.effects()) == count


async def _has_handled_all(consumer: Consumer, jetstream: JetStreamContext) -> bool:
    """True if no event is waiting for its delivery or acknowledgement."""
    info = await jetstream.consumer_info("BILLING", consumer.name.replace(".", "_"))
    return (info.num_ack_pending, info.num_pending) == (0, 0)


class TestOwnTransaction:
    async def test_a_handler_gets_many_events_concurrently_and_is_retried(
        self, db: Database, jetstream: JetStreamContext, publish: Publish, results: Results, tenant: UUID,
        kit_admin: "Pool[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(Consumer, "retry_delays_s", (0.01,))
        arrived, all_there, failures = [], asyncio.Event(), [RuntimeError("once")]

        @on(BudgetClosed, own_transaction=True)
        async def handle_in_own_transaction(_: object, origin: Origin, event: BudgetClosed) -> None:
            if origin.tenant_id != tenant:  # published by another test
                return
            arrived.append(event.budget_id)
            if len(arrived) == 40:
                all_there.set()
            await all_there.wait()
            if failures:
                raise failures.pop()
            async with db.write(origin) as tx:
                outbox.append(tx, BudgetClosed(budget_id=f"effect of {event.budget_id}"))

        for number in range(40):
            await publish(str(number))
        async with consuming(Consumer(db, "budgets", handle_in_own_transaction), jetstream):
            await eventually(lambda: _has_effects(40, results))
        assert len(arrived) == 41
        assert await kit_admin.fetchval("select count(*) from budgets.inbox where tenant_id = $1", tenant) == 0


class TestFailure:
    async def test_a_failed_handler_is_rolled_back_and_retried(
        self, consumer: Consumer, handler: FakeHandler, publish: Publish, results: Results
    ) -> None:
        handler.failures = [RuntimeError("once"), RuntimeError("twice")]
        await publish()
        assert await eventually(results.effects) == ["effect of b"]
        assert handler.tries == 3
        assert await results.dead_letters() == []

    async def test_after_five_deliveries_the_event_is_dead_lettered(
        self, consumer: Consumer, handler: FakeHandler, publish: Publish, results: Results
    ) -> None:
        handler.failing = RuntimeError("broken")
        event_id = await publish()
        (letter,) = await eventually(results.dead_letters)
        assert (letter["event_id"], letter["consumer"], letter["deliveries"]) == (event_id, consumer.name, 5)
        assert "broken" in letter["error"]
        assert (letter["actor"], handler.tries) == ("carol", 5)
        assert await results.effects() == []

    async def test_a_dead_letter_does_not_delay_other_events(
        self, consumer: Consumer, handler: FakeHandler, publish: Publish, results: Results
    ) -> None:
        handler.failures = [RuntimeError("broken")] * 5
        await publish(body=b"this is not JSON")
        await publish("good")
        handler.failures = []
        await eventually(lambda: _has_effect("effect of good", results))
        assert len(await eventually(results.dead_letters)) == 1

    @pytest.mark.parametrize(
        "transient",
        [Unavailable("x"), DeadlineExceeded(), Conflict(), Overloaded(), ConnectionRefusedError(), TimeoutError()],
        ids=repr,
    )
    async def test_transient_failures_are_never_dead_lettered(
        self,
        consumer: Consumer,
        handler: FakeHandler,
        publish: Publish,
        results: Results,
        transient: BaseException,
    ) -> None:
        handler.failures = [transient] * 8
        await publish()
        assert await eventually(results.effects) == ["effect of b"]
        assert handler.tries == 9
        assert await results.dead_letters() == []

    @pytest.mark.parametrize(
        ("body", "headers"),
        [
            (b"{}", {"ce_id": "not-a-uuid"}),
            (b"{}", {"ce_id": ""}),
            (b"\xff\xfe", {}),
            (b'{"budget_id": "\0"}', {}),
            (b"{}", {"ce_time": "yesterday"}),
        ],
    )
    async def test_a_message_in_another_format_is_dropped(
        self, consumer: Consumer, handler: FakeHandler, publish: Publish, results: Results, body: bytes,
        headers: dict[str, str], jetstream: JetStreamContext,
    ) -> None:  # fmt: skip
        await publish(body=body, **headers)
        await publish("after")
        await eventually(lambda: _has_effect("effect of after", results))
        await eventually(lambda: _has_handled_all(consumer, jetstream))
        assert await results.dead_letters() == []
