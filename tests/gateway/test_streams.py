"""Streams over REST: server-sent events are sent as they arrive, and end with the client, the RPC or the process."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import pytest

from gateway import capacity, streaming
from kit.errors import NotFound, Unavailable
from kit.settings import Settings
from tests.gateway.backend import Backend, ReceivedCall
from tests.gateway.conftest import BASE
from tests.gateway.process import running
from tests.gateway.served import WATCH, Client, Served
from tests.gateway.wire import Wire, get
from tests.harness.observe import eventually
from tests.kit.probe import DoReply, Line, WatchReply


class MessageNotFound(NotFound):
    reason = "DEAD_LETTER_NOT_FOUND"


@dataclass
class Source:
    """The replies of the service: those put into the queue; an exception is raised, and None ends the stream."""

    queue: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    open_streams: int = 0

    async def stream(self, request: Any, received: ReceivedCall) -> AsyncIterator[WatchReply]:
        self.open_streams += 1
        try:
            while reply := await self.queue.get():
                if isinstance(reply, Exception):
                    raise reply
                yield reply
        finally:
            self.open_streams -= 1

    async def is_closed(self) -> bool:
        return self.open_streams == 0


@pytest.fixture
def source(backend: Backend) -> Source:
    source = Source()
    backend.replies["Watch"] = source.stream
    return source


@pytest.fixture
async def gateway(serve: Callable[..., Served], backend: Backend) -> Served:
    served = serve(backend.address)
    await served.app.limits.open()
    return served


class TestShares:
    async def test_streams_above_the_share_of_a_tenant_end_when_others_open_some(
        self, serve: Callable[..., Served], backend: Backend, source: Source, token: Callable[..., str]
    ) -> None:
        alice = serve(backend.address, calls_max=4)
        await alice.app.limits.open()
        bob = Client(alice.port, token(tenant=uuid4()), alice.opened)
        streams = [await alice.watch() for _ in range(4)]
        refused = await alice.watch()
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert [(await bob.watch()).status for _ in range(2)] == [200, 200]
        ended = [await asyncio.wait_for(stream.event(), 5) for stream in streams[2:]]
        assert [event["data"]["code"] for event in ended] == ["CONCURRENCY_LIMITED"] * 2
        assert (await bob.watch()).status == 429

        async def four_are_open() -> bool:
            return source.open_streams == 4

        await eventually(four_are_open)

    async def test_streams_with_a_large_body_keep_no_other_body_waiting(
        self, serve: Callable[..., Served], backend: Backend, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(capacity, "_LARGE_RUNNING_MAX", 1)
        monkeypatch.setattr(capacity, "_LARGE_RUNNING_CONTENDED_MAX", 1)
        alice = serve(backend.address)
        await alice.app.limits.open()
        assert [(await alice.watch(body=" " * 20_000 + "{}")).status for _ in range(2)] == [200, 200]


class TestEvents:
    async def test_each_message_is_an_event_with_id_type_and_data(self, gateway: Served, source: Source) -> None:
        for reply in (
            WatchReply(event_id="7", done=DoReply(text="two\nlines")),
            WatchReply(event_id="8", line=Line(note="n")),
            WatchReply(),
        ):
            source.queue.put_nowait(reply)
        events = await gateway.watch()
        assert events.status == 200
        assert events.headers["content-type"] == "text/event-stream"
        assert events.headers["cache-control"] == "no-store"
        assert events.headers["x-accel-buffering"] == "no"
        assert {"ratelimit", "x-request-id", "traceparent"} <= set(events.headers)
        assert await events.chunk() == "retry: 2000\n\n"
        assert await events.event() == {
            "id": "7", "event": "done", "data": {"event_id": "7", "done": {"text": "two\nlines"}},
        }  # fmt: skip
        assert (await events.event())["event"] == "line"
        assert await events.event() == {"event": "WatchReply", "data": {"event_id": ""}}

    async def test_events_arrive_as_they_are_sent(self, gateway: Served, source: Source) -> None:
        events = await gateway.watch()
        for number in range(3):
            source.queue.put_nowait(WatchReply(event_id=str(number)))
            assert (await asyncio.wait_for(events.event(), 5))["id"] == str(number)

    async def test_response_ends_with_the_rpc(self, gateway: Served, source: Source) -> None:
        source.queue.put_nowait(None)
        events = await gateway.watch()
        assert [await events.chunk(), await events.chunk()] == ["retry: 2000\n\n", ""]
        events.writer.write(get(f"{BASE}/probes/one", gateway.token))
        assert (await events.reader.readline()).startswith(b"HTTP/1.1 200"), "the connection can be reused"

    async def test_idle_stream_is_kept_alive(
        self, gateway: Served, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streaming, "_KEEP_ALIVE_S", 0.05)
        events = await gateway.watch()
        assert [await events.chunk() for _ in range(3)] == ["retry: 2000\n\n", ": keep-alive\n\n", ": keep-alive\n\n"]
        source.queue.put_nowait(WatchReply(event_id="1"))
        assert (await events.event())["id"] == "1"

    async def test_token_and_request_id_are_forwarded_without_deadline(
        self, gateway: Served, source: Source, backend: Backend
    ) -> None:
        await gateway.watch(x_request_id="mine-1")
        received = backend.received[0]
        assert received.metadata["authorization"] == f"Bearer {gateway.token}"
        assert received.metadata["x-request-id"] == "mine-1"
        assert received.time_remaining == 0, "no deadline was set"

    async def test_literal_path_takes_precedence_over_an_id(
        self, gateway: Served, source: Source, backend: Backend
    ) -> None:
        await gateway.watch()
        assert (await gateway.watch(f"{BASE}/probes/watched")).headers["content-type"] == "application/json"
        assert [received.rpc for received in backend.received] == ["Watch", "Get"]

    async def test_head_of_a_stream_is_not_allowed(self, gateway: Served) -> None:
        wire = await Wire.open(gateway.port)
        wire.writer.write(get(WATCH, gateway.token).replace(b"GET", b"HEAD", 1))
        assert (await wire.reader.readline()).startswith(b"HTTP/1.1 405")
        wire.close()

    async def test_stream_is_logged_in_one_line_at_its_end(
        self, gateway: Served, source: Source, logs: list[dict[str, Any]]
    ) -> None:
        (await gateway.watch()).close()

        async def line() -> dict[str, Any] | None:
            return next((line for line in logs if line["event"] == "request"), None)

        logged = await eventually(line)
        assert logged is not None
        assert (logged["route"], logged["status"], logged["actor"]) == (WATCH, 200, "alice")


class TestResume:
    @pytest.mark.parametrize(
        ("path", "headers", "after"),
        [
            (WATCH, {}, ""),
            (WATCH, {"last_event_id": "41"}, "41"),
            (f"{WATCH}?last_event_id=40", {}, "40"),
            (f"{WATCH}?last_event_id=40", {"last_event_id": "41"}, "41"),
        ],
    )
    async def test_stream_resumes_after_the_last_event_id(
        self, gateway: Served, source: Source, backend: Backend, path: str, headers: dict[str, str], after: str
    ) -> None:
        """A reconnect has the id of the first request in its URL, and a newer one in the header: the header counts."""
        await gateway.watch(path, **headers)
        request: Any = backend.received[0].request
        assert request.last_event_id == after


class TestErrors:
    async def test_error_before_the_first_message_is_a_problem(self, gateway: Served, source: Source) -> None:
        source.queue.put_nowait(MessageNotFound("There is none."))
        response = await gateway.watch()
        problem = await response.body()
        assert (response.status, response.headers["content-type"]) == (404, "application/problem+json")
        assert (problem["status"], problem["code"], problem["detail"]) == (
            404, "DEAD_LETTER_NOT_FOUND", "There is none.",
        )  # fmt: skip

    async def test_error_after_the_first_message_is_an_event(self, gateway: Served, source: Source) -> None:
        for reply in (WatchReply(event_id="1"), Unavailable("It")):
            source.queue.put_nowait(reply)
        events = await gateway.watch()
        assert (await events.event())["id"] == "1"
        error = await events.event()
        assert (error["event"], error["data"]["code"], error["data"]["status"]) == ("error", "UNAVAILABLE", 503)
        assert "id" not in error, "a client that reconnects resumes after its last event"
        assert await events.chunk() == ""

    async def test_late_first_error_is_an_event(
        self, gateway: Served, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streaming, "_FIRST_REPLY_S", 0.01)
        events = await gateway.watch()
        source.queue.put_nowait(MessageNotFound("There is none."))
        assert (await events.event())["data"]["code"] == "DEAD_LETTER_NOT_FOUND"

    async def test_invalid_requests_are_rejected_by_the_gateway(
        self, gateway: Served, backend: Backend, source: Source
    ) -> None:
        assert (await replace(gateway, token="a.b.c").watch()).status == 401
        invalid = await gateway.watch(f"{WATCH}?colour=red")
        assert (invalid.status, (await invalid.body())["errors"][0]["field"]) == (400, "colour")
        assert not backend.received

    async def test_unavailable_service_is_503(self, serve: Callable[..., Served]) -> None:
        served = serve("127.0.0.1:1")
        await served.app.limits.open()
        assert (await served.watch()).status == 503

    async def test_unresponsive_service_is_504(self, serve: Callable[..., Served]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as unresponsive:
            served = serve(f"127.0.0.1:{unresponsive.getsockname()[1]}", deadline_default_s=0.5)
            await served.app.limits.open()
            assert (await served.watch()).status == 504


class TestDisconnect:
    async def test_disconnect_cancels_the_rpc(self, gateway: Served, source: Source) -> None:
        events = await gateway.watch()
        assert source.open_streams == 1
        events.close()
        await eventually(source.is_closed, within_s=1.0)

    async def test_slow_client_applies_backpressure_and_disconnects(self, gateway: Served, backend: Backend) -> None:
        sent, ended = 0, asyncio.Event()

        async def flood(request: Any, received: ReceivedCall) -> AsyncIterator[WatchReply]:
            nonlocal sent
            try:
                while True:
                    sent += 1
                    yield WatchReply(line=Line(note="x" * 50_000))
            finally:
                ended.set()

        async def is_paused() -> bool:
            before = sent
            await asyncio.sleep(0.3)
            return before == sent > 0

        backend.replies["Watch"] = flood
        events = await gateway.watch()
        await eventually(is_paused)
        assert sent < 2000, "the gateway reads no further than the client does"
        events.close()
        await asyncio.wait_for(ended.wait(), 2)

    async def test_streams_end_on_drain(self, gateway: Served, source: Source) -> None:
        events = await gateway.watch()
        assert await events.chunk() == "retry: 2000\n\n"
        gateway.app.drain()
        while chunk := await asyncio.wait_for(events.chunk(), 1):
            assert chunk == ": keep-alive\n\n"
        await eventually(source.is_closed, within_s=1.0)

    async def test_open_streams_do_not_delay_the_shutdown(
        self, settings: Callable[..., Settings], backend: Backend, source: Source, client_of: Callable[[int], Client]
    ) -> None:
        process_settings = settings("gateway", addresses={"budgets": backend.address})
        async with running(process_settings, "tests.gateway.probe_gateway") as process:
            before = await client_of(process.port).watch()
            process.process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            while await asyncio.wait_for(before.chunk(), 1):
                pass
            between = await client_of(process.port).watch()
            assert between.headers["connection"] == "close"
            while await between.chunk():
                pass
            assert await asyncio.wait_for(process.process.wait(), 10) == 0
            assert time.monotonic() - started < 4.5
        await eventually(source.is_closed, within_s=1.0)
