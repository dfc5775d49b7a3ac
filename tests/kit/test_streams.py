"""Streams go the way of every call, live for as long as they may, and are gone when their caller or the process is."""

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
from serving.calls import STREAMS_IN_PROGRESS, CallPipeline
from serving.server import Service, serving
from tests.harness.callers import Caller, Refusal
from tests.harness.observe import eventually
from tests.kit.conftest import NoScopes, ServedProbe, serve_probe
from tests.kit.probe import FILE, DoReply, DoRequest, InsideRequest, Probe, ProbeStub, WatchReply, WatchRequest

Log = list[dict[str, Any]]


class Broken(FailedPrecondition):
    reason = "BROKEN"


class Source:
    """What a stream tells: what is put into it, or raised."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        self.open = 0

    async def tell(self, request: Any, call: Call) -> AsyncIterator[WatchReply]:
        self.open += 1
        try:
            while True:
                told = await self.told.get()
                if isinstance(told, BaseException):
                    raise told
                yield WatchReply(event_id=told)
        finally:
            self.open -= 1

    async def is_open(self) -> bool:
        return self.open > 0

    async def is_closed(self) -> bool:
        return self.open == 0


@pytest.fixture
def source(probe: ServedProbe) -> Source:
    source = Source()
    probe.servicer.on_watch = source.tell
    return source


def watch(probe: ServedProbe, caller: Caller, **given: Any) -> Any:
    return probe.stub.Watch(WatchRequest(**given), metadata=caller.metadata)


def of(caller: Caller, logs: Log) -> Log:
    """What was written about the caller's calls; other services of this process write too."""
    return [line for line in logs if line.get("trace_id") == caller.trace.trace_id]


async def all_of(call: Any) -> list[str]:
    return [reply.event_id async for reply in call]


async def refused(call: Any) -> Refusal:
    """How the stream is refused, now or later."""
    try:
        told = await asyncio.wait_for(all_of(call), 10)
    except aio.AioRpcError as error:
        return Refusal.of(error)
    pytest.fail(f"it was not refused, but ended after {told}")


class TestTheWay:
    async def test_what_is_yielded_arrives_in_order_and_the_end_is_ok(
        self, probe: ServedProbe, finance: Caller
    ) -> None:
        stream = watch(probe, finance)
        assert await all_of(stream) == ["1", "2"]
        assert await stream.code() is StatusCode.OK
        (call,) = probe.servicer.calls
        assert (call.tenant_id, call.actor, call.trace.trace_id) == (
            finance.tenant_id, "alice", finance.trace.trace_id,
        )  # fmt: skip

    async def test_each_step_may_refuse(self, probe: ServedProbe, caller: Callable[..., Caller]) -> None:
        assert (await refused(probe.stub.Watch(WatchRequest()))).reason == "TOKEN_MISSING"
        assert (await refused(watch(probe, caller("service")))).reason == "PERMISSION_MISSING"
        wrong = await refused(watch(probe, caller(), name="n" * 21, last_event_id="x"))
        assert set(wrong.fields) == {"name", "last_event_id"}
        assert not probe.servicer.calls

    async def test_a_confined_caller_gets_a_scope(self, probe: ServedProbe, caller: Callable[..., Caller]) -> None:
        await all_of(watch(probe, caller(entity_scope=[ids.ENTITY.format(ids.new())])))
        assert probe.servicer.calls[0].scope is not None

    async def test_the_caller_learns_that_it_is_let_in_before_anything_is_told(
        self, probe: ServedProbe, finance: Caller, source: Source
    ) -> None:
        stream = watch(probe, finance)
        await asyncio.wait_for(stream.initial_metadata(), 5)
        assert source.told.empty()

    async def test_a_refusal_in_the_middle_comes_after_what_was_told(
        self, probe: ServedProbe, finance: Caller, source: Source
    ) -> None:
        for told in ("1", Broken("It broke.", room="0")):
            source.told.put_nowait(told)
        stream = watch(probe, finance)
        assert (await stream.read()).event_id == "1"
        with pytest.raises(aio.AioRpcError) as raised:
            await stream.read()
        assert Refusal.of(raised.value).reason == "BROKEN"

    async def test_a_fault_says_nothing_but_an_id_that_is_in_the_log(
        self, probe: ServedProbe, finance: Caller, source: Source, logs: Log
    ) -> None:
        source.told.put_nowait(RuntimeError("secret"))
        told = await refused(watch(probe, finance))
        assert (told.code, told.reason) == (StatusCode.INTERNAL, "INTERNAL")
        assert "secret" not in str(told)
        faults = [line["incident"] for line in of(finance, logs) if line["event"] == "internal error"]
        assert faults == [told.metadata["incident"]]

    async def test_it_is_logged_when_it_ends(self, probe: ServedProbe, finance: Caller, logs: Log) -> None:
        await all_of(watch(probe, finance))

        async def line() -> dict[str, Any] | None:
            return next((line for line in of(finance, logs) if line["event"] == "call"), None)

        told = await eventually(line)
        assert told is not None
        assert (told["rpc_method"], told["code"]) == ("billing.probe.v1.ProbeService/Watch", "OK")
        assert told["tenant_id"] == str(finance.tenant_id)

    async def test_a_caller_that_does_not_take_is_not_told_more(self, probe: ServedProbe, finance: Caller) -> None:
        told = 0

        async def flood(request: Any, call: Call) -> AsyncIterator[WatchReply]:
            nonlocal told
            while True:
                told += 1
                yield WatchReply(line={"note": "x" * 10_000})

        async def stands_still() -> bool:
            before = told
            await asyncio.sleep(0.2)
            return before == told > 0

        probe.servicer.on_watch = flood
        stream = watch(probe, finance)
        await eventually(stands_still)
        assert told < 2000
        stream.cancel()


