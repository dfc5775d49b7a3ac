"""The way of every call: who may, with what, for how long, and what a caller is told when it goes wrong."""

import asyncio
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from billing.budgets.v1.budget_pb2 import Budget
from grpc import StatusCode, aio
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from kit import ids
from kit.auth import ServiceTokens
from kit.errors import FailedPrecondition
from kit.origin import Call
from kit.settings import Settings
from kit.telemetry import SERVER_DURATION
from serving.calls import CallPipeline
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.observe import eventually
from tests.kit.conftest import NoScopes, ServedProbe, serve_probe
from tests.kit.probe import FILE, DoReply, DoRequest, InsideRequest, ListRequest, Probe

Log = list[dict[str, Any]]


class BudgetFull(FailedPrecondition):
    reason = "BUDGET_FULL"


def on_call(probe: ServedProbe, raised: BaseException) -> None:
    """Let the handler raise."""

    async def fail(request: Any, call: Call) -> DoReply:
        raise raised

    probe.servicer.on_call = fail


class TestWho:
    async def test_a_good_call_is_answered(self, probe: ServedProbe, finance: Caller) -> None:
        assert (await finance.call(probe.stub.Do, DoRequest())).text == "Do"
        (call,) = probe.servicer.calls
        assert (call.tenant_id, call.actor) == (finance.tenant_id, "alice")
        assert call.method == "billing.probe.v1.ProbeService/Do"
        assert call.trace.trace_id == finance.trace.trace_id

    async def test_no_token(self, probe: ServedProbe) -> None:
        refused = await refusal(probe.stub.Do(DoRequest()))
        assert (refused.code, refused.reason) == (StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")

    async def test_a_bad_token(self, probe: ServedProbe) -> None:
        refused = await refusal(probe.stub.Do(DoRequest(), metadata=(("authorization", "Bearer a.b.c"),)))
        assert (refused.code, refused.reason) == (StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")

    async def test_an_expired_token(self, probe: ServedProbe, caller: Callable[..., Caller]) -> None:
        late = caller(exp=int(time.time()) - 60)
        refused = await refusal(late.call(probe.stub.Do, DoRequest()))
        assert (refused.code, refused.reason) == (StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")

    async def test_no_permission_is_told_before_what_is_wrong_with_the_input(
        self, probe: ServedProbe, caller: Callable[..., Caller]
    ) -> None:
        refused = await refusal(caller("viewer").call(probe.stub.Do, DoRequest(name="n" * 21)))
        assert (refused.code, refused.reason) == (StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")
        assert refused.metadata == {"permission": "budgets.write"}
        assert not probe.servicer.calls

    async def test_bad_input_does_not_reach_the_handler(self, probe: ServedProbe, finance: Caller) -> None:
        refused = await refusal(finance.call(probe.stub.Do, DoRequest(name="n" * 21, due_date="x")))
        assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
        assert set(refused.fields) == {"name", "due_date"}
        assert not probe.servicer.calls

    async def test_internal_methods_are_for_services(
        self, probe: ServedProbe, caller: Callable[..., Caller], tenant: UUID, kit_settings: Callable[..., Settings]
    ) -> None:
        for role in ("billing_admin", "service"):
            refused = await refusal(caller(role).call(probe.stub.Inside, InsideRequest()))
            assert refused.reason == "PERMISSION_MISSING"
        service = Caller(tenant, "budgets", ServiceTokens(kit_settings()).token(tenant))
        assert (await service.call(probe.stub.Inside, InsideRequest())).text == "Inside"
        assert (await refusal(service.call(probe.stub.Do, DoRequest()))).reason == "PERMISSION_MISSING"

    async def test_only_a_service_may_say_for_whom_it_calls(
        self, probe: ServedProbe, finance: Caller, tenant: UUID, kit_settings: Callable[..., Settings]
    ) -> None:
        named = ("x-actor", "Zo%C3%AB")
        await probe.stub.Do(DoRequest(), metadata=(*finance.metadata, named))
        service = Caller(tenant, "budgets", ServiceTokens(kit_settings()).token(tenant))
        await probe.stub.Inside(InsideRequest(), metadata=(*service.metadata, named))
        assert [call.actor for call in probe.servicer.calls] == ["alice", "Zoë"]

    async def test_a_confined_caller_gets_a_scope_and_others_none(
        self, probe: ServedProbe, caller: Callable[..., Caller]
    ) -> None:
        await caller().call(probe.stub.Do, DoRequest())
        await caller(entity_scope=[ids.ENTITY.format(ids.new())]).call(probe.stub.Do, DoRequest())
        free, confined = probe.servicer.calls
        assert free.scope is None
        assert confined.scope is not None

    async def test_bytes_that_are_no_message_are_a_bad_request(self, probe: ServedProbe, finance: Caller) -> None:
        async with aio.insecure_channel(probe.address) as channel:
            do: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/billing.probe.v1.ProbeService/Do")
            for raw in (b"\xff\xff\xff", b"\x12\x02\xc3\x28", b"\x0a\xff\xff\xff\xff\x0f"):
                refused = await refusal(do(raw, metadata=finance.metadata))
                assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "MALFORMED_BODY")

    async def test_a_method_that_is_not_there(self, probe: ServedProbe, finance: Caller) -> None:
        async with aio.insecure_channel(probe.address) as channel:
            undo: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/billing.probe.v1.ProbeService/Undo")
            refused = await refusal(undo(b""))
        assert refused.code is StatusCode.UNIMPLEMENTED


class TestHowLong:
    async def test_a_call_without_deadline_gets_the_default(self, probe: ServedProbe, finance: Caller) -> None:
        await probe.stub.Do(DoRequest(), metadata=finance.metadata)
        assert 9 < probe.servicer.calls[0].remaining_s() <= 10

    async def test_a_late_deadline_is_cut(self, probe: ServedProbe, finance: Caller) -> None:
        await probe.stub.Do(DoRequest(), metadata=finance.metadata, timeout=3600)
        assert 29 < probe.servicer.calls[0].remaining_s() <= 30

    async def test_an_early_deadline_is_kept(self, probe: ServedProbe, finance: Caller) -> None:
        await probe.stub.Do(DoRequest(), metadata=finance.metadata, timeout=5)
        assert 4 < probe.servicer.calls[0].remaining_s() < 5.2

    async def test_who_set_no_deadline_is_told_when_the_default_is_over(
        self, kit_settings: Callable[..., Settings], finance: Caller
    ) -> None:
        async with serve_probe(kit_settings(deadline_default_s=0.1)) as probe:
            probe.servicer.on_call = forever
            refused = await refusal(probe.stub.Do(DoRequest(), metadata=finance.metadata))
        assert (refused.code, refused.reason) == (StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")

    async def test_a_caller_who_leaves_ends_the_work(self, probe: ServedProbe, finance: Caller) -> None:
        ended = asyncio.Event()

        async def work(request: Any, call: Call) -> DoReply:
            try:
                return await forever(request, call)
            finally:
                ended.set()

        probe.servicer.on_call = work
        under_way = probe.stub.Do(DoRequest(), metadata=finance.metadata)
        await eventually(lambda: _true(probe.servicer.calls))
        under_way.cancel()
        await asyncio.wait_for(ended.wait(), 5)
        probe.servicer.on_call = probe.servicer._reply_with_method
        assert (await finance.call(probe.stub.Do, DoRequest())).text == "Do"


async def _true(value: object) -> bool:
    return bool(value)


async def forever(request: Any, call: Call) -> DoReply:
    await asyncio.sleep(3600)
    return DoReply()


class TestOverload:
    async def test_more_calls_than_fit_are_shed_and_room_comes_back(
        self, kit_settings: Callable[..., Settings], finance: Caller
    ) -> None:
        go_on = asyncio.Event()

        async def wait(request: Any, call: Call) -> DoReply:
            await go_on.wait()
            return DoReply(text="at last")

        async with serve_probe(kit_settings(calls_max=2)) as probe:
            probe.servicer.on_call = wait
            first = [asyncio.ensure_future(finance.call(probe.stub.Do, DoRequest())) for _ in range(2)]
            await eventually(lambda: _true(len(probe.servicer.calls) == 2))
            refused = await refusal(finance.call(probe.stub.Do, DoRequest()))
            assert (refused.code, refused.reason) == (StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            assert refused.retry_after_s == 0.5
            go_on.set()
            assert [reply.text for reply in await asyncio.gather(*first)] == ["at last"] * 2
            assert (await finance.call(probe.stub.Do, DoRequest())).text == "at last"

    async def test_refused_calls_leave_no_trace_in_the_count(self, probe: ServedProbe, finance: Caller) -> None:
        for _ in range(5):
            await refusal(probe.stub.Do(DoRequest()))
        on_call(probe, RuntimeError())
        await refusal(finance.call(probe.stub.Do, DoRequest()))
        assert probe.calls._active_calls == 0


class _Sqlstate(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(f"secret of {sqlstate}")
        self.sqlstate = sqlstate


def database_error(sqlstate: str) -> DBAPIError:
    return OperationalError("select secret", {}, _Sqlstate(sqlstate))


class TestWhatGoesWrong:
    async def refused(self, probe: ServedProbe, finance: Caller, raised: BaseException) -> Refusal:
        on_call(probe, raised)
        return await refusal(finance.call(probe.stub.Do, DoRequest()))

    async def test_a_refusal_is_told_with_its_numbers(self, probe: ServedProbe, finance: Caller) -> None:
        refused = await self.refused(probe, finance, BudgetFull("It is full.", room="1.00"))
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "BUDGET_FULL")
        assert (refused.message, refused.metadata) == ("It is full.", {"room": "1.00"})

    @pytest.mark.parametrize(
        "raised",
        [
            RuntimeError("secret"),
            KeyError("secret"),
            AssertionError("secret"),
            RecursionError("secret"),
            MemoryError("secret"),
            StopAsyncIteration("secret"),
            ExceptionGroup("secret", [ValueError("secret")]),
            database_error("42P01"),
            database_error("23505"),
            aio.AioRpcError(StatusCode.NOT_FOUND, aio.Metadata(), aio.Metadata(), "secret"),
        ],
        ids=lambda raised: type(raised).__name__,
    )
    async def test_a_fault_of_ours_says_nothing_but_an_id_that_is_in_the_log(
        self, probe: ServedProbe, finance: Caller, logs: Log, raised: Exception
    ) -> None:
        refused = await self.refused(probe, finance, raised)
        assert (refused.code, refused.reason) == (StatusCode.INTERNAL, "INTERNAL")
        assert "secret" not in str(refused)
        trace_id = finance.trace.trace_id
        (fault,) = [line for line in logs if line["event"] == "internal error" and line["trace_id"] == trace_id]
        assert fault["incident"] == refused.metadata["incident"]
        assert "secret" in fault["exception"]

    @pytest.mark.parametrize(
        ("raised", "code", "reason"),
        [
            (database_error("55P03"), StatusCode.ABORTED, "CONFLICT"),
            (database_error("40P01"), StatusCode.ABORTED, "CONFLICT"),
            (database_error("40001"), StatusCode.ABORTED, "CONFLICT"),
            (database_error("57014"), StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
            (database_error("08006"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
            (database_error("57P01"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
            (database_error("53300"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
            (PoolTimeout("secret"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
            (ConnectionRefusedError("secret"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
            (asyncpg.InterfaceError("secret"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
            (asyncpg.InternalClientError("secret"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
            (asyncpg.CannotConnectNowError("secret"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
            (TimeoutError("secret"), StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
            (asyncio.CancelledError("secret"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
        ],
        ids=lambda value: getattr(value, "sqlstate", None) or type(value).__name__,
    )
    async def test_what_passes_is_told_as_such(
        self, probe: ServedProbe, finance: Caller, raised: BaseException, code: StatusCode, reason: str
    ) -> None:
        refused = await self.refused(probe, finance, raised)
        assert (refused.code, refused.reason) == (code, reason)
        assert "secret" not in str(refused)

    async def test_a_reply_of_another_kind_leaks_nothing(self, probe: ServedProbe, finance: Caller) -> None:
        async def wrong(request: Any, call: Call) -> Any:
            return None

        probe.servicer.on_call = wrong
        refused = await refusal(finance.call(probe.stub.Do, DoRequest()))
        assert refused.code is StatusCode.INTERNAL
        assert "NoneType" not in refused.message


class TestWhatIsKept:
    async def test_a_call_is_logged_with_who_what_and_how_it_ended(
        self, probe: ServedProbe, finance: Caller, logs: Log
    ) -> None:
        await probe.stub.Do(DoRequest(), metadata=(*finance.metadata, ("x-request-id", "r-1")))
        (line,) = [line for line in logs if line["event"] == "call" and line["trace_id"] == finance.trace.trace_id]
        assert line["rpc_method"] == "billing.probe.v1.ProbeService/Do"
        assert (line["code"], line["request_id"]) == ("OK", "r-1")
        assert (line["tenant_id"], line["actor"]) == (str(finance.tenant_id), "alice")

    async def test_no_log_line_has_the_token(self, probe: ServedProbe, finance: Caller, logs: Log) -> None:
        on_call(probe, RuntimeError("broken"))
        await refusal(finance.call(probe.stub.Do, DoRequest()))
        assert logs
        assert finance.token not in str(logs)

    async def test_calls_are_counted_by_method_and_outcome(self, probe: ServedProbe, finance: Caller) -> None:
        method = "billing.probe.v1.ProbeService/List"
        before = {code: counted(method, code) for code in ("OK", "UNAUTHENTICATED")}
        await finance.call(probe.stub.List, ListRequest())
        await refusal(probe.stub.List(ListRequest()))

        async def both_were_counted() -> bool:  # which is done after the answer has left
            return {code: counted(method, code) - before[code] for code in before} == {"OK": 1, "UNAUTHENTICATED": 1}

        await eventually(both_were_counted)

    async def test_a_damaged_traceparent_starts_a_new_trace(self, probe: ServedProbe, finance: Caller) -> None:
        authorization, _ = finance.metadata
        for damaged in ("", "00-0-0-00", f"00-{'0' * 32}-{'1' * 16}-01", f"00-{'g' * 32}-{'1' * 16}-01"):
            await probe.stub.Do(DoRequest(), metadata=(authorization, ("traceparent", damaged)))
        trace_ids = {call.trace.trace_id for call in probe.servicer.calls}
        assert len(trace_ids) == 4
        assert all(len(trace_id) == 32 and int(trace_id, 16) for trace_id in trace_ids)


def counted(method: str, code: str) -> float:
    samples = SERVER_DURATION.labels(method, code)._child_samples()
    return next(sample.value for sample in samples if sample.name == "_count")


class TestRegistration:
    @pytest.fixture
    def calls(self, kit_settings: Callable[..., Settings]) -> CallPipeline:
        return CallPipeline(kit_settings(), NoScopes())

    def test_every_method_must_be_there(self, calls: CallPipeline) -> None:
        class Forgetful:
            service = Probe.service

        with pytest.raises(TypeError, match="has no method Do"):
            calls.handler_for(Forgetful())

    def test_a_method_takes_what_its_proto_says(self, calls: CallPipeline) -> None:
        class Mistaken(Probe):
            async def Do(self, request: ListRequest, call: Call) -> DoReply:  # type: ignore[override]  # the mistake
                return DoReply()

        with pytest.raises(TypeError, match=r"Mistaken\.Do differs from its proto"):
            calls.handler_for(Mistaken())

    def test_a_method_gives_what_its_proto_says(self, calls: CallPipeline) -> None:
        class Mistaken(Probe):
            async def Do(self, request: DoRequest, call: Call) -> Budget:  # type: ignore[override]  # the mistake
                return Budget()

        with pytest.raises(TypeError, match=r"Mistaken\.Do differs from its proto"):
            calls.handler_for(Mistaken())

    def test_a_method_without_permission_is_not_served(self, calls: CallPipeline) -> None:
        class Unguarded(Probe):
            service = FILE.services_by_name["UnguardedService"]

        with pytest.raises(TypeError, match="declares no permission"):
            calls.handler_for(Unguarded())
