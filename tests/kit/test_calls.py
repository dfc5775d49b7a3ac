"""The call pipeline of unary RPCs: admission, deadline, overload, errors, logs and metrics, registration."""

import asyncio
import errno
import socket
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
from tests.harness.tokens import Keys
from tests.kit.conftest import NoScopes, ServedProbe, serve_probe
from tests.kit.probe import FILE, DoReply, DoRequest, InsideRequest, ListRequest, Probe

Log = list[dict[str, Any]]


class BudgetFull(FailedPrecondition):
    reason = "BUDGET_FULL"


def on_call(probe: ServedProbe, raised: BaseException) -> None:
    """Make the handler raise an exception."""

    async def fail(request: Any, call: Call) -> DoReply:
        raise raised

    probe.servicer.on_call = fail


class TestAdmission:
    async def test_valid_call_is_served(self, probe: ServedProbe, finance: Caller) -> None:
        assert (await finance.call(probe.stub.Do, DoRequest())).text == "Do"
        (call,) = probe.servicer.calls
        assert (call.tenant_id, call.actor) == (finance.tenant_id, "alice")
        assert call.method == "billing.probe.v1.ProbeService/Do"
        assert call.trace.trace_id == finance.trace.trace_id

    async def test_missing_token_is_unauthenticated(self, probe: ServedProbe) -> None:
        error = await refusal(probe.stub.Do(DoRequest()))
        assert (error.code, error.reason) == (StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")

    async def test_invalid_token_is_unauthenticated(self, probe: ServedProbe) -> None:
        error = await refusal(probe.stub.Do(DoRequest(), metadata=(("authorization", "Bearer a.b.c"),)))
        assert (error.code, error.reason) == (StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")

    async def test_expired_token_is_unauthenticated(self, probe: ServedProbe, caller: Callable[..., Caller]) -> None:
        late = caller(exp=int(time.time()) - 60)
        error = await refusal(late.call(probe.stub.Do, DoRequest()))
        assert (error.code, error.reason) == (StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")

    async def test_permission_is_checked_before_the_input(
        self, probe: ServedProbe, caller: Callable[..., Caller]
    ) -> None:
        error = await refusal(caller("viewer").call(probe.stub.Do, DoRequest(name="n" * 21)))
        assert (error.code, error.reason) == (StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")
        assert error.metadata == {"permission": "budgets.write"}
        assert not probe.servicer.calls

    async def test_invalid_input_does_not_reach_the_handler(self, probe: ServedProbe, finance: Caller) -> None:
        error = await refusal(finance.call(probe.stub.Do, DoRequest(name="n" * 21, due_date="x")))
        assert (error.code, error.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
        assert set(error.fields) == {"name", "due_date"}
        assert not probe.servicer.calls

    async def test_internal_methods_are_for_services_only(
        self, probe: ServedProbe, caller: Callable[..., Caller], tenant: UUID, kit_settings: Callable[..., Settings]
    ) -> None:
        for role in ("billing_admin", "service"):
            error = await refusal(caller(role).call(probe.stub.Inside, InsideRequest()))
            assert error.reason == "PERMISSION_MISSING"
        service = Caller(tenant, "budgets", ServiceTokens(kit_settings()).token(tenant))
        assert (await service.call(probe.stub.Inside, InsideRequest())).text == "Inside"
        assert (await refusal(service.call(probe.stub.Do, DoRequest()))).reason == "PERMISSION_MISSING"

    async def test_only_a_service_may_act_for_another_actor(
        self, probe: ServedProbe, finance: Caller, tenant: UUID, kit_settings: Callable[..., Settings]
    ) -> None:
        actor = ("x-actor", "Zo%C3%AB")
        await probe.stub.Do(DoRequest(), metadata=(*finance.metadata, actor))
        service = Caller(tenant, "budgets", ServiceTokens(kit_settings()).token(tenant))
        await probe.stub.Inside(InsideRequest(), metadata=(*service.metadata, actor))
        assert [call.actor for call in probe.servicer.calls] == ["alice", "Zoë"]

    async def test_a_service_calls_only_what_declares_it_as_a_caller(
        self, probe: ServedProbe, keys: Keys, tenant: UUID
    ) -> None:
        other = Caller(tenant, "approvals", keys.service_token("approvals", tenant))
        error = await refusal(other.call(probe.stub.Inside, InsideRequest()))
        assert (error.code, error.reason) == (StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
        assert error.metadata == {"service": "approvals"}

    async def test_a_service_does_not_act_for_another_service(
        self, probe: ServedProbe, keys: Keys, tenant: UUID
    ) -> None:
        service = Caller(tenant, "budgets", keys.service_token("budgets", tenant))
        await probe.stub.Inside(InsideRequest(), metadata=(*service.metadata, ("x-actor", "service%3Aentities")))
        assert [call.actor for call in probe.servicer.calls] == ["service:budgets"]

    async def test_only_confined_callers_get_a_scope(self, probe: ServedProbe, caller: Callable[..., Caller]) -> None:
        await caller().call(probe.stub.Do, DoRequest())
        await caller(entity_scope=[ids.ENTITY.format(ids.new())]).call(probe.stub.Do, DoRequest())
        unconfined, confined = probe.servicer.calls
        assert unconfined.scope is None
        assert confined.scope is not None

    async def test_undecodable_bytes_are_a_malformed_body(self, probe: ServedProbe, finance: Caller) -> None:
        async with aio.insecure_channel(probe.address) as channel:
            do: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/billing.probe.v1.ProbeService/Do")
            for raw in (b"\xff\xff\xff", b"\x12\x02\xc3\x28", b"\x0a\xff\xff\xff\xff\x0f"):
                error = await refusal(do(raw, metadata=finance.metadata))
                assert (error.code, error.reason) == (StatusCode.INVALID_ARGUMENT, "MALFORMED_BODY")

    async def test_caller_is_authenticated_before_the_request_is_parsed(
        self, probe: ServedProbe, caller: Callable[..., Caller]
    ) -> None:
        garbage = b"\xff" * 4_000_000
        async with aio.insecure_channel(probe.address) as channel:
            do: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/billing.probe.v1.ProbeService/Do")
            anonymous = await refusal(do(garbage))
            viewer = await refusal(do(garbage, metadata=caller("viewer").metadata))
            finance = await refusal(do(garbage, metadata=caller("finance").metadata))
        assert [anonymous.reason, viewer.reason, finance.reason] == [
            "TOKEN_MISSING",
            "PERMISSION_MISSING",
            "MALFORMED_BODY",
        ]

    async def test_four_megabytes_of_empty_items_are_refused_at_once(self, probe: ServedProbe, finance: Caller) -> None:
        async with aio.insecure_channel(probe.address) as channel:
            do: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/billing.probe.v1.ProbeService/Do")
            error = await refusal(do(b"\x22\x00" * 2_000_000, metadata=finance.metadata))
        assert error.fields == {"lines": "must have at most 3 items"}

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("authorization", "Bearer x"),
            ("x-actor", "bob"),
            ("x-request-id", "1"),
            ("idempotency-key", "1"),
        ],
    )
    async def test_metadata_with_one_value_is_refused_if_it_is_sent_twice(
        self, probe: ServedProbe, finance: Caller, key: str, value: str
    ) -> None:
        for pairs in ([(key, value), (key, "other")], [(key, value), (key, value)]):
            error = await refusal(probe.stub.Do(DoRequest(), metadata=(*finance.metadata, *pairs)))
            assert (error.code, error.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
            assert error.fields == {f"metadata {key}": "is set more than once"}
        assert not probe.servicer.calls

    async def test_other_metadata_may_be_repeated(self, probe: ServedProbe, finance: Caller) -> None:
        pairs = (("x-forwarded-for", "10.0.0.1"), ("x-forwarded-for", "10.0.0.2"))
        assert (await probe.stub.Do(DoRequest(), metadata=(*finance.metadata, *pairs))).text == "Do"

    async def test_unknown_method_is_unimplemented(self, probe: ServedProbe, finance: Caller) -> None:
        async with aio.insecure_channel(probe.address) as channel:
            undo: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/billing.probe.v1.ProbeService/Undo")
            error = await refusal(undo(b""))
        assert error.code is StatusCode.UNIMPLEMENTED


class TestDeadline:
    async def test_call_without_deadline_gets_the_default(self, probe: ServedProbe, finance: Caller) -> None:
        await probe.stub.Do(DoRequest(), metadata=finance.metadata)
        assert 5.2 < probe.servicer.calls[0].remaining_s() <= 10

    async def test_long_deadline_is_capped(self, probe: ServedProbe, finance: Caller) -> None:
        await probe.stub.Do(DoRequest(), metadata=finance.metadata, timeout=3600)
        assert 10 < probe.servicer.calls[0].remaining_s() <= 30

    async def test_short_deadline_is_kept(self, probe: ServedProbe, finance: Caller) -> None:
        await probe.stub.Do(DoRequest(), metadata=finance.metadata, timeout=5)
        assert 0 < probe.servicer.calls[0].remaining_s() < 5.2

    async def test_exceeded_default_deadline_is_reported(
        self, kit_settings: Callable[..., Settings], finance: Caller
    ) -> None:
        async with serve_probe(kit_settings(deadline_default_s=0.1)) as probe:
            probe.servicer.on_call = forever
            error = await refusal(probe.stub.Do(DoRequest(), metadata=finance.metadata))
        assert (error.code, error.reason) == (StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")

    async def test_cancelled_call_cancels_the_handler(self, probe: ServedProbe, finance: Caller) -> None:
        ended = asyncio.Event()

        async def work(request: Any, call: Call) -> DoReply:
            try:
                return await forever(request, call)
            finally:
                ended.set()

        probe.servicer.on_call = work
        active = probe.stub.Do(DoRequest(), metadata=finance.metadata)
        await eventually(lambda: _true(probe.servicer.calls))
        active.cancel()
        await asyncio.wait_for(ended.wait(), 5)
        probe.servicer.on_call = probe.servicer._reply_with_method
        assert (await finance.call(probe.stub.Do, DoRequest())).text == "Do"


async def _true(value: object) -> bool:
    return bool(value)


async def forever(request: Any, call: Call) -> DoReply:
    await asyncio.sleep(3600)
    return DoReply()


class TestOverload:
    async def test_excess_calls_are_rejected_until_others_end(
        self, kit_settings: Callable[..., Settings], finance: Caller
    ) -> None:
        proceed = asyncio.Event()

        async def wait(request: Any, call: Call) -> DoReply:
            await proceed.wait()
            return DoReply(text="done")

        async with serve_probe(kit_settings(calls_max=2)) as probe:
            probe.servicer.on_call = wait
            first = [asyncio.ensure_future(finance.call(probe.stub.Do, DoRequest())) for _ in range(2)]
            await eventually(lambda: _true(len(probe.servicer.calls) == 2))
            error = await refusal(finance.call(probe.stub.Do, DoRequest()))
            assert (error.code, error.reason) == (StatusCode.RESOURCE_EXHAUSTED, "CONCURRENCY_LIMITED")
            assert (error.retry_after_s, error.metadata) == (1, {"resource": "calls"})
            proceed.set()
            assert [reply.text for reply in await asyncio.gather(*first)] == ["done"] * 2
            assert (await finance.call(probe.stub.Do, DoRequest())).text == "done"

    async def test_rejected_calls_are_not_counted_as_active(self, probe: ServedProbe, finance: Caller) -> None:
        for _ in range(5):
            await refusal(probe.stub.Do(DoRequest()))
        on_call(probe, RuntimeError())
        await refusal(finance.call(probe.stub.Do, DoRequest()))
        assert probe.calls.admission.calls_in_progress == 0


class _Sqlstate(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(f"secret of {sqlstate}")
        self.sqlstate = sqlstate


def database_error(sqlstate: str) -> DBAPIError:
    return OperationalError("select secret", {}, _Sqlstate(sqlstate))


class TestErrors:
    async def error_of(self, probe: ServedProbe, finance: Caller, raised: BaseException) -> Refusal:
        on_call(probe, raised)
        return await refusal(finance.call(probe.stub.Do, DoRequest()))

    async def test_error_is_returned_with_its_metadata(self, probe: ServedProbe, finance: Caller) -> None:
        error = await self.error_of(probe, finance, BudgetFull("It is full.", room="1.00"))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "BUDGET_FULL")
        assert (error.message, error.metadata) == ("It is full.", {"room": "1.00"})

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
            FileNotFoundError(errno.ENOENT, "No such file", "keys.json"),
            aio.AioRpcError(StatusCode.NOT_FOUND, aio.Metadata(), aio.Metadata(), "secret"),
        ],
        ids=lambda raised: type(raised).__name__,
    )
    async def test_internal_error_returns_only_an_incident_id(
        self, probe: ServedProbe, finance: Caller, logs: Log, raised: Exception
    ) -> None:
        error = await self.error_of(probe, finance, raised)
        assert (error.code, error.reason) == (StatusCode.INTERNAL, "INTERNAL")
        assert "secret" not in str(error)
        trace_id = finance.trace.trace_id
        (line,) = [line for line in logs if line["event"] == "internal error" and line["trace_id"] == trace_id]
        assert line["incident"] == error.metadata["incident"]
        assert type(raised).__name__ in line["exception"]
        assert "secret" not in line["exception"]

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
            (database_error("25P03"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
            (database_error("58030"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
            (socket.gaierror("secret"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
            (OSError("Multiple exceptions: secret"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
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
    async def test_temporary_errors_are_reported_as_retryable(
        self, probe: ServedProbe, finance: Caller, raised: BaseException, code: StatusCode, reason: str
    ) -> None:
        error = await self.error_of(probe, finance, raised)
        assert (error.code, error.reason) == (code, reason)
        assert "secret" not in str(error)

    async def test_wrong_reply_type_leaks_no_details(self, probe: ServedProbe, finance: Caller) -> None:
        async def return_none(request: Any, call: Call) -> Any:
            return None

        probe.servicer.on_call = return_none
        error = await refusal(finance.call(probe.stub.Do, DoRequest()))
        assert error.code is StatusCode.INTERNAL
        assert "NoneType" not in error.message


class TestObservability:
    async def test_call_is_logged_with_actor_method_and_code(
        self, probe: ServedProbe, finance: Caller, logs: Log
    ) -> None:
        await probe.stub.Do(DoRequest(), metadata=(*finance.metadata, ("x-request-id", "r-1")))
        (line,) = [line for line in logs if line["event"] == "call" and line["trace_id"] == finance.trace.trace_id]
        assert line["rpc_method"] == "billing.probe.v1.ProbeService/Do"
        assert (line["code"], line["request_id"]) == ("OK", "r-1")
        assert (line["tenant_id"], line["actor"]) == (str(finance.tenant_id), "alice")

    async def test_long_request_id_is_cut_in_the_log(self, probe: ServedProbe, finance: Caller, logs: Log) -> None:
        await probe.stub.Do(DoRequest(), metadata=(*finance.metadata, ("x-request-id", "x" * 1_000)))
        (line,) = [line for line in logs if line["event"] == "call" and line["trace_id"] == finance.trace.trace_id]
        assert line["request_id"] == "x" * 128

    async def test_token_is_never_logged(self, probe: ServedProbe, finance: Caller, logs: Log) -> None:
        on_call(probe, RuntimeError("broken"))
        await refusal(finance.call(probe.stub.Do, DoRequest()))
        assert logs
        assert finance.token not in str(logs)

    async def test_calls_are_counted_by_method_and_code(self, probe: ServedProbe, finance: Caller) -> None:
        method = "billing.probe.v1.ProbeService/List"
        before = {code: counted(method, code) for code in ("OK", "UNAUTHENTICATED")}
        await finance.call(probe.stub.List, ListRequest())
        await refusal(probe.stub.List(ListRequest()))

        async def both_were_counted() -> bool:  # a call is counted after its reply was sent
            return {code: counted(method, code) - before[code] for code in before} == {"OK": 1, "UNAUTHENTICATED": 1}

        await eventually(both_were_counted)

    async def test_malformed_traceparent_starts_a_new_trace(self, probe: ServedProbe, finance: Caller) -> None:
        authorization, _ = finance.metadata
        for malformed in ("", "00-0-0-00", f"00-{'0' * 32}-{'1' * 16}-01", f"00-{'g' * 32}-{'1' * 16}-01"):
            await probe.stub.Do(DoRequest(), metadata=(authorization, ("traceparent", malformed)))
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

    def test_missing_method_is_rejected(self, calls: CallPipeline) -> None:
        class WithoutMethods:
            service = Probe.service

        with pytest.raises(TypeError, match="has no method Do"):
            calls.handler_for(WithoutMethods())

    def test_wrong_request_type_is_rejected(self, calls: CallPipeline) -> None:
        class WrongServicer(Probe):
            async def Do(self, request: ListRequest, call: Call) -> DoReply:  # type: ignore[override]  # the mistake
                return DoReply()

        with pytest.raises(TypeError, match=r"WrongServicer\.Do differs from its proto"):
            calls.handler_for(WrongServicer())

    def test_wrong_reply_type_is_rejected(self, calls: CallPipeline) -> None:
        class WrongServicer(Probe):
            async def Do(self, request: DoRequest, call: Call) -> Budget:  # type: ignore[override]  # the mistake
                return Budget()

        with pytest.raises(TypeError, match=r"WrongServicer\.Do differs from its proto"):
            calls.handler_for(WrongServicer())

    def test_method_without_permission_is_rejected(self, calls: CallPipeline) -> None:
        class WithoutPermission(Probe):
            service = FILE.services_by_name["UnguardedService"]

        with pytest.raises(TypeError, match="declares no permission"):
            calls.handler_for(WithoutPermission())

    def test_internal_method_without_callers_is_rejected(self, calls: CallPipeline) -> None:
        class WithoutCallers(Probe):
            service = FILE.services_by_name["ForgottenCallersService"]

        with pytest.raises(TypeError, match="must declare callers"):
            calls.handler_for(WithoutCallers())

    def test_method_without_scope_policy_is_rejected(self, calls: CallPipeline) -> None:
        class WithoutScopePolicy(Probe):
            service = FILE.services_by_name["UnscopedService"]

        with pytest.raises(TypeError, match="must declare a scope_policy"):
            calls.handler_for(WithoutScopePolicy())