class TestHowLong:
    async def test_without_a_deadline_it_outlives_the_default_of_calls(
        self, kit_settings: Callable[..., Settings], finance: Caller
    ) -> None:
        source = Source()
        async with serve_probe(kit_settings(deadline_default_s=0.2, deadline_max_s=0.3)) as probe:
            probe.servicer.on_watch = source.tell
            stream = watch(probe, finance)
            await eventually(source.is_open)
            await asyncio.sleep(0.5)
            source.told.put_nowait("late")
            assert (await stream.read()).event_id == "late"
            assert probe.servicer.calls[0].remaining_s() > 300, "until its token expires"

    async def test_after_its_hour_it_ends_well(
        self, probe: ServedProbe, finance: Caller, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_STREAM_MAX_S", 0.2)
        source.told.put_nowait("1")
        stream = watch(probe, finance)
        assert await all_of(stream) == ["1"]
        assert await stream.code() is StatusCode.OK
        assert source.open == 0

    async def test_the_callers_deadline_is_kept(self, probe: ServedProbe, finance: Caller, source: Source) -> None:
        told = await refused(probe.stub.Watch(WatchRequest(), metadata=finance.metadata, timeout=0.3))
        assert told.code is StatusCode.DEADLINE_EXCEEDED
        assert probe.servicer.calls[0].remaining_s() <= 0.3
        await eventually(source.is_closed)

    async def test_it_ends_with_its_token(
        self, probe: ServedProbe, caller: Callable[..., Caller], source: Source
    ) -> None:
        leeway = 30
        late = caller(exp=int(time.time()) + 2 - leeway)
        told = await refused(watch(probe, late))
        assert (told.code, told.reason) == (StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
        assert probe.servicer.calls, "it was let in before"
        assert source.open == 0

    async def test_a_caller_who_leaves_ends_it_at_once(
        self, probe: ServedProbe, finance: Caller, source: Source, logs: Log
    ) -> None:
        stream = watch(probe, finance)
        await eventually(source.is_open)
        stream.cancel()
        await eventually(source.is_closed, within_s=1.0)

        async def said_so() -> bool:
            return [line["code"] for line in of(finance, logs) if line["event"] == "call"] == ["CANCELLED"]

        await eventually(said_so)
        assert not [line for line in of(finance, logs) if line["level"] in {"warning", "error"}]

    async def test_a_handler_that_loses_a_cancellation_is_ended_all_the_same(
        self, probe: ServedProbe, finance: Caller
    ) -> None:
        """As one does that waits with `asyncio.wait_for` in Python 3.11."""
        lost, ended = asyncio.Event(), asyncio.Event()

        async def deaf(request: Any, call: Call) -> AsyncIterator[WatchReply]:
            yield WatchReply(event_id="1")
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                lost.set()
            try:
                await asyncio.sleep(3600)
            finally:
                ended.set()

        probe.servicer.on_watch = deaf
        stream = watch(probe, finance)
        assert (await stream.read()).event_id == "1"
        stream.cancel()
        await asyncio.wait_for(lost.wait(), 5)
        await asyncio.wait_for(ended.wait(), 5)


class TestHowMany:
    async def test_more_streams_than_fit_are_shed_and_room_comes_back(
        self, kit_settings: Callable[..., Settings], finance: Caller
    ) -> None:
        source = Source()
        async with serve_probe(kit_settings(calls_max=2)) as probe:
            probe.servicer.on_watch = source.tell
            streams = [watch(probe, finance) for _ in range(2)]
            for stream in streams:
                await stream.initial_metadata()
            assert STREAMS_IN_PROGRESS._value.get() == 2
            told = await refused(watch(probe, finance))
            assert (told.code, told.reason) == (StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            assert told.retry_after_s == 0.5
            replies = await asyncio.gather(*(finance.call(probe.stub.Do, DoRequest()) for _ in range(2)))
            assert [reply.text for reply in replies] == ["Do", "Do"], "streams take no room of calls"
            streams[0].cancel()

            async def one_left() -> bool:
                return len(probe.calls._streams) == 1

            await eventually(one_left)
            await watch(probe, finance).initial_metadata()
            await eventually(source.is_open)

    async def test_refused_streams_leave_no_trace_in_the_count(self, probe: ServedProbe, finance: Caller) -> None:
        await refused(probe.stub.Watch(WatchRequest()))
        await refused(watch(probe, finance, name="n" * 21))
        await all_of(watch(probe, finance))
        assert not probe.calls._streams


class TestEnd:
    async def test_streams_turn_elsewhere_at_once_when_the_process_ends(
        self, kit_settings: Callable[..., Settings], finance: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server, "_HEALTH_NOTICE_S", 0.1)
        source, probe = Source(), Probe()
        probe.on_watch = source.tell
        settings = kit_settings(drain_s=8.0)
        running = serving(settings, Service(db=Database(settings), scopes=NoScopes(), servicers=[probe]))
        async with aio.insecure_channel(await running.__aenter__()) as channel:
            stream = ProbeStub(channel).Watch(WatchRequest(), metadata=finance.metadata)
            await stream.initial_metadata()
            started = time.monotonic()
            ending = asyncio.create_task(running.__aexit__(None, None, None))
            told = await refused(stream)
            await asyncio.wait_for(ending, 5)
            assert time.monotonic() - started < 3
        assert (told.code, told.reason) == (StatusCode.UNAVAILABLE, "UNAVAILABLE")
        assert source.open == 0

    async def test_none_begins_once_the_end_has_begun_and_calls_still_do(
        self, probe: ServedProbe, finance: Caller
    ) -> None:
        probe.calls.end_all_streams()
        assert (await refused(watch(probe, finance))).reason == "UNAVAILABLE"
        assert (await finance.call(probe.stub.Do, DoRequest())).text == "Do"


class TestRegistration:
    @pytest.fixture
    def calls(self, kit_settings: Callable[..., Settings]) -> CallPipeline:
        return CallPipeline(kit_settings(), NoScopes())

    def test_a_stream_gives_what_its_proto_says(self, calls: CallPipeline) -> None:
        class Mistaken(Probe):
            async def Watch(  # type: ignore[override]  # the mistake
                self, request: WatchRequest, call: Call
            ) -> AsyncIterator[DoReply]:
                yield DoReply()

        with pytest.raises(TypeError, match=r"Mistaken\.Watch differs from its proto"):
            calls.handler_for(Mistaken())

    def test_a_stream_is_a_generator(self, calls: CallPipeline) -> None:
        class Mistaken(Probe):
            async def Watch(  # type: ignore[override]  # the mistake
                self, request: WatchRequest, call: Call
            ) -> AsyncIterator[WatchReply]:
                return self._two_messages(request, call)

        with pytest.raises(TypeError, match=r"Mistaken\.Watch differs from its proto"):
            calls.handler_for(Mistaken())

    def test_what_callers_would_stream_is_not_served(self, calls: CallPipeline) -> None:
        class Takes:
            service = FILE.services_by_name["StreamingService"]

            async def Post(self, request: InsideRequest, call: Call) -> AsyncIterator[DoReply]:
                yield DoReply()

            async def Take(self, request: InsideRequest, call: Call) -> DoReply:
                return DoReply()

        with pytest.raises(TypeError, match=r"StreamingService\.Take takes a stream"):
            calls.handler_for(Takes())
