"""A stream over REST: server-sent events that come as they are told and end when anybody leaves."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import uvicorn

from gateway import streaming
from gateway.app import App
from gateway.server import _Server
from kit.errors import NotFound, Unavailable
from kit.settings import Settings
from tests.gateway.backend import PROBED, Asked, Backend
from tests.gateway.conftest import BASE
from tests.gateway.process import running
from tests.gateway.wire import Events, Wire, get
from tests.harness.observe import eventually
from tests.kit.probe import DoReply, Line, WatchReply

WATCH = f"{BASE}/probes/watch"


class MessageNotFound(NotFound):
    reason = "DEAD_LETTER_NOT_FOUND"


@dataclass
class Source:
    """What the service tells: what is put into it, or raised; None ends it."""

    told: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    open: int = 0

    async def tell(self, request: Any, asked: Asked) -> AsyncIterator[WatchReply]:
        self.open += 1
        try:
            while told := await self.told.get():
                if isinstance(told, Exception):
                    raise told
                yield told
        finally:
            self.open -= 1

    async def is_closed(self) -> bool:
        return self.open == 0


@pytest.fixture
def source(backend: Backend) -> Source:
    source = Source()
    backend.replies["Watch"] = source.tell
    return source


@dataclass
class Caller:
    """Somebody who calls a gateway."""

    port: int
    token: str
    opened: list[Events]

    async def watch(self, path: str = WATCH, **headers: str) -> Events:
        self.opened.append(await asyncio.wait_for(Events.open(self.port, path, self.token, **headers), 5))
        return self.opened[-1]


@dataclass
class Served(Caller):
    """A gateway that is served in this process."""

    app: App


@pytest.fixture
def call(token: Callable[..., str]) -> Iterator[Callable[[int], Caller]]:
    """Makes a caller of the gateway at a port."""
    opened: list[Events] = []
    yield lambda port: Caller(port, token(), opened)
    for events in opened:
        events.close()


@pytest.fixture
async def serve(
    settings: Callable[..., Settings], call: Callable[[int], Caller]
) -> AsyncIterator[Callable[..., Served]]:
    """Serves the probe's routes over HTTP: `serve(address)`."""
    begun: list[tuple[uvicorn.Server, asyncio.Task[None], App]] = []

    def start(address: str, **changed: Any) -> Served:
        app = App(settings("gateway", addresses={"budgets": address}, **changed), PROBED)
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
        server = _Server(config)
        begun.append((server, asyncio.create_task(server.serve(sockets=[listener])), app))
        return Served(**vars(call(listener.getsockname()[1])), app=app)

    yield start
    for server, task, app in begun:
        app.drain()
        server.should_exit = True
        await task
        await app.close()


@pytest.fixture
async def gateway(serve: Callable[..., Served], backend: Backend) -> Served:
    served = serve(backend.address)
    await served.app.limits.open()
    return served


