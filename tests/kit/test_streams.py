"""The call pipeline of streaming RPCs: same steps as unary calls, limited lifetime, end on disconnect and shutdown."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from grpc import StatusCode, aio

from kit import ids
from kit.db import Database
from kit.errors import FailedPrecondition
from kit.origin import Call
from kit.settings import Settings
from serving import calls as module
from serving import server
from serving.admission import STREAMS_IN_PROGRESS
from serving.calls import CallPipeline
from serving.server import Service, serving
from tests.harness.callers import Caller, Refusal
from tests.harness.observe import eventually
from tests.kit.conftest import NoScopes, ServedProbe, serve_probe
from tests.kit.probe import FILE, DoReply, DoRequest, InsideRequest, Probe, ProbeStub, WatchReply, WatchRequest

Log = list[dict[str, Any]]


class Broken(FailedPrecondition):
    reason = "BROKEN"


class Source:
    """The replies of a stream: those put into the queue; an exception is raised."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.open_streams = 0

    async def stream(self, request: Any, call: Call) -> AsyncIterator[WatchReply]:
        self.open_streams += 1
        try:
            while True:
                item = await self.queue.get()
                if isinstance(item, BaseException):
                    raise item
                yield WatchReply(event_id=item)
        finally:
            self.open_streams -= 1

    async def is_open(self) -> bool:
        return self.open_streams > 0

    async def is_closed(self) -> bool:
        return self.open_streams == 0


@pytest.fixture
def source(probe: ServedProbe) -> Source:
    source = Source()
    probe.servicer.on_watch = source.stream
    return source


def watch(probe: ServedProbe, caller: Caller, **fields: Any) -> Any:
    return probe.stub.Watch(WatchRequest(**fields), metadata=caller.metadata)


def lines_of(caller: Caller, logs: Log) -> Log:
    """Return the log lines of the caller's calls, without those of other services in this process."""
    return [line for line in logs if line.get("trace_id") == caller.trace.trace_id]


async def event_ids_of(call: Any) -> list[str]:
    return [reply.event_id async for reply in call]


async def error_of(call: Any) -> Refusal:
    """Return the error that ends the stream, now or later."""
    try:
        event_ids = await asyncio.wait_for(event_ids_of(call), 10)
    except aio.AioRpcError as error:
        return Refusal.of(error)
    pytest.fail(f"the stream ended with OK after {event_ids}")


class TestPipeline:
    async def test_replies_arrive_in_order_and_end_with_ok(self, probe: ServedProbe, finance: Caller) -> None:
        stream = watch(probe, finance)
        assert await event_ids_of(stream) == ["1", "2"]
        assert await stream.code() is StatusCode.OK
        (call,) = probe.servicer.calls
        assert (call.tenant_id, call.actor, call.trace.trace_id) == (
            finance.tenant_id, "alice", finance.trace.trace_id,
        )  # fmt: skip

    async def test_each_step_may_reject(self, probe: ServedProbe, caller: Callable[..., Caller]) -> None:
        assert (await error_of(probe.stub.Watch(WatchRequest()))).reason == "TOKEN_MISSING"
        assert (await error_of(watch(probe, caller("service")))).reason == "PERMISSION_MISSING"
        invalid = await error_of(watch(probe, caller(), name="n" * 21, last_event_id="x"))
        assert set(invalid.fields) == {"name", "last_event_id"}
        assert not probe.servicer.calls

    async def test_confined_caller_gets_a_scope(self, probe: ServedProbe, caller: Callable[..., Caller]) -> None:
        await event_ids_of(watch(probe, caller(entity_scope=[ids.ENTITY.format(ids.new())])))
        assert probe.servicer.calls[0].scope is not None

    async def test_admission_is_reported_before_the_first_reply(
        self, probe: ServedProbe, finance: Caller, source: Source
    ) -> None:
        stream = watch(probe, finance)
        await asyncio.wait_for(stream.initial_metadata(), 5)
        assert source.queue.empty()

    async def test_error_in_the_middle_follows_the_replies(
        self, probe: ServedProbe, finance: Caller, source: Source
    ) -> None:
        for item in ("1", Broken("It broke.", room="0")):
            source.queue.put_nowait(item)
        stream = watch(probe, finance)
        assert (await stream.read()).event_id == "1"
        with pytest.raises(aio.AioRpcError) as raised:
            await stream.read()
        assert Refusal.of(raised.value).reason == "BROKEN"

    async def test_internal_error_returns_only_an_incident_id(
        self, probe: ServedProbe, finance: Caller, source: Source, logs: Log
    ) -> None:
        source.queue.put_nowait(RuntimeError("secret"))
        error = await error_of(watch(probe, finance))
        assert (error.code, error.reason) == (StatusCode.INTERNAL, "INTERNAL")
        assert "secret" not in str(error)
        incidents = [line["incident"] for line in lines_of(finance, logs) if line["event"] == "internal error"]
        assert incidents == [error.metadata["incident"]]

    async def test_stream_is_logged_at_its_end(self, probe: ServedProbe, finance: Caller, logs: Log) -> None:
        await event_ids_of(watch(probe, finance))

        async def line() -> dict[str, Any] | None:
            return next((line for line in lines_of(finance, logs) if line["event"] == "call"), None)

        logged = await eventually(line)
        assert logged is not None
        assert (logged["rpc_method"], logged["code"]) == ("billing.probe.v1.ProbeService/Watch", "OK")
        assert logged["tenant_id"] == str(finance.tenant_id)

    async def test_slow_client_applies_backpressure(self, probe: ServedProbe, finance: Caller) -> None:
        sent = 0

        async def flood(request: Any, call: Call) -> AsyncIterator[WatchReply]:
            nonlocal sent
            while True:
                sent += 1
                yield WatchReply(line={"note": "x" * 10_000})

        async def is_paused() -> bool:
            before = sent
            await asyncio.sleep(0.2)
            return before == sent > 0

        probe.servicer.on_watch = flood
        stream = watch(probe, finance)
        await eventually(is_paused)
        assert sent < 2000
        stream.cancel()


