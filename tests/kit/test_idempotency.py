"""One effect and one reply per key: repeated, concurrent, after a restart, with another input."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from grpc import StatusCode, aio
from sqlalchemy import func, select

from kit import idempotency
from kit.db import Database
from kit.errors import FailedPrecondition
from kit.origin import Call
from kit.settings import Settings
from serving.operations import DeadLetterRow
from tests.harness.callers import Caller, refusal
from tests.kit.conftest import ServedProbe, serve_probe
from tests.kit.probe import DoReply, DoRequest


class Refused(FailedPrecondition):
    reason = "REFUSED"


class CountingHandler:
    """A handler that inserts one row per execution, so that executions can be counted."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.rejecting = False

    async def handle(self, request: Any, call: Call) -> DoReply:
        async with self.db.write(call) as tx:
            if self.rejecting:
                raise Refused("Not now.")
            row = DeadLetterRow(
                consumer=request.name, event_id=uuid4(), subject="", body="", actor="", traceparent="", error="",
                deliveries=1,
            )  # fmt: skip
            tx.add(row)
            await tx.flush()
            return await tx.answer(DoReply(text=str(row.id)))

    async def effects(self, call: Call) -> int:
        async with self.db.read(call) as tx:
            return (await tx.rows(select(func.count(), func.count()).select_from(DeadLetterRow)))[0][0]


@pytest.fixture
def handler(db: Database, probe: ServedProbe) -> CountingHandler:
    handler = CountingHandler(db)
    probe.servicer.on_call = handler.handle
    return handler


def keyed_request(key: str = "k-1", name: str = "one") -> DoRequest:
    return DoRequest(name=name, request_id=key)


