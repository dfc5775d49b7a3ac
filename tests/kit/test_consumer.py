"""Every event has its effect once; one that can't have it is put aside, told, and may be tried again."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing.budgets.v1.events_pb2 import BudgetClosed
from billing.operations.v1.operations_service_pb2 import (
    GetVersionRequest,
    ListDeadLettersRequest,
    RedriveDeadLetterRequest,
)
from billing.operations.v1.operations_service_pb2_grpc import OperationsServiceStub
from google.protobuf import json_format
from grpc import StatusCode, aio
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from eventing import bus, outbox
from eventing.consumer import Consumer, Handler, on
from kit import tasks
from kit.db import Database, WriteSession
from kit.errors import Conflict, DeadlineExceeded, FailedPrecondition, Overloaded, Unavailable
from kit.origin import Origin
from kit.settings import Settings
from kit.telemetry import Trace
from serving.calls import CallPipeline
from serving.operations import OperationsServicer
from serving.pages import Pages
from tests.harness.callers import Caller, refusal
from tests.harness.observe import eventually
from tests.kit.conftest import NoScopes

Pool = asyncpg.Pool


class NotYet(FailedPrecondition):
    reason = "NOT_YET"


class Reaction:
    """A handler that counts, has an effect in the database, and fails as often as it is told to."""

    def __init__(self, tenant_id: UUID) -> None:
        self.tenant_id = tenant_id
        self.tries = 0
        self.failures: list[BaseException] = []
        self.failing: BaseException | None = None
        self.seen: list[WriteSession] = []

    async def react(self, tx: WriteSession, event: BudgetClosed) -> None:
        if tx.tenant_id != self.tenant_id:  # said by another test
            return
        self.tries += 1
        outbox.append(tx, BudgetClosed(budget_id=f"effect of {event.budget_id}"))
        await tx.flush()
        self.seen.append(tx)
        if self.failures:
            raise self.failures.pop()
        if self.failing:
            raise self.failing


@pytest.fixture
def reaction(tenant: UUID) -> Reaction:
    return Reaction(tenant)


@pytest.fixture
async def consumer(
    db: Database, jetstream: JetStreamContext, reaction: Reaction, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Consumer]:
    """A consumer of its own name, that takes its time between tries in milliseconds."""
    monkeypatch.setattr(Consumer, "retry_delays_s", (0.01,))
    consumer = Consumer(db, "budgets", Handler(f"react_{uuid4().hex}", BudgetClosed, reaction.react))
    async with consuming(consumer, jetstream):
        yield consumer


@contextlib.asynccontextmanager
async def consuming(consumer: Consumer, jetstream: JetStreamContext) -> AsyncIterator[None]:
    task = asyncio.create_task(consumer.run(jetstream))
    try:
        yield
    finally:
        await tasks.cancel_and_wait(task)
        with contextlib.suppress(NotFoundError):  # a replica was here
            await jetstream.delete_consumer(bus.STREAM, consumer.name.replace(".", "_"))


@pytest.fixture
def tell(jetstream: JetStreamContext, tenant: UUID) -> Callable[..., Awaitable[UUID]]:
    """Publishes an event as a relay does; `body`, `subject` and headers may be anything."""

    async def publish(budget_id: str = "b", *, event_id: UUID | None = None, body: bytes = b"", **headers: str) -> UUID:
        id = event_id or uuid4()
        body = body or json_format.MessageToJson(BudgetClosed(budget_id=budget_id)).encode()
        given: Mapping[str, str] = {
            "ce-id": str(id), "ce-actor": "carol", "traceparent": Trace.from_header(None).header(),
        } | {name.replace("_", "-"): value for name, value in headers.items()}  # fmt: skip
        await jetstream.publish(f"billing.budgets.v1.BudgetClosed.{tenant.hex}", body, headers=dict(given))
        return id

    return publish


class Seen:
    """What came of it, in the database."""

    def __init__(self, admin: "Pool[asyncpg.Record]", tenant_id: UUID) -> None:
        self._admin, self._tenant_id = admin, tenant_id

    async def effects(self) -> list[str]:
        rows = await self._admin.fetch("select body from budgets.outbox where tenant_id = $1", self._tenant_id)
        return [json_format.Parse(row["body"], BudgetClosed()).budget_id for row in rows]

    async def entered(self, consumer: str) -> int:
        """How many events are in the inbox of a consumer."""
        counted = "select count(*) from budgets.inbox where tenant_id = $1 and consumer = $2"
        count: int = await self._admin.fetchval(counted, self._tenant_id, consumer)
        return count

    async def letters(self) -> list[asyncpg.Record]:
        return await self._admin.fetch("select * from budgets.dead_letters where tenant_id = $1", self._tenant_id)


@pytest.fixture
def seen(kit_admin: "Pool[asyncpg.Record]", tenant: UUID) -> Seen:
    return Seen(kit_admin, tenant)


Tell = Callable[..., Awaitable[UUID]]


class TestEffect:
    async def test_an_event_has_its_effect_for_its_tenant_and_in_its_trace(
        self, consumer: Consumer, reaction: Reaction, tell: Tell, seen: Seen, tenant: UUID
    ) -> None:
        trace = Trace.from_header(None)
        await tell("b", traceparent=trace.header())
        assert await eventually(seen.effects) == ["effect of b"]
        origin = reaction.seen[0].origin
        assert (origin.tenant_id, origin.actor, origin.trace.trace_id) == (tenant, "carol", trace.trace_id)

    async def test_what_is_delivered_twice_has_it_once(
        self, consumer: Consumer, reaction: Reaction, tell: Tell, seen: Seen
    ) -> None:
        event_id = await tell("one")
        await tell("one", event_id=event_id)
        await tell("one", event_id=event_id)
        await tell("last")
        await eventually(lambda: _among("effect of last", seen))
        assert sorted(await seen.effects()) == ["effect of last", "effect of one"]
        assert reaction.tries == 2

    async def test_two_replicas_share_the_work(
        self, consumer: Consumer, db: Database, jetstream: JetStreamContext, tell: Tell, seen: Seen, reaction: Reaction
    ) -> None:
        replica = Consumer(db, "budgets", consumer._handler)
        async with consuming(replica, jetstream):
            for number in range(40):
                await tell(str(number))
            await eventually(lambda: _so_many(40, seen))
        assert reaction.tries == 40

    async def test_two_consumers_have_an_effect_each(
        self, consumer: Consumer, db: Database, jetstream: JetStreamContext, tell: Tell, seen: Seen, reaction: Reaction
    ) -> None:
        other = Consumer(db, "budgets", Handler(f"other_{uuid4().hex}", BudgetClosed, reaction.react))
        async with consuming(other, jetstream):
            await tell()
            await eventually(lambda: _so_many(2, seen))

    async def test_what_does_not_concern_it_is_let_go_without_a_trace(
        self, db: Database, jetstream: JetStreamContext, tell: Tell, seen: Seen, reaction: Reaction
    ) -> None:
        picky = Handler(
            f"picky_{uuid4().hex}", BudgetClosed, reaction.react, accepts=lambda event: event.budget_id != "b"
        )
        consumer = Consumer(db, "budgets", picky)
        async with consuming(consumer, jetstream):
            await tell("b")
            await tell("c")
            assert await eventually(seen.effects) == ["effect of c"]
        assert (reaction.tries, await seen.entered(consumer.name)) == (1, 1)

    async def test_a_field_we_do_not_know_yet_does_no_harm(self, consumer: Consumer, tell: Tell, seen: Seen) -> None:
        await tell(body=b'{"budget_id": "b", "of_a_later_version": {"x": 1}}')
        assert await eventually(seen.effects) == ["effect of b"]

    async def test_what_is_under_way_when_told_to_stop_is_finished(
        self, db: Database, jetstream: JetStreamContext, tell: Tell, seen: Seen, reaction: Reaction, tenant: UUID
    ) -> None:
        began = asyncio.Event()

        async def slow(tx: WriteSession, event: BudgetClosed) -> None:
            if tx.tenant_id == tenant:  # a new consumer hears what was said to others before, too
                began.set()
            await asyncio.sleep(0.1)
            await reaction.react(tx, event)

        slow_consumer = Consumer(db, "budgets", Handler(f"slow_{uuid4().hex}", BudgetClosed, slow))
        async with consuming(slow_consumer, jetstream):
            await tell()
            await asyncio.wait_for(began.wait(), 5)
        assert await seen.effects() == ["effect of b"]

    async def test_it_stops_whenever_it_is_told_to(
        self, db: Database, jetstream: JetStreamContext, tell: Tell, reaction: Reaction
    ) -> None:
        """At some moments the NATS client swallows the cancellation."""
        consumer = Consumer(db, "budgets", Handler(f"stopped_{uuid4().hex}", BudgetClosed, reaction.react))
        for turn in range(60):
            running = asyncio.create_task(consumer.run(jetstream))
            telling = asyncio.gather(*(tell(str(number)) for number in range(3)))
            await asyncio.sleep(turn % 30 * 0.0005)
            await asyncio.wait_for(tasks.cancel_and_wait(running, retry_s=0.02), 5)
            await telling
        await jetstream.delete_consumer(bus.STREAM, consumer.name.replace(".", "_"))

    def test_a_handler_is_named_by_its_function(self) -> None:
        @on(BudgetClosed)
        async def do_what_must_be_done(tx: WriteSession, event: BudgetClosed) -> None: ...

        assert do_what_must_be_done.name == "do_what_must_be_done"
        assert do_what_must_be_done.subject == "billing.budgets.v1.BudgetClosed.*"


async def _among(effect: str, seen: Seen) -> bool:
    return effect in await seen.effects()


async def _so_many(count: int, seen: Seen) -> bool:
    return len(await seen.effects()) == count


class TestOutside:
    async def test_a_handler_of_its_own_transactions_is_given_many_at_once_and_tried_again(
        self, db: Database, jetstream: JetStreamContext, tell: Tell, seen: Seen, tenant: UUID,
        kit_admin: "Pool[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(Consumer, "retry_delays_s", (0.01,))
        arrived, all_there, failures = [], asyncio.Event(), [RuntimeError("once")]

        @on(BudgetClosed, own_transaction=True)
        async def react_outside(_: object, origin: Origin, event: BudgetClosed) -> None:
            if origin.tenant_id != tenant:  # said by another test
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
            await tell(str(number))
        async with consuming(Consumer(db, "budgets", react_outside), jetstream):
            await eventually(lambda: _so_many(40, seen))
        assert len(arrived) == 41
        assert await kit_admin.fetchval("select count(*) from budgets.inbox where tenant_id = $1", tenant) == 0


class TestFailure:
    async def test_one_that_fails_is_tried_again_and_leaves_no_half(
        self, consumer: Consumer, reaction: Reaction, tell: Tell, seen: Seen
    ) -> None:
        reaction.failures = [RuntimeError("once"), RuntimeError("twice")]
        await tell()
        assert await eventually(seen.effects) == ["effect of b"]
        assert reaction.tries == 3
        assert await seen.letters() == []

    async def test_after_five_deliveries_it_is_put_aside_with_its_error(
        self, consumer: Consumer, reaction: Reaction, tell: Tell, seen: Seen
    ) -> None:
        reaction.failing = RuntimeError("broken")
        event_id = await tell()
        (letter,) = await eventually(seen.letters)
        assert (letter["event_id"], letter["consumer"], letter["deliveries"]) == (event_id, consumer.name, 5)
        assert "broken" in letter["error"]
        assert (letter["actor"], reaction.tries) == ("carol", 5)
        assert await seen.effects() == []

    async def test_one_that_is_put_aside_does_not_hold_up_the_others(
        self, consumer: Consumer, reaction: Reaction, tell: Tell, seen: Seen
    ) -> None:
        reaction.failures = [RuntimeError("broken")] * 5
        await tell(body=b"this is not JSON")
        await tell("good")
        reaction.failures = []
        await eventually(lambda: _among("effect of good", seen))
        assert len(await eventually(seen.letters)) == 1

    @pytest.mark.parametrize(
        "passing",
        [Unavailable("x"), DeadlineExceeded(), Conflict(), Overloaded(), ConnectionRefusedError(), TimeoutError()],
        ids=repr,
    )
    async def test_what_passes_is_never_put_aside(
        self, consumer: Consumer, reaction: Reaction, tell: Tell, seen: Seen, passing: BaseException
    ) -> None:
        reaction.failures = [passing] * 8
        await tell()
        assert await eventually(seen.effects) == ["effect of b"]
        assert reaction.tries == 9
        assert await seen.letters() == []

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
    async def test_what_is_not_ours_is_dropped_for_good(
        self, consumer: Consumer, reaction: Reaction, tell: Tell, seen: Seen, body: bytes, headers: dict[str, str],
        jetstream: JetStreamContext,
    ) -> None:  # fmt: skip
        await tell(body=body, **headers)
        await tell("after")
        await eventually(lambda: _among("effect of after", seen))

        async def nothing_is_left() -> bool:
            info = await jetstream.consumer_info("BILLING", consumer.name.replace(".", "_"))
            return (info.num_ack_pending, info.num_pending) == (0, 0)

        await eventually(nothing_is_left)
        assert await seen.letters() == []


class Operators:
    """The operations of a service over gRPC."""

    def __init__(self, channel: aio.Channel) -> None:
        self.stub = OperationsServiceStub(channel)


@pytest.fixture
async def operations(
    db: Database, consumer: Consumer, kit_settings: Callable[..., Settings]
) -> AsyncIterator[OperationsServiceStub]:
    settings = kit_settings()
    server = aio.server()
    servicer = OperationsServicer("budgets", db, Pages(settings), [consumer])
    server.add_generic_rpc_handlers([CallPipeline(settings, NoScopes()).handler_for(servicer)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield OperationsServiceStub(channel)
    await server.stop(None)


class TestDeadLetters:
    @pytest.fixture
    async def letter(self, reaction: Reaction, tell: Tell, seen: Seen, consumer: Consumer) -> asyncpg.Record:
        reaction.failing = RuntimeError("broken")
        await tell()
        return (await eventually(seen.letters))[0]

    @pytest.fixture
    def operator(self, caller: Callable[..., Caller]) -> Caller:
        return caller("billing_admin")

    async def test_it_is_listed(
        self, operations: OperationsServiceStub, operator: Caller, letter: asyncpg.Record, consumer: Consumer
    ) -> None:
        listed = await operator.call(operations.ListDeadLetters, ListDeadLettersRequest())
        (told,) = listed.dead_letters
        assert (told.event_id, told.consumer, told.deliveries) == (str(letter["event_id"]), consumer.name, 5)
        assert (told.body, told.subject, told.error) == (letter["body"], letter["subject"], letter["error"])
        assert abs(told.create_time.seconds - time.time()) < 60

    async def test_redriven_it_has_its_effect_and_is_gone(
        self, operations: OperationsServiceStub, operator: Caller, letter: asyncpg.Record, reaction: Reaction,
        seen: Seen,
    ) -> None:  # fmt: skip
        reaction.failing = None
        request = RedriveDeadLetterRequest(consumer=letter["consumer"], event_id=str(letter["event_id"]))
        assert (await operator.call(operations.RedriveDeadLetter, request)).event_id == str(letter["event_id"])
        assert await seen.effects() == ["effect of b"]
        assert await seen.letters() == []
        again = await refusal(operator.call(operations.RedriveDeadLetter, request))
        assert (again.code, again.reason) == (StatusCode.NOT_FOUND, "DEAD_LETTER_NOT_FOUND")
        assert await seen.effects() == ["effect of b"]

    async def test_when_it_fails_again_it_stays_with_the_new_error_and_the_reason_is_told(
        self, operations: OperationsServiceStub, operator: Caller, letter: asyncpg.Record, reaction: Reaction,
        seen: Seen,
    ) -> None:  # fmt: skip
        reaction.failing = NotYet("It is too early.")
        request = RedriveDeadLetterRequest(consumer=letter["consumer"], event_id=str(letter["event_id"]))
        assert (await refusal(operator.call(operations.RedriveDeadLetter, request))).reason == "NOT_YET"
        (kept,) = await seen.letters()
        assert "too early" in kept["error"]
        assert await seen.effects() == []

    async def test_another_tenant_neither_sees_nor_redrives_it(
        self,
        operations: OperationsServiceStub,
        letter: asyncpg.Record,
        caller: Callable[..., Caller],
        reaction: Reaction,
    ) -> None:
        reaction.failing = None
        stranger = caller("billing_admin", tenant=uuid4())
        assert not (await stranger.call(operations.ListDeadLetters, ListDeadLettersRequest())).dead_letters
        request = RedriveDeadLetterRequest(consumer=letter["consumer"], event_id=str(letter["event_id"]))
        refused = await refusal(stranger.call(operations.RedriveDeadLetter, request))
        unknown = RedriveDeadLetterRequest(consumer=letter["consumer"], event_id=str(uuid4()))
        assert refused == await refusal(stranger.call(operations.RedriveDeadLetter, unknown))

    async def test_only_operators_may(
        self, operations: OperationsServiceStub, caller: Callable[..., Caller], letter: asyncpg.Record
    ) -> None:
        for role in ("finance", "auditor", "viewer"):
            calls: list[Any] = [
                caller(role).call(operations.ListDeadLetters, ListDeadLettersRequest()),
                caller(role).call(
                    operations.RedriveDeadLetter,
                    RedriveDeadLetterRequest(consumer=letter["consumer"], event_id=str(letter["event_id"])),
                ),
            ]
            for call in calls:
                assert (await refusal(call)).reason == "PERMISSION_MISSING"

    async def test_the_version_is_told(self, operations: OperationsServiceStub, operator: Caller) -> None:
        version = await operator.call(operations.GetVersion, GetVersionRequest())
        assert (version.service, version.version) == ("budgets", "0.1.0")
