"""Limits on connections: what clients may send, how long they may take, and how many there may be."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gateway.connections import Connections
from kit.settings import Settings
from tests.gateway.backend import Backend
from tests.gateway.conftest import BASE, BUDGET
from tests.gateway.process import Process, running
from tests.gateway.raw import BODY_S, HEAD, HEADER_S, IDLE_S, SWEEP_S, WRITE_S, Raw, is_served, memory_mib, post, send


class TestHeaderBlock:
    @pytest.mark.parametrize(
        "piece",
        [b"a" * 65_536, b"X-Filler: abcdefgh\r\n" * 3_000, b"\r\n \t" * 10_000, b" " * 65_536],
        ids=["one value", "many headers", "folded", "spaces"],
    )
    async def test_endless_header_is_refused(self, gateway: Process, piece: bytes) -> None:
        before = memory_mib(gateway)
        raw = await send(gateway.port, HEAD + b"X-Endless: ")
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(5):
                for _ in range(1_000):
                    raw.writer.write(piece)
                    await raw.writer.drain()
        response = await raw.closed(7)
        assert response[:12] in {b"HTTP/1.1 431", b"HTTP/1.1 400", b""}, response[:100]
        assert memory_mib(gateway) - before < 20
        await is_served(gateway.port)

    @pytest.mark.parametrize(
        "request_",
        [
            HEAD + b"X-Long: " + b"a" * 33_000 + b"\r\n\r\n",
            HEAD + b"X-Many: abcdefgh\r\n" * 1_900 + b"\r\n",
            b"GET /healthz?" + b"a" * 33_000 + b" HTTP/1.1\r\nHost: gateway\r\n\r\n",
            b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: gateway\r\n\r\n",
        ],
        ids=["header", "headers", "query", "path"],
    )
    async def test_more_than_32_kib_are_refused(self, gateway: Process, request_: bytes) -> None:
        raw = await send(gateway.port, request_)
        assert await raw.problem() == (
            431, "HEADERS_TOO_LARGE", "The request line and the headers may have 32768 bytes at most.",
        )  # fmt: skip
        assert await raw.closed(7) == b""

    async def test_less_than_32_kib_are_accepted(self, gateway: Process) -> None:
        raw = await send(gateway.port, HEAD + b"X-Long: " + b"a" * 32_000 + b"\r\n\r\n")
        assert (await raw.response())[0] == 200

    async def test_limit_does_not_count_the_body(self, gateway: Process, token: Callable[..., str]) -> None:
        body = b'{"description": "' + b"a" * 200_000 + b'"}'
        request = post(token(), f"Content-Length: {len(body)}", body=body)
        raw = await send(gateway.port, request + HEAD)
        assert (await raw.response())[0] == 200
        raw.writer.write(b"\r\n")
        assert (await raw.response())[0] == 200


class TestTimes:
    @pytest.mark.parametrize("start", [HEAD, HEAD[:9], HEAD + b"X-Half: a"], ids=["line", "half line", "header"])
    async def test_half_a_header_gets_a_response_and_is_closed(self, gateway: Process, start: bytes) -> None:
        raw = await send(gateway.port, start)
        started = time.monotonic()
        assert await asyncio.wait_for(raw.problem(), HEADER_S + SWEEP_S) == (
            408, "REQUEST_TIMEOUT", "The header of the request did not arrive within 1 seconds; nothing was done.",
        )  # fmt: skip
        assert time.monotonic() - started > HEADER_S
        assert await raw.closed(7) == b""

    async def test_dripping_header_is_closed(self, gateway: Process) -> None:
        raw = await send(gateway.port, HEAD + b"X-Drip: ")
        assert (await asyncio.wait_for(raw.dripped(raw.problem()), HEADER_S + SWEEP_S))[0] == 408
        assert await raw.closed(7) == b""

    async def test_silent_connection_is_closed(self, gateway: Process) -> None:
        raw = await send(gateway.port, b"")
        started = time.monotonic()
        assert await raw.closed(IDLE_S + SWEEP_S) == b""
        assert time.monotonic() - started > IDLE_S - 0.1, "a client may connect before it has a request"

    async def test_idle_connection_is_closed(self, gateway: Process) -> None:
        raw = await send(gateway.port, HEAD + b"\r\n")
        await raw.response()
        started = time.monotonic()
        assert await raw.closed(IDLE_S + SWEEP_S) == b""
        assert time.monotonic() - started > IDLE_S - 0.1

    @pytest.mark.parametrize("read", [Raw.problem, lambda raw: raw.dripped(raw.problem())], ids=["half", "dripping"])
    async def test_half_a_body_gets_a_response_and_is_closed(
        self, gateway: Process, token: Callable[..., str], read: Callable[[Raw], Coroutine[Any, Any, Any]]
    ) -> None:
        raw = await send(gateway.port, post(token(), "Content-Length: 1000", body=b'{"description": "'))
        assert (await asyncio.wait_for(read(raw), BODY_S + SWEEP_S))[:2] == (408, "REQUEST_TIMEOUT")
        assert await raw.closed(7) == b""

    async def test_unread_response_is_closed(
        self, gateway: Process, backend: Backend, token: Callable[..., str]
    ) -> None:
        """A client that does not read holds no more than a part of the response in its connection, and not for long."""
        name = "x" * 6_000_000
        backend.replies["GetBudget"] = backend.message("budgets.v1.Budget", id=BUDGET, name=name)
        raw = await send(gateway.port, post(token(), path=f"{BASE}/budgets/{BUDGET}").replace(b"POST", b"GET", 1))
        raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(WRITE_S + SWEEP_S)  # the client reads nothing for as long
        raw.reader._transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await raw.closed(5)) < len(name)

    async def test_slow_client_receives_all(
        self, gateway: Process, backend: Backend, token: Callable[..., str]
    ) -> None:
        name = "x" * 7_000_000
        backend.replies["GetBudget"] = backend.message("budgets.v1.Budget", id=BUDGET, name=name)
        raw = await send(gateway.port, post(token(), path=f"{BASE}/budgets/{BUDGET}").replace(b"POST", b"GET", 1))
        for _ in range(7):
            await raw.reader.readexactly(len(name) // 7)
            await asyncio.sleep(WRITE_S / 3)  # the client is slow


class TestManyConnections:
    @pytest.mark.parametrize("kind", ["nothing", "half a header", "half a body", "half a body, authenticated"])
    async def test_2500_waiting_connections_are_closed_and_others_served(
        self, gateway: Process, token: Callable[..., str], kind: str
    ) -> None:
        body = b"[" + b"1," * 30_000
        first = {
            "nothing": b"",
            "half a header": HEAD + b"X-Half: " + b"a" * 30_000,
            "half a body": post("none", "Content-Length: 4000000", body=body),
            "half a body, authenticated": post(token(), "Content-Length: 4000000", body=body),
        }[kind]
        opened: list[Raw] = []
        for _ in range(25):
            opened += await asyncio.gather(*(Raw.open(gateway.port, first) for _ in range(100)))
            await is_served(gateway.port)
        assert memory_mib(gateway) < 400
        statuses = {(await raw.closed(30))[9:12] for raw in opened}
        assert statuses <= {b"", b"401", b"408", b"429"}, statuses
        await is_served(gateway.port)

    async def test_further_connection_replaces_one_that_waits(
        self, settings: Callable[..., Settings], backend: Backend
    ) -> None:
        addresses = dict.fromkeys(("entities", "budgets", "approvals"), backend.address)
        async with running(settings("gateway", addresses=addresses, http_connections_max=50)) as gateway:
            waiting = [await send(gateway.port, HEAD) for _ in range(200)]
            await is_served(gateway.port)
            closed = [raw.reader.at_eof() or raw.reader.exception() is not None for raw in waiting]
            assert 150 <= sum(closed) <= 152
            assert all(closed[:148]), "the oldest are closed first"

    async def test_further_connection_replaces_an_idle_one_before_one_that_sends(
        self, settings: Callable[..., Settings], backend: Backend, token: Callable[..., str]
    ) -> None:
        addresses = dict.fromkeys(("entities", "budgets", "approvals"), backend.address)
        async with running(settings("gateway", addresses=addresses, http_connections_max=20)) as gateway:
            sending = await send(gateway.port, post(token(), "Content-Length: 60000", body=b'{"description": "'))
            idle = [await send(gateway.port, b"") for _ in range(18)]
            await asyncio.sleep(SWEEP_S)  # nothing that a client can read shows when a sweep has set the deadlines
            idle += [await send(gateway.port, b"") for _ in range(10)]
            await is_served(gateway.port)
            sending.writer.write(b"a" * (60_000 - 19) + b'"}')
            assert (await sending.response())[0] == 200


class _Checked:
    """Stands in for a connection."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.calls = error, list[str]()

    def check(self, now: float) -> None:
        self.calls.append("check")
        if self.error:
            raise self.error

    def abort(self, reason: str) -> None:
        self.calls.append(reason)


def test_fault_of_one_connection_does_not_end_the_checks_of_others(
    settings: Callable[..., Settings], logs: list[dict[str, Any]]
) -> None:
    connections = Connections(settings("gateway"), 10)
    faulty, other = _Checked(RuntimeError("closed")), _Checked()
    connections._open |= {faulty: None, other: None}  # type: ignore[dict-item]
    connections.check(1.0)
    assert (faulty.calls, other.calls) == (["check", "internal_error"], ["check"])
    assert [line["event"] for line in logs] == ["connection not checked"]