class TestKey:
    async def test_the_same_key_returns_the_same_bytes_marked_as_replayed(
        self, probe: ServedProbe, handler: CountingHandler, finance: Caller, call: Callable[..., Call]
    ) -> None:
        async with aio.insecure_channel(probe.address) as channel:
            raw: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/billing.probe.v1.ProbeService/Do")
            answers, trailers = [], []
            for _ in range(3):
                running_call = raw(keyed_request().SerializeToString(), metadata=finance.metadata)
                answers.append(await running_call)
                trailers.append(dict(await running_call.trailing_metadata() or ()).get("idempotency-replayed"))
        assert len(set(answers)) == 1
        assert trailers == [None, "true", "true"]
        assert await handler.effects(call()) == 1

    async def test_another_input_with_the_same_key_is_a_mismatch(
        self, probe: ServedProbe, handler: CountingHandler, finance: Caller, call: Callable[..., Call]
    ) -> None:
        await finance.call(probe.stub.Do, keyed_request())
        refused = await refusal(finance.call(probe.stub.Do, keyed_request(name="two")))
        assert (refused.code, refused.reason) == (StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_MISMATCH")
        assert refused.metadata == {"request_id": "k-1"}
        assert await handler.effects(call()) == 1

    async def test_the_key_of_another_caller_is_a_mismatch(
        self, probe: ServedProbe, handler: CountingHandler, finance: Caller, caller: Callable[..., Caller]
    ) -> None:
        await finance.call(probe.stub.Do, keyed_request())
        refused = await refusal(caller(subject="bob").call(probe.stub.Do, keyed_request()))
        assert refused.reason == "IDEMPOTENCY_MISMATCH"
        assert refused.message == "The key 'k-1' was used before by another user; use a new key."

    async def test_keys_of_different_tenants_are_independent(
        self, probe: ServedProbe, handler: CountingHandler, finance: Caller, caller: Callable[..., Caller]
    ) -> None:
        mine = await finance.call(probe.stub.Do, keyed_request())
        theirs = await caller(tenant=uuid4()).call(probe.stub.Do, keyed_request())
        assert mine.text != theirs.text

    async def test_calls_without_a_key_are_not_deduplicated(
        self, probe: ServedProbe, handler: CountingHandler, finance: Caller, call: Callable[..., Call]
    ) -> None:
        for _ in range(2):
            await finance.call(probe.stub.Do, DoRequest(name="one"))
        assert await handler.effects(call()) == 2

    async def test_concurrent_calls_have_one_effect_and_one_reply(
        self, probe: ServedProbe, handler: CountingHandler, finance: Caller, call: Callable[..., Call]
    ) -> None:
        for number in range(5):
            key = f"raced-{number}"
            answers = await asyncio.gather(*(finance.call(probe.stub.Do, keyed_request(key)) for _ in range(8)))
            assert len({answer.text for answer in answers}) == 1
            assert await handler.effects(call()) == number + 1

    async def test_concurrent_calls_with_different_inputs_have_one_effect(
        self, probe: ServedProbe, handler: CountingHandler, finance: Caller, call: Callable[..., Call]
    ) -> None:
        calls = [finance.call(probe.stub.Do, keyed_request(name=str(number))) for number in range(8)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
        assert await handler.effects(call()) == 1

    async def test_errors_are_not_stored(self, probe: ServedProbe, handler: CountingHandler, finance: Caller) -> None:
        handler.rejecting = True
        assert (await refusal(finance.call(probe.stub.Do, keyed_request()))).reason == "REFUSED"
        handler.rejecting = False
        assert (await finance.call(probe.stub.Do, keyed_request())).text

    async def test_a_handler_that_does_not_store_its_reply_is_rolled_back(
        self, probe: ServedProbe, handler: CountingHandler, finance: Caller
    ) -> None:
        async def forgetful(request: Any, call: Call) -> DoReply:
            async with handler.db.write(call) as tx:
                row = DeadLetterRow(
                    consumer="x",
                    event_id=uuid4(),
                    subject="",
                    body="",
                    actor="",
                    traceparent="",
                    error="",
                    deliveries=1,
                )
                tx.add(row)
                return DoReply()

        probe.servicer.on_call = forgetful
        assert (await refusal(finance.call(probe.stub.Do, keyed_request()))).reason == "INTERNAL"
        assert await handler.effects(probe.servicer.calls[0]) == 0
        await finance.call(probe.stub.Do, DoRequest(name="without a key"))

    async def test_keys_survive_a_restart(
        self, probe: ServedProbe, handler: CountingHandler, finance: Caller, kit_settings: Callable[..., Settings]
    ) -> None:
        first = await finance.call(probe.stub.Do, keyed_request())
        async with serve_probe(kit_settings()) as restarted:
            db = Database(kit_settings())
            restarted.servicer.on_call = CountingHandler(db).handle
            again, trailers = await finance.call_with_trailers(restarted.stub.Do, keyed_request())
            await db.close()
        assert again.text == first.text
        assert trailers["idempotency-replayed"] == "true"

    async def test_a_call_cancelled_at_any_moment_has_one_effect_with_its_key(
        self, probe: ServedProbe, handler: CountingHandler, finance: Caller, call: Callable[..., Call]
    ) -> None:
        """Cancel a call at different moments, then repeat it with the same key."""
        for number in range(25):
            running_call = probe.stub.Do(keyed_request(f"cut-{number}"), metadata=finance.metadata)
            await asyncio.sleep(number * 0.0004)
            running_call.cancel()
            await asyncio.gather(running_call, return_exceptions=True)
            await finance.call(probe.stub.Do, keyed_request(f"cut-{number}"))
            assert await handler.effects(call()) == number + 1

    async def test_keys_are_stored_in_the_schema_of_the_service(
        self,
        probe: ServedProbe,
        handler: CountingHandler,
        finance: Caller,
        tenant: UUID,
        kit_admin: "asyncpg.Pool[asyncpg.Record]",
    ) -> None:  # fmt: skip
        await finance.call(probe.stub.Do, keyed_request())
        (row,) = await kit_admin.fetch("select * from budgets.idempotency_keys where tenant_id = $1", tenant)
        assert (row["method"], row["key"], len(row["fingerprint"])) == ("billing.probe.v1.ProbeService/Do", "k-1", 40)

    async def test_replies_of_many_keys_are_found_in_one_query(
        self, probe: ServedProbe, handler: CountingHandler, finance: Caller, call: Callable[..., Call]
    ) -> None:
        replies = {key: await finance.call(probe.stub.Do, keyed_request(key)) for key in ("k-1", "k-2")}
        keys = [call().tenant_id] * 3, ["billing.probe.v1.ProbeService/Do"] * 3, ["k-1", "k-2", "unused"]
        query = (
            "select k.key, i.reply from unnest($1::uuid[], $2::text[], $3::text[]) k (tenant_id, method, key)"
            f" cross join lateral {idempotency.lookup('k')} i"
        )
        async with handler.db.read(call()) as tx:
            rows = await tx.fetch(query, *keys)
        assert {row["key"]: DoReply.FromString(row["reply"]) for row in rows} == replies
