"""One key, one effect, one answer: repeated, raced, after a restart, and with another input."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from grpc import StatusCode, aio
from sqlalchemy import func, select

from kit.db import Database
from kit.errors import FailedPrecondition
from kit.origin import Call
from kit.settings import Settings
from serving.operations import DeadLetterRow
from tests.harness.callers import Caller, refusal
from tests.kit.conftest import Probed, probed
from tests.kit.probe import DoReply, DoRequest


class Refused(FailedPrecondition):
    reason = "REFUSED"


class Ledger:
    """A handler with an effect that can be counted: one row for each time that it was done."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.refusing = False

    async def do(self, request: Any, call: Call) -> DoReply:
        async with self.db.write(call) as tx:
            if self.refusing:
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
def ledger(db: Database, probe: Probed) -> Ledger:
    ledger = Ledger(db)
    probe.servicer.does = ledger.do
    return ledger


def keyed(key: str = "k-1", name: str = "one") -> DoRequest:
    return DoRequest(name=name, request_id=key)


class TestKey:
    async def test_the_same_key_gives_the_same_bytes_and_says_so(
        self, probe: Probed, ledger: Ledger, finance: Caller, call: Callable[..., Call]
    ) -> None:
        async with aio.insecure_channel(probe.address) as channel:
            raw: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/billing.probe.v1.ProbeService/Do")
            answers, trailers = [], []
            for _ in range(3):
                under_way = raw(keyed().SerializeToString(), metadata=finance.metadata)
                answers.append(await under_way)
                trailers.append(dict(await under_way.trailing_metadata() or ()).get("idempotency-replayed"))
        assert len(set(answers)) == 1
        assert trailers == [None, "true", "true"]
        assert await ledger.effects(call()) == 1

    async def test_another_input_is_a_mismatch_and_has_no_effect(
        self, probe: Probed, ledger: Ledger, finance: Caller, call: Callable[..., Call]
    ) -> None:
        await finance.call(probe.stub.Do, keyed())
        refused = await refusal(finance.call(probe.stub.Do, keyed(name="two")))
        assert (refused.code, refused.reason) == (StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_MISMATCH")
        assert refused.metadata == {"request_id": "k-1"}
        assert await ledger.effects(call()) == 1

    async def test_somebody_elses_key_is_a_mismatch(
        self, probe: Probed, ledger: Ledger, finance: Caller, caller: Callable[..., Caller]
    ) -> None:
        await finance.call(probe.stub.Do, keyed())
        refused = await refusal(caller(subject="bob").call(probe.stub.Do, keyed()))
        assert refused.reason == "IDEMPOTENCY_MISMATCH"

    async def test_another_tenants_key_is_another_key(
        self, probe: Probed, ledger: Ledger, finance: Caller, caller: Callable[..., Caller]
    ) -> None:
        mine = await finance.call(probe.stub.Do, keyed())
        theirs = await caller(tenant=uuid4()).call(probe.stub.Do, keyed())
        assert mine.text != theirs.text

    async def test_without_a_key_every_call_counts(
        self, probe: Probed, ledger: Ledger, finance: Caller, call: Callable[..., Call]
    ) -> None:
        for _ in range(2):
            await finance.call(probe.stub.Do, DoRequest(name="one"))
        assert await ledger.effects(call()) == 2

    async def test_many_at_once_have_one_effect_and_one_answer(
        self, probe: Probed, ledger: Ledger, finance: Caller, call: Callable[..., Call]
    ) -> None:
        for number in range(5):
            key = f"raced-{number}"
            answers = await asyncio.gather(*(finance.call(probe.stub.Do, keyed(key)) for _ in range(8)))
            assert len({answer.text for answer in answers}) == 1
            assert await ledger.effects(call()) == number + 1

    async def test_many_at_once_with_other_inputs_have_one_effect(
        self, probe: Probed, ledger: Ledger, finance: Caller, call: Callable[..., Call]
    ) -> None:
        calls = [finance.call(probe.stub.Do, keyed(name=str(number))) for number in range(8)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
        assert await ledger.effects(call()) == 1

    async def test_a_refusal_is_not_kept(self, probe: Probed, ledger: Ledger, finance: Caller) -> None:
        ledger.refusing = True
        assert (await refusal(finance.call(probe.stub.Do, keyed()))).reason == "REFUSED"
        ledger.refusing = False
        assert (await finance.call(probe.stub.Do, keyed())).text

    async def test_a_handler_that_forgets_to_keep_its_answer_does_nothing(
        self, probe: Probed, ledger: Ledger, finance: Caller
    ) -> None:
        async def forgetful(request: Any, call: Call) -> DoReply:
            async with ledger.db.write(call) as tx:
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

        probe.servicer.does = forgetful
        assert (await refusal(finance.call(probe.stub.Do, keyed()))).reason == "INTERNAL"
        assert await ledger.effects(probe.servicer.calls[0]) == 0
        await finance.call(probe.stub.Do, DoRequest(name="without a key"))

    async def test_a_restarted_service_still_knows_it(
        self, probe: Probed, ledger: Ledger, finance: Caller, kit_settings: Callable[..., Settings]
    ) -> None:
        first = await finance.call(probe.stub.Do, keyed())
        async with probed(kit_settings()) as restarted:
            db = Database(kit_settings())
            restarted.servicer.does = Ledger(db).do
            again, trailers = await finance.call_with_trailers(restarted.stub.Do, keyed())
            await db.close()
        assert again.text == first.text
        assert trailers["idempotency-replayed"] == "true"

    async def test_what_was_done_for_a_caller_who_left_is_found_with_the_key(
        self, probe: Probed, ledger: Ledger, finance: Caller, call: Callable[..., Call]
    ) -> None:
        """Cut the call at every moment of its way: with the key it is done once, whenever it was cut."""
        for number in range(25):
            under_way = probe.stub.Do(keyed(f"cut-{number}"), metadata=finance.metadata)
            await asyncio.sleep(number * 0.0004)
            under_way.cancel()
            await asyncio.gather(under_way, return_exceptions=True)
            await finance.call(probe.stub.Do, keyed(f"cut-{number}"))
            assert await ledger.effects(call()) == number + 1

    async def test_keys_are_kept_with_the_data(
        self, probe: Probed, ledger: Ledger, finance: Caller, tenant: UUID, kit_admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        await finance.call(probe.stub.Do, keyed())
        (row,) = await kit_admin.fetch("select * from budgets.idempotency_keys where tenant_id = $1", tenant)
        assert (row["method"], row["key"], len(row["fingerprint"])) == ("billing.probe.v1.ProbeService/Do", "k-1", 32)