class TestEvents:
    async def test_each_message_is_an_event_with_id_name_and_data(self, gateway: Served, source: Source) -> None:
        for told in (
            WatchReply(event_id="7", done=DoReply(text="two\nlines")),
            WatchReply(event_id="8", line=Line(note="n")),
            WatchReply(),
        ):
            source.told.put_nowait(told)
        events = await gateway.watch()
        assert events.status == 200
        assert events.headers["content-type"] == "text/event-stream"
        assert events.headers["cache-control"] == "no-store"
        assert events.headers["x-accel-buffering"] == "no"
        assert {"ratelimit", "x-request-id", "traceparent"} <= set(events.headers)
        assert await events.piece() == "retry: 2000\n\n"
        assert await events.event() == {
            "id": "7", "event": "done", "data": {"event_id": "7", "done": {"text": "two\nlines"}},
        }  # fmt: skip
        assert (await events.event())["event"] == "line"
        assert await events.event() == {"event": "WatchReply", "data": {"event_id": ""}}

    async def test_they_come_as_they_are_told(self, gateway: Served, source: Source) -> None:
        events = await gateway.watch()
        for number in range(3):
            source.told.put_nowait(WatchReply(event_id=str(number)))
            assert (await asyncio.wait_for(events.event(), 5))["id"] == str(number)

    async def test_the_end_of_the_rpc_is_the_end_of_the_answer(self, gateway: Served, source: Source) -> None:
        source.told.put_nowait(None)
        events = await gateway.watch()
        assert [await events.piece(), await events.piece()] == ["retry: 2000\n\n", ""]
        events.writer.write(get(f"{BASE}/probes/one", gateway.token))
        assert (await events.reader.readline()).startswith(b"HTTP/1.1 200"), "the connection can be used again"

    async def test_a_quiet_stream_is_kept_alive(
        self, gateway: Served, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streaming, "_KEEP_ALIVE_S", 0.05)
        events = await gateway.watch()
        assert [await events.piece() for _ in range(3)] == ["retry: 2000\n\n", ": keep-alive\n\n", ": keep-alive\n\n"]
        source.told.put_nowait(WatchReply(event_id="1"))
        assert (await events.event())["id"] == "1"

    async def test_token_trace_and_request_id_go_along_and_no_deadline(
        self, gateway: Served, source: Source, backend: Backend
    ) -> None:
        await gateway.watch(x_request_id="mine-1")
        asked = backend.asked[0]
        assert asked.metadata["authorization"] == f"Bearer {gateway.token}"
        assert asked.metadata["x-request-id"] == "mine-1"
        assert asked.time_remaining == 0, "none was set"

    async def test_a_path_of_its_own_wins_over_an_id(self, gateway: Served, source: Source, backend: Backend) -> None:
        await gateway.watch()
        assert (await gateway.watch(f"{BASE}/probes/watched")).headers["content-type"] == "application/json"
        assert [asked.rpc for asked in backend.asked] == ["Watch", "Get"]

    async def test_a_stream_has_no_head(self, gateway: Served) -> None:
        wire = await Wire.open(gateway.port)
        wire.writer.write(get(WATCH, gateway.token).replace(b"GET", b"HEAD", 1))
        assert (await wire.reader.readline()).startswith(b"HTTP/1.1 405")
        wire.close()

    async def test_one_log_line_tells_of_it_when_it_is_over(
        self, gateway: Served, source: Source, logs: list[dict[str, Any]]
    ) -> None:
        (await gateway.watch()).close()

        async def line() -> dict[str, Any] | None:
            return next((line for line in logs if line["event"] == "request"), None)

        told = await eventually(line)
        assert told is not None
        assert (told["route"], told["status"], told["actor"]) == (WATCH, 200, "alice")


class TestWhereItBegins:
    @pytest.mark.parametrize(
        ("path", "headers", "after"),
        [
            (WATCH, {}, ""),
            (WATCH, {"last_event_id": "41"}, "41"),
            (f"{WATCH}?last_event_id=40", {}, "40"),
            (f"{WATCH}?last_event_id=40", {"last_event_id": "41"}, "41"),
        ],
    )
    async def test_after_the_last_event_that_the_caller_had(
        self, gateway: Served, source: Source, backend: Backend, path: str, headers: dict[str, str], after: str
    ) -> None:
        """Who opens it says so in the address; who comes back with the same address says more by the header."""
        await gateway.watch(path, **headers)
        request: Any = backend.asked[0].request
        assert request.last_event_id == after