class TestDeadline:
    async def test_stream_without_deadline_outlives_the_default_of_calls(
        self, kit_settings: Callable[..., Settings], finance: Caller
    ) -> None:
        source = Source()
        async with serve_probe(kit_settings(deadline_default_s=0.2, deadline_max_s=0.3)) as probe:
            probe.servicer.on_watch = source.stream
            stream = watch(probe, finance)
            await eventually(source.is_open)
            await asyncio.sleep(0.5)
            source.queue.put_nowait("late")
            assert (await stream.read()).event_id == "late"
            assert probe.servicer.calls[0].remaining_s() > 300, "the remaining time is that of the token"

    async def test_stream_ends_with_ok_after_its_maximum_lifetime(
        self, probe: ServedProbe, finance: Caller, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_STREAM_MAX_S", 0.2)
        source.queue.put_nowait("1")
        stream = watch(probe, finance)
        assert await event_ids_of(stream) == ["1"]
        assert await stream.code() is StatusCode.OK
        assert source.open_streams == 0

    async def test_deadline_of_the_client_is_kept(self, probe: ServedProbe, finance: Caller, source: Source) -> None:
        error = await error_of(probe.stub.Watch(WatchRequest(), metadata=finance.metadata, timeout=0.3))
        assert error.code is StatusCode.DEADLINE_EXCEEDED
        assert probe.servicer.calls[0].remaining_s() <= 0.3
        await eventually(source.is_closed)

    async def test_stream_ends_when_its_token_expires(
        self, probe: ServedProbe, caller: Callable[..., Caller], source: Source
    ) -> None:
        leeway = 30
        late = caller(exp=int(time.time()) + 2 - leeway)
        error = await error_of(watch(probe, late))
        assert (error.code, error.reason) == (StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
        assert probe.servicer.calls, "the stream was admitted before"
        assert source.open_streams == 0

    async def test_disconnect_ends_the_stream(
        self, probe: ServedProbe, finance: Caller, source: Source, logs: Log
    ) -> None:
        stream = watch(probe, finance)
        await eventually(source.is_open)
        stream.cancel()
        await eventually(source.is_closed, within_s=1.0)

        async def is_logged_as_cancelled() -> bool:
            return [line["code"] for line in lines_of(finance, logs) if line["event"] == "call"] == ["CANCELLED"]

        await eventually(is_logged_as_cancelled)
        assert not [line for line in lines_of(finance, logs) if line["level"] in {"warning", "error"}]

    async def test_handler_that_swallows_a_cancellation_is_ended(self, probe: ServedProbe, finance: Caller) -> None:
        """`asyncio.wait_for` can swallow a cancellation in Python 3.11."""
        swallowed, ended = asyncio.Event(), asyncio.Event()

        async def swallow_cancellation(request: Any, call: Call) -> AsyncIterator[WatchReply]:
            yield WatchReply(event_id="1")
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                swallowed.set()
            try:
                await asyncio.sleep(3600)
            finally:
                ended.set()

        probe.servicer.on_watch = swallow_cancellation
        stream = watch(probe, finance)
        assert (await stream.read()).event_id == "1"
        stream.cancel()
        await asyncio.wait_for(swallowed.wait(), 5)
        await asyncio.wait_for(ended.wait(), 5)


class TestOverload:
    async def test_excess_streams_are_rejected_until_others_end(
        self, kit_settings: Callable[..., Settings], finance: Caller
    ) -> None:
        source = Source()
        async with serve_probe(kit_settings(calls_max=2)) as probe:
            probe.servicer.on_watch = source.stream
            streams = [watch(probe, finance) for _ in range(2)]
            for stream in streams:
                await stream.initial_metadata()
            assert [sample.value for metric in STREAMS_IN_PROGRESS.collect() for sample in metric.samples] == [2]
            error = await error_of(watch(probe, finance))
            assert (error.code, error.reason) == (StatusCode.RESOURCE_EXHAUSTED, "CONCURRENCY_LIMITED")
            assert (error.retry_after_s, error.metadata) == (1, {"resource": "streams"})
            replies = await asyncio.gather(*(finance.call(probe.stub.Do, DoRequest()) for _ in range(2)))
            assert [reply.text for reply in replies] == ["Do", "Do"], "streams don't count as calls"
            streams[0].cancel()

            async def one_is_left() -> bool:
                return len(probe.calls.admission._streams) == 1

            await eventually(one_is_left)
            await watch(probe, finance).initial_metadata()
            await eventually(source.is_open)

    async def test_rejected_streams_are_not_counted_as_open(self, probe: ServedProbe, finance: Caller) -> None:
        await error_of(probe.stub.Watch(WatchRequest()))
        await error_of(watch(probe, finance, name="n" * 21))
        await event_ids_of(watch(probe, finance))
        assert len(probe.calls.admission._streams) == 0


class TestShutdown:
    async def test_streams_end_at_once_on_shutdown(
        self, kit_settings: Callable[..., Settings], finance: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server, "_HEALTH_NOTICE_S", 0.1)
        source, probe = Source(), Probe()
        probe.on_watch = source.stream
        settings = kit_settings(drain_s=8.0)
        running = serving(settings, Service(db=Database(settings), scopes=NoScopes(), servicers=[probe]))
        async with aio.insecure_channel(await running.__aenter__()) as channel:
            stream = ProbeStub(channel).Watch(WatchRequest(), metadata=finance.metadata)
            await stream.initial_metadata()
            started = time.monotonic()
            ending = asyncio.create_task(running.__aexit__(None, None, None))
            error = await error_of(stream)
            await asyncio.wait_for(ending, 5)
            assert time.monotonic() - started < 3
        assert (error.code, error.reason) == (StatusCode.UNAVAILABLE, "UNAVAILABLE")
        assert source.open_streams == 0

    async def test_new_streams_are_rejected_during_shutdown(self, probe: ServedProbe, finance: Caller) -> None:
        probe.calls.admission.end_all_streams()
        assert (await error_of(watch(probe, finance))).reason == "UNAVAILABLE"
        assert (await finance.call(probe.stub.Do, DoRequest())).text == "Do"


class TestRegistration:
    @pytest.fixture
    def calls(self, kit_settings: Callable[..., Settings]) -> CallPipeline:
        return CallPipeline(kit_settings(), NoScopes())

    def test_wrong_reply_type_is_rejected(self, calls: CallPipeline) -> None:
        class WrongServicer(Probe):
            async def Watch(  # type: ignore[override]  # the mistake
                self, request: WatchRequest, call: Call
            ) -> AsyncIterator[DoReply]:
                yield DoReply()

        with pytest.raises(TypeError, match=r"WrongServicer\.Watch differs from its proto"):
            calls.handler_for(WrongServicer())

    def test_method_that_is_no_generator_is_rejected(self, calls: CallPipeline) -> None:
        class WrongServicer(Probe):
            async def Watch(  # type: ignore[override]  # the mistake
                self, request: WatchRequest, call: Call
            ) -> AsyncIterator[WatchReply]:
                return self._two_messages(request, call)

        with pytest.raises(TypeError, match=r"WrongServicer\.Watch differs from its proto"):
            calls.handler_for(WrongServicer())

    def test_client_streaming_is_rejected(self, calls: CallPipeline) -> None:
        class ClientStreaming:
            service = FILE.services_by_name["StreamingService"]

            async def Post(self, request: InsideRequest, call: Call) -> AsyncIterator[DoReply]:
                yield DoReply()

            async def Take(self, request: InsideRequest, call: Call) -> DoReply:
                return DoReply()

        with pytest.raises(TypeError, match=r"StreamingService\.Take takes a stream"):
            calls.handler_for(ClientStreaming())
