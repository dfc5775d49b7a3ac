"""HTTP/1.1 over raw sockets: requests that a proxy could parse in another way are refused."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway.backend import Backend
from tests.gateway.conftest import BASE, BUDGET
from tests.gateway.process import Process
from tests.gateway.raw import HEAD, is_served, memory_mib, post, send


class TestTrailers:
    TRAILER = b"2\r\n{}\r\n0\r\n%s\r\n\r\n"

    async def test_trailer_does_not_authenticate(self, gateway: Process, token: Callable[..., str]) -> None:
        path = f"{BASE}/budgets/{BUDGET}/charge".encode()
        start = b"POST %s HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n" % path
        raw = await send(gateway.port, start + self.TRAILER % f"Authorization: Bearer {token()}".encode())
        assert (await raw.problem())[:2] == (401, "TOKEN_MISSING")

    async def test_trailer_overrides_no_header(
        self, gateway: Process, backend: Backend, token: Callable[..., str]
    ) -> None:
        trailers = f"Authorization: Bearer {token(subject='mallory')}\r\nIdempotency-Key: other\r\nIf-Match: 9".encode()
        headers = "Idempotency-Key: mine", "Transfer-Encoding: chunked"
        raw = await send(gateway.port, post(token(), *headers, body=self.TRAILER % trailers))
        assert (await raw.response())[0] == 200
        received: Any = backend.received[0]
        assert received.request.request_id == "mine"
        raw.writer.write(HEAD + b"\r\n")
        assert (await raw.response())[0] == 200, "the connection is still usable"

    @pytest.mark.parametrize("end", [b"0\r\nX-Endless: ", b"2;extension="])
    async def test_endless_trailer_or_extension_is_refused(
        self, gateway: Process, token: Callable[..., str], end: bytes
    ) -> None:
        raw = await send(gateway.port, post(token(), "Transfer-Encoding: chunked", body=b"2\r\n{}\r\n" + end))
        before = memory_mib(gateway)
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(3):
                while True:
                    raw.writer.write(b"a" * 65_536)
                    await raw.writer.drain()
        assert memory_mib(gateway) - before < 20
        await is_served(gateway.port)


class TestRepeatedHeaders:
    @pytest.mark.parametrize(
        "header",
        ["Authorization: Bearer other", "Idempotency-Key: b", "If-Match: 2", "Content-Type: application/json",
         "Host: other", "X-Request-Id: b", "Traceparent: 00-0-0-00", "Request-Timeout: 2", "Last-Event-Id: 2",
         "Content-Encoding: identity", "Expect: 100-continue"],
    )  # fmt: skip
    async def test_repeated_header_is_refused_by_name(
        self, gateway: Process, backend: Backend, token: Callable[..., str], header: str
    ) -> None:
        name = header.partition(":")[0]
        headers = [] if name in {"Authorization", "Host"} else [header]
        raw = await send(gateway.port, post(token(), *headers, header, "Content-Length: 2", body=b"{}"))
        status, code, detail = await raw.problem()
        assert (status, code) == (400, "INVALID_FIELDS")
        assert detail == f"Invalid request: header {name}: is set more than once"
        assert not backend.received

    async def test_lists_may_be_repeated(self, gateway: Process, token: Callable[..., str]) -> None:
        headers = "Accept: a/b", "Accept: c/d", "Via: 1.1 a", "Via: 1.1 b", "Content-Length: 2"
        raw = await send(gateway.port, post(token(), *headers, body=b"{}"))
        assert (await raw.response())[0] == 200

    async def test_missing_host_is_refused(self, gateway: Process) -> None:
        raw = await send(gateway.port, b"GET /healthz HTTP/1.1\r\n\r\n")
        assert await raw.problem() == (400, "MALFORMED_REQUEST", "The header Host is missing.")


class TestSmuggling:
    @pytest.mark.parametrize(
        "headers",
        [
            ("Content-Length: 2", "Transfer-Encoding: chunked"),
            ("Transfer-Encoding: chunked", "Content-Length: 2"),
            ("Content-Length: 2", "Content-Length: 2"),
            ("Content-Length: 2", "Content-Length: 3"),
            ("Content-Length: 2, 2",),
            ("Content-Length: +2",),
            ("Content-Length: 0x2",),
            ("Content-Length: -1",),
            ("Content-Length: 99999999999999999999",),
            ("Content-Length : 2",),
            ("Content-Length:",),
            ("Transfer-Encoding: identity",),
            ("Transfer-Encoding: chunked, identity",),
            ("Transfer-Encoding: xchunked",),
            ("Transfer-Encoding : chunked",),
            ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
            ("X-Folded: a\r\n Transfer-Encoding: chunked", "Content-Length: 2, 1"),
            ("X-Nul: a\0b", "Content-Length: 2"),
            ("X-Return: a\rb", "Content-Length: 2"),
        ],
    )
    async def test_ambiguous_length_is_refused(
        self, gateway: Process, backend: Backend, token: Callable[..., str], headers: tuple[str, ...]
    ) -> None:
        raw = await send(gateway.port, post(token(), *headers, body=b"{}" + HEAD + b"\r\n"))
        status, code, detail = await raw.problem()
        assert (status, code) == (400, "MALFORMED_REQUEST"), detail
        assert await raw.closed(7) == b"", "what follows is not read as a request"
        assert not backend.received

    @pytest.mark.parametrize(
        ("chunks", "status"),
        [
            (b"2\r\n{}\r\n0\r\n\r\n", 200), (b"2;a=b\r\n{}\r\n0\r\n\r\n", 200),
            (b"02\r\n{}\r\n0\r\n\r\n", 200), (b"2\n{}\n0\n\n", 400), (b"0x2\r\n{}\r\n0\r\n\r\n", 400),
            (b"2 \r\n{}\r\n0\r\n\r\n", 400), (b"2\r\n{}a0\r\n\r\n", 400), (b"-2\r\n{}\r\n0\r\n\r\n", 400),
            (b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n", 400),
        ],
    )  # fmt: skip
    async def test_invalid_chunks_are_refused(
        self, gateway: Process, token: Callable[..., str], chunks: bytes, status: int
    ) -> None:
        raw = await send(gateway.port, post(token(), "Transfer-Encoding: chunked", body=chunks))
        assert (await raw.response())[0] == status

    async def test_upgrade_with_a_body_is_refused(self, gateway: Process, token: Callable[..., str]) -> None:
        headers = "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "Content-Length: 2"
        raw = await send(gateway.port, post(token(), *headers, body=b"{}" + HEAD + b"\r\n"))
        assert (await raw.problem())[:2] == (400, "MALFORMED_REQUEST")
        assert await raw.closed(7) == b""

    async def test_offer_to_upgrade_is_ignored(self, gateway: Process) -> None:
        raw = await send(gateway.port, HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n" + HEAD)
        assert (await raw.response())[0] == 200
        assert await raw.closed(7) == b""


class TestHttp:
    async def test_pipelined_requests_get_responses_in_order(
        self, gateway: Process, backend: Backend, token: Callable[..., str]
    ) -> None:
        get = f"GET %s HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token()}\r\n\r\n"
        paths = ["/healthz", f"{BASE}/budgets/{BUDGET}", "/nowhere", "/healthz"]
        raw = await send(gateway.port, "".join(get % path for path in paths).encode())
        assert [(await raw.response())[0] for _ in paths] == [200, 200, 404, 200]

    async def test_too_many_pipelined_requests_are_cut_off(self, gateway: Process) -> None:
        before = memory_mib(gateway)
        raw = await send(gateway.port, (HEAD + b"\r\n") * 20_000)
        content = await raw.closed(10)
        assert 1 <= content.count(b"HTTP/1.1 200") <= 20
        assert memory_mib(gateway) - before < 20

    async def test_http_1_0_gets_a_response_and_is_closed(self, gateway: Process) -> None:
        raw = await send(gateway.port, b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await raw.response())[0] == 200
        assert await raw.closed(2) == b""

    @pytest.mark.parametrize(
        "start",
        [b"GET /healthz\r\n\r\n", b"GET /healthz HTTP/3.0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
         b"\x16\x03\x01\x02\0",
         b"HELLO /healthz HTTP/1.1\r\n\r\n", b"GET  /healthz HTTP/1.1\r\n\r\n", b"GET /a\0b HTTP/1.1\r\n\r\n",
         b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
         b"CONNECT gateway:80 HTTP/1.1\r\nHost: gateway\r\n\r\n", b"GET http:// HTTP/1.1\r\nHost: a\r\n\r\n"],
    )  # fmt: skip
    async def test_invalid_requests_are_refused(self, gateway: Process, start: bytes) -> None:
        raw = await send(gateway.port, start)
        status, code, _ = await asyncio.wait_for(raw.problem(), 5)
        assert (status, code) in {(400, "MALFORMED_REQUEST"), (404, "ROUTE_NOT_FOUND"), (405, "METHOD_NOT_ALLOWED")}
        await is_served(gateway.port)

    @pytest.mark.parametrize(
        ("line", "status"),
        [("GET http://gateway/healthz", 200), ("GET http://other:81/healthz", 200), ("HEAD /healthz", 200),
         ("OPTIONS /healthz", 405), ("TRACE /healthz", 405), ("PATCH /healthz", 405), ("GET /healthz/", 404),
         ("GET //healthz", 404), ("GET /./healthz", 404), ("GET /a/../healthz", 404), ("GET /%68ealthz", 404),
         ("GET http://gateway", 404), ("GET /healthz?a=%00", 200)],
    )  # fmt: skip
    async def test_targets_and_methods(self, gateway: Process, line: str, status: int) -> None:
        raw = await send(gateway.port, f"{line} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n".encode())
        assert (await raw.closed(5))[9:12] == str(status).encode()

    async def test_body_is_requested_only_if_the_headers_are_accepted(
        self, gateway: Process, backend: Backend, token: Callable[..., str]
    ) -> None:
        accepted = await send(gateway.port, post(token(), "Expect: 100-continue", "Content-Length: 2"))
        assert await accepted.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        accepted.writer.write(b"{}")
        assert (await accepted.response())[0] == 200
        refused = await send(gateway.port, post(token(role="viewer"), "Expect: 100-continue", "Content-Length: 2"))
        status, headers, _ = await refused.response()
        assert (status, headers["connection"]) == (403, "close")
        assert await refused.closed(7) == b"", "the body could be parsed as the next request"

    async def test_response_before_the_end_of_the_body_arrives(
        self, gateway: Process, token: Callable[..., str]
    ) -> None:
        """The connection is not reset while the client still sends."""
        raw = await send(gateway.port, post(token(), "Content-Length: 50000000"))
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                raw.writer.write(b"a" * 100_000)
                await asyncio.sleep(0.001)  # a body arrives in parts
        status, headers, _ = await raw.response()
        assert (status, headers["connection"]) == (413, "close")
