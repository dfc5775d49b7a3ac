"""One tenant that uses all it can leaves room for the calls and streams of others."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from grpc import StatusCode, aio

from kit import tasks
from kit.auth import ServiceTokens
from kit.errors import Conflict
from kit.origin import Call
from kit.settings import Settings
from serving import admission
from tests.harness.callers import Caller, refusal
from tests.harness.observe import eventually
from tests.kit.conftest import ServedProbe, serve_probe
from tests.kit.probe import DoReply, DoRequest, InsideRequest, WatchReply, WatchRequest


class Blocking:
    """A handler whose calls run until `proceed` is set."""

    def __init__(self, probe: ServedProbe) -> None:
        self.proceed = asyncio.Event()
        self.running: list[Call] = []
        probe.servicer.on_call = self._run

    async def _run(self, request: Any, call: Call) -> DoReply:
        self.running.append(call)
        await self.proceed.wait()
        return DoReply(text="done")

    async def run(self, count: int) -> None:
        """Wait until as many calls run."""

        async def reached() -> bool:
            return len(self.running) >= count

        await eventually(reached)


@pytest.fixture
async def other(caller: Callable[..., Caller]) -> Caller:
    """A caller of another tenant."""
    return caller(tenant=uuid4())


async def start(probe: ServedProbe, who: Caller, count: int, **fields: Any) -> list["asyncio.Task[DoReply]"]:
    return [asyncio.create_task(who.call(probe.stub.Do, DoRequest(**fields))) for _ in range(count)]


class TestCalls:
    async def test_calls_of_one_tenant_leave_room_for_others(
        self, kit_settings: Callable[..., Settings], finance: Caller, other: Caller
    ) -> None:
        async with serve_probe(kit_settings(calls_max=16)) as probe:
            blocking = Blocking(probe)
            calls = await start(probe, finance, 14)
            await blocking.run(14)
            error = await refusal(finance.call(probe.stub.Do, DoRequest()))
            assert (error.code, error.reason) == (StatusCode.RESOURCE_EXHAUSTED, "CONCURRENCY_LIMITED")
            assert (error.metadata, error.retry_after_s) == ({"resource": "calls"}, 1)
            calls += await start(probe, other, 2)
            await blocking.run(16)
            error = await refusal(other.call(probe.stub.Do, DoRequest()))
            assert (error.reason, error.retry_after_s) == ("OVERLOADED", 0.5)
            blocking.proceed.set()
            assert {reply.text for reply in await asyncio.gather(*calls)} == {"done"}

    async def test_few_calls_of_one_tenant_run_while_others_are_active(
        self,
        kit_settings: Callable[..., Settings],
        finance: Caller,
        other: Caller,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(admission, "_RUNNING_MAX", 2)
        async with serve_probe(kit_settings()) as probe:
            await other.call(probe.stub.Do, DoRequest())
            blocking = Blocking(probe)
            calls = await start(probe, finance, 8)
            await blocking.run(2)
            calls += await start(probe, other, 1)
            await blocking.run(3)
            assert [call.tenant_id for call in blocking.running] == [finance.tenant_id] * 2 + [other.tenant_id]
            blocking.proceed.set()
            assert len(await asyncio.gather(*calls)) == 9
        assert probe.calls.admission.calls_in_progress == 0

    async def test_calls_that_wait_for_a_call_back_do_not_keep_it_waiting(
        self,
        kit_settings: Callable[..., Settings],
        finance: Caller,
        other: Caller,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(admission, "_RUNNING_MAX", 2)
        async with serve_probe(kit_settings()) as probe:
            service = Caller(finance.tenant_id, "budgets", ServiceTokens(kit_settings()).token(finance.tenant_id))
            both_run = asyncio.Barrier(2)

            async def call_back(request: Any, call: Call) -> Any:
                if call.method.endswith("/Inside"):
                    return DoReply(text="inside")
                await both_run.wait()
                return await service.call(probe.stub.Inside, InsideRequest())

            await other.call(probe.stub.Do, DoRequest())
            probe.servicer.on_call = call_back
            calls = [finance.call(probe.stub.Do, DoRequest(), within_s=5) for _ in range(2)]
            assert [reply.text for reply in await asyncio.gather(*calls)] == ["inside"] * 2

    async def test_large_requests_wait_for_each_other(
        self, kit_settings: Callable[..., Settings], finance: Caller
    ) -> None:
        large = {"labels": ["x" * 20_000]}
        async with serve_probe(kit_settings()) as probe:
            blocking = Blocking(probe)
            calls = await start(probe, finance, 8, **large)
            await blocking.run(6)
            calls += await start(probe, finance, 1)
            await blocking.run(7)
            assert len(blocking.running) == 7, "two large ones wait"
            blocking.proceed.set()
            assert len(await asyncio.gather(*calls)) == 9

    async def test_call_that_waits_ends_at_its_deadline(
        self, kit_settings: Callable[..., Settings], finance: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for limit in ("_LARGE_RUNNING_MAX", "_LARGE_RUNNING_CONTENDED_MAX"):
            monkeypatch.setattr(admission, limit, 1)
        async with serve_probe(kit_settings()) as probe:
            blocking = Blocking(probe)
            (running,) = await start(probe, finance, 1, labels=["x" * 20_000])
            await blocking.run(1)
            waiting = probe.stub.Do(DoRequest(labels=["x" * 20_000]), metadata=finance.metadata, timeout=0.3)
            assert (await refusal(waiting)).code is StatusCode.DEADLINE_EXCEEDED

            async def one_is_left() -> bool:
                return probe.calls.admission.calls_in_progress == 1

            await eventually(one_is_left)
            blocking.proceed.set()
            assert (await running).text == "done"
            assert len(blocking.running) == 1

    async def test_large_call_that_waits_too_long_may_be_retried(
        self, kit_settings: Callable[..., Settings], finance: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for limit in ("_LARGE_RUNNING_MAX", "_LARGE_RUNNING_CONTENDED_MAX"):
            monkeypatch.setattr(admission, limit, 1)
        monkeypatch.setattr(admission, "_LARGE_WAIT_S", 0.2)
        large = {"labels": ["x" * 20_000]}
        async with serve_probe(kit_settings()) as probe:
            blocking = Blocking(probe)
            (running,) = await start(probe, finance, 1, **large)
            await blocking.run(1)
            error = await refusal(finance.call(probe.stub.Do, DoRequest(**large)))
            assert (error.code, error.reason) == (StatusCode.RESOURCE_EXHAUSTED, "CONCURRENCY_LIMITED")
            assert (error.metadata, error.retry_after_s) == ({"resource": "large_calls"}, 1)
            blocking.proceed.set()
            assert (await running).text == "done"
            assert (await finance.call(probe.stub.Do, DoRequest(**large))).text == "done"

    @pytest.mark.parametrize("contended", [False, True])
    async def test_large_call_pauses_between_its_pieces_while_others_are_active(
        self, kit_settings: Callable[..., Settings], finance: Caller, other: Caller, *, contended: bool
    ) -> None:
        pauses: list[float] = []

        async def handle(request: Any, call: Call) -> DoReply:
            pauses.append(tasks.pause_s.get())
            return DoReply(text="done")

        async with serve_probe(kit_settings()) as probe:
            probe.servicer.on_call = handle
            if contended:
                await other.call(probe.stub.Do, DoRequest())
            await finance.call(probe.stub.Do, DoRequest(labels=["x" * 20_000]))
        assert (pauses[-1] > 0) == contended


class TestStreams:
    @contextlib.asynccontextmanager
    async def streams(self, probe: ServedProbe, who: Caller, count: int, *, refused: int) -> AsyncIterator[list[Any]]:
        """Open `count` streams, of which this number is refused; yield the others."""
        async with aio.insecure_channel(probe.address) as channel:
            watch: Any = channel.unary_stream(
                "/billing.probe.v1.ProbeService/Watch",
                request_serializer=WatchRequest.SerializeToString,
                response_deserializer=WatchReply.FromString,
            )
            opened = [watch(WatchRequest(), metadata=who.metadata, timeout=30) for _ in range(count)]
            await asyncio.gather(*(stream.initial_metadata() for stream in opened))
            await self.ended(opened, refused)
            yield [stream for stream in opened if not stream.done()]

    async def ended(self, streams: list[Any], count: int) -> list[Any]:
        """Wait until as many of the streams have ended; return all that have."""

        async def as_many() -> bool:
            return bool(sum(stream.done() for stream in streams) >= count)

        await eventually(as_many)
        return [stream for stream in streams if stream.done()]

    async def test_with_512_streams_of_one_viewer_others_can_still_open_streams(
        self, kit_settings: Callable[..., Settings], caller: Callable[..., Caller], other: Caller
    ) -> None:
        async def forever(request: Any, call: Call) -> AsyncIterator[WatchReply]:
            await asyncio.Event().wait()
            yield WatchReply()

        async with serve_probe(kit_settings()) as probe:
            probe.servicer.on_watch = forever
            async with self.streams(probe, caller("viewer"), 512, refused=64) as viewers:
                assert len(viewers) == 448
                async with self.streams(probe, other, 100, refused=0) as others:
                    ended = await self.ended(viewers, 448 + 100 - 512)
                    error = await refusal(ended[0].read())
                    assert (error.reason, error.retry_after_s) == ("CONCURRENCY_LIMITED", 1)
                    assert (await other.call(probe.stub.Do, DoRequest())).text == "Do"
                    assert sum(stream.done() for stream in viewers) == len(ended) == 448 + 100 - 512
                    assert [stream.done() for stream in others] == [False] * 100


class TestMemory:
    async def test_refused_calls_leave_nothing_behind_for_the_garbage_collector(
        self, probe: ServedProbe, finance: Caller
    ) -> None:
        """The collector runs seldom, so large requests must not be part of reference cycles."""
        payloads = [b"\x22\x00" * 2_000_000, b"\xff" * 4_000_000]
        async with aio.insecure_channel(probe.address) as channel:
            do: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/billing.probe.v1.ProbeService/Do")
            for payload in payloads:
                await refusal(do(payload, metadata=finance.metadata))
            gc.collect()
            gc.disable()
            try:
                before = resident_mib()
                for _ in range(20):
                    for payload in payloads:
                        await refusal(do(payload, metadata=finance.metadata))
                assert resident_mib() - before < 60
            finally:
                gc.enable()

    async def test_work_for_several_calls_goes_on_when_the_error_of_one_is_returned(
        self, probe: ServedProbe, finance: Caller
    ) -> None:
        """The error was raised in that work, while it handled another error: both refer to its frames."""
        refused: asyncio.Future[DoReply] = asyncio.get_running_loop().create_future()
        returned = asyncio.Event()

        def fail_with(error: Exception) -> None:
            raise error

        async def work() -> str:
            try:
                fail_with(ValueError())
            except ValueError:
                try:
                    fail_with(Conflict())
                except Conflict as error:
                    refused.set_exception(error)
                await returned.wait()
            return "done"

        async def depends_on_work(request: Any, call: Call) -> DoReply:
            return await refused

        probe.servicer.on_call = depends_on_work
        working = asyncio.create_task(work())
        assert (await refusal(finance.call(probe.stub.Do, DoRequest()))).reason == "CONFLICT"
        returned.set()
        assert await asyncio.wait_for(working, 5) == "done"


def resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
