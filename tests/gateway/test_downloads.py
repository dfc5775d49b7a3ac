"""Files over REST: sent in parts as they arrive, with the headers that describe them."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from google.api.httpbody_pb2 import HttpBody

from gateway import downloads
from gateway.downloads import _disposition
from kit.errors import NotFound, Unavailable
from serving import files
from tests.gateway.backend import Backend, ReceivedCall
from tests.gateway.conftest import BASE
from tests.gateway.served import Served
from tests.gateway.wire import Events
from tests.harness.observe import eventually

FILE = f"{BASE}/probes/1/file"
LARGE = bytes(range(256)) * 4096 * 24  # 24 MiB: more than a message may have


class FileNotFound(NotFound):
    reason = "DEAD_LETTER_NOT_FOUND"


class FileSource:
    """What the service sends: `content`, then `error` if there is one after `error_after` messages."""

    def __init__(self) -> None:
        self.content = b"%PDF-1.7 content"
        self.name = "ACME-2026-000042.pdf"
        self.error: Exception | None = None
        self.error_after = 0
        self.sent = 0
        self.is_open = False
        self.hold = asyncio.Event()
        """Set: go on after the first message."""
        self.hold.set()

    async def stream(self, request: Any, received: ReceivedCall) -> AsyncIterator[HttpBody]:
        self.is_open = True
        messages = files.messages(files.spooled(self.content), name=self.name, media_type="application/pdf")
        try:
            async with aclosing(messages):
                async for message in messages:
                    if self.error and self.sent == self.error_after:
                        raise self.error
                    yield message
                    self.sent += 1
                    await self.hold.wait()
        finally:
            self.is_open = False

    async def is_closed(self) -> bool:
        return not self.is_open


@pytest.fixture
def source(backend: Backend) -> FileSource:
    source = FileSource()
    backend.replies["Download"] = source.stream
    return source


@pytest.fixture
async def gateway(serve: Callable[..., Served], backend: Backend) -> Served:
    served = serve(backend.address)
    await served.app.limits.open()
    return served


async def content_of(response: Events) -> bytes:
    """The body, which has the announced length."""
    return await asyncio.wait_for(response.reader.readexactly(int(response.headers["content-length"])), 30)


class TestFiles:
    async def test_a_file_has_its_type_name_length_and_digest(self, gateway: Served, source: FileSource) -> None:
        response = await gateway.watch(FILE)
        assert response.status == 200
        assert response.headers["content-type"] == "application/pdf"
        assert response.headers["content-disposition"] == 'attachment; filename="ACME-2026-000042.pdf"'
        assert response.headers["etag"] == f'"{hashlib.sha256(source.content).hexdigest()}"'
        assert response.headers["x-content-type-options"] == "nosniff"
        assert await content_of(response) == source.content

    async def test_a_file_may_be_larger_than_a_message(self, gateway: Served, source: FileSource) -> None:
        source.content = LARGE
        assert await content_of(await gateway.watch(FILE)) == LARGE

    async def test_an_empty_file(self, gateway: Served, source: FileSource) -> None:
        source.content = b""
        response = await gateway.watch(FILE)
        assert (response.status, response.headers["content-length"]) == (200, "0")

    async def test_a_second_request_can_follow_on_the_connection(self, gateway: Served, source: FileSource) -> None:
        response = await gateway.watch(FILE)
        await content_of(response)
        response.writer.write(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n")
        assert (await response.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")

    @pytest.mark.parametrize(
        ("name", "header"),
        [
            ("a b.pdf", 'attachment; filename="a b.pdf"'),
            ('a"\r\nb/ü.pdf', "attachment; filename=\"a___b__.pdf\"; filename*=UTF-8''a%22%0D%0Ab%2F%C3%BC.pdf"),
        ],
    )
    def test_names_can_not_break_the_header(self, name: str, header: str) -> None:
        assert _disposition(name) == header


class TestErrors:
    async def test_an_error_before_the_first_part_is_a_problem(self, gateway: Served, source: FileSource) -> None:
        source.error = FileNotFound("There is no such file.")
        response = await gateway.watch(FILE)
        assert response.status == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert (await response.body())["detail"] == "There is no such file."

    async def test_an_error_after_the_start_closes_the_connection(self, gateway: Served, source: FileSource) -> None:
        source.content, source.error, source.error_after = LARGE, Unavailable("This replica"), 4
        response = await gateway.watch(FILE)
        assert response.status == 200
        with pytest.raises(asyncio.IncompleteReadError) as cut:
            await content_of(response)
        assert cut.value.partial == LARGE[: 3 * files.PART_BYTES]

    async def test_a_service_that_sends_nothing_in_time(self, gateway: Served, backend: Backend) -> None:
        async def never(request: Any, received: ReceivedCall) -> AsyncIterator[HttpBody]:
            await asyncio.sleep(30)
            yield HttpBody()

        backend.replies["Download"] = never
        response = await gateway.watch(FILE, Request_Timeout="0.2")
        assert response.status == 504
        assert (await response.body())["code"] == "DEADLINE_EXCEEDED"

    async def test_head_is_not_allowed(self, gateway: Served, source: FileSource) -> None:
        response = await gateway.watch(FILE)
        await content_of(response)
        head = f"HEAD {FILE} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {gateway.token}\r\n\r\n"
        response.writer.write(head.encode())
        assert (await response.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 405")

    async def test_a_caller_without_permission_is_refused(self, gateway: Served, token: Callable[..., str]) -> None:
        gateway.token = token(roles=[])
        assert (await gateway.watch(FILE)).status == 403


class TestBackpressure:
    async def test_a_client_that_does_not_read_stops_the_service(self, gateway: Served, source: FileSource) -> None:
        source.content = LARGE
        response = await gateway.watch(FILE)
        last, sent = -1, 0
        while sent != last:  # until nothing moves any more
            await asyncio.sleep(0.3)
            last, sent = sent, source.sent
        assert sent * files.PART_BYTES < len(LARGE) / 2
        assert await content_of(response) == LARGE

    async def test_the_call_ends_with_the_client(self, gateway: Served, source: FileSource) -> None:
        source.content = LARGE
        response = await gateway.watch(FILE)
        response.close()
        await eventually(source.is_closed)
        assert source.sent * files.PART_BYTES < len(LARGE)

    async def test_downloads_count_as_memory(
        self,
        serve: Callable[..., Served],
        backend: Backend,
        source: FileSource,
    ) -> None:
        served = serve(backend.address, http_memory_bytes_max=2 * downloads._BUFFERED_BYTES_MAX, tenant_reserve=0.0)
        await served.app.limits.open()
        source.content = LARGE
        source.hold.clear()
        held = [await served.watch(FILE) for _ in range(2)]
        refused = await served.watch(FILE)
        assert (refused.status, (await refused.body())["code"]) == (429, "CONCURRENCY_LIMITED")
        source.hold.set()
        for response in held:
            assert await content_of(response) == LARGE
        source.content = b"small"
        assert (await served.watch(FILE)).status == 200