class TestRefusals:
    async def test_before_the_first_message_it_is_a_problem_with_its_status(
        self, gateway: Served, source: Source
    ) -> None:
        source.told.put_nowait(MessageNotFound("There is none."))
        answer = await gateway.watch()
        problem = await answer.body()
        assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
        assert (problem["status"], problem["code"], problem["detail"]) == (
            404, "DEAD_LETTER_NOT_FOUND", "There is none.",
        )  # fmt: skip

    async def test_after_it_an_event_and_the_end(self, gateway: Served, source: Source) -> None:
        for told in (WatchReply(event_id="1"), Unavailable("It")):
            source.told.put_nowait(told)
        events = await gateway.watch()
        assert (await events.event())["id"] == "1"
        error = await events.event()
        assert (error["event"], error["data"]["code"], error["data"]["status"]) == ("error", "UNAVAILABLE", 503)
        assert "id" not in error, "who comes back goes on after what it had"
        assert await events.piece() == ""

    async def test_a_refusal_that_comes_late_is_an_event_too(
        self, gateway: Served, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streaming, "_FIRST_REPLY_S", 0.01)
        events = await gateway.watch()
        source.told.put_nowait(MessageNotFound("There is none."))
        assert (await events.event())["data"]["code"] == "DEAD_LETTER_NOT_FOUND"

    async def test_what_the_gateway_refuses(self, gateway: Served, backend: Backend, source: Source) -> None:
        assert (await replace(gateway, token="a.b.c").watch()).status == 401
        wrong = await gateway.watch(f"{WATCH}?colour=red")
        assert (wrong.status, (await wrong.body())["errors"][0]["field"]) == (400, "colour")
        assert not backend.asked

    async def test_a_service_that_is_away(self, serve: Callable[..., Served]) -> None:
        served = serve("127.0.0.1:1")
        await served.app.limits.open()
        assert (await served.watch()).status == 503

    async def test_a_service_that_says_nothing(self, serve: Callable[..., Served]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            served = serve(f"127.0.0.1:{mute.getsockname()[1]}", deadline_default_s=0.5)
            await served.app.limits.open()
            assert (await served.watch()).status == 504


class TestWhoLeaves:
    async def test_a_caller_who_leaves_ends_the_rpc_at_once(self, gateway: Served, source: Source) -> None:
        events = await gateway.watch()
        assert source.open == 1
        events.close()
        await eventually(source.is_closed, within_s=1.0)

    async def test_a_caller_who_leaves_while_it_is_told_much(self, gateway: Served, backend: Backend) -> None:
        told, ended = 0, asyncio.Event()

        async def flood(request: Any, asked: Asked) -> AsyncIterator[WatchReply]:
            nonlocal told
            try:
                while True:
                    told += 1
                    yield WatchReply(line=Line(note="x" * 50_000))
            finally:
                ended.set()

        async def stands_still() -> bool:
            before = told
            await asyncio.sleep(0.3)
            return before == told > 0

        backend.replies["Watch"] = flood
        events = await gateway.watch()
        await eventually(stands_still)
        assert told < 2000, "what the caller does not take is not asked for"
        events.close()
        await asyncio.wait_for(ended.wait(), 2)

    async def test_streams_end_when_the_process_is_to_end(self, gateway: Served, source: Source) -> None:
        events = await gateway.watch()
        assert await events.piece() == "retry: 2000\n\n"
        gateway.app.drain()
        while piece := await asyncio.wait_for(events.piece(), 1):
            assert piece == ": keep-alive\n\n"
        await eventually(source.is_closed, within_s=1.0)

    async def test_a_process_with_streams_ends_as_soon_as_one_without(
        self, settings: Callable[..., Settings], backend: Backend, source: Source, call: Callable[[int], Caller]
    ) -> None:
        told = settings("gateway", addresses={"budgets": backend.address})
        async with running(told, "tests.gateway.probe_gateway") as process:
            before = await call(process.port).watch()
            process.process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            while await asyncio.wait_for(before.piece(), 1):
                pass
            between = await call(process.port).watch()
            assert between.headers["connection"] == "close"
            while await between.piece():
                pass
            assert await asyncio.wait_for(process.process.wait(), 10) == 0
            assert time.monotonic() - started < 4.5
        await eventually(source.is_closed, within_s=1.0)
