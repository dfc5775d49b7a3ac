"""Documents are rendered in worker processes with limits on time and memory."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from grpc import StatusCode

from kit import failures
from kit.errors import Overloaded
from kit.settings import Settings
from rendering.errors import DocumentTooLarge, RenderingFailed, RenderingTimedOut
from rendering.renderer import Renderer
from tests.harness.observe import eventually

LAYOUT = "tests.kit.layouts"
TENANT, OTHER = uuid4(), uuid4()


@pytest.fixture
def renderer(kit_settings: Callable[..., Settings]) -> Callable[..., Renderer]:
    return lambda **settings: Renderer(kit_settings(**settings))


async def run(renderer: Renderer, do: str, text: str = "", *, tenant: object = TENANT) -> bytes:
    return await renderer.render(tenant, LAYOUT, json.dumps({"do": do, "text": text}).encode())  # type: ignore[arg-type]


def workers() -> set[int]:
    """The processes that this one started and has not waited for."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for file in children for pid in file.read_text().split()}


class TestDocument:
    async def test_the_worker_writes_the_document_to_stdout(self, renderer: Callable[..., Renderer]) -> None:
        text = "ü\n" * 1_000_000
        assert (await run(renderer(), "echo", text)).decode() == text

    async def test_the_worker_has_a_folder_of_its_own_and_no_settings(
        self, renderer: Callable[..., Renderer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BILLING_PAGE_KEY", "secret")
        folder, modules, *environment = (await run(renderer(), "describe")).decode().split("\n")
        assert not os.path.exists(folder)  # noqa: ASYNC240, PTH110
        assert modules == ""
        assert [name for name in environment if name.startswith("BILLING_")] == []


class TestFailures:
    async def test_an_error_is_internal_and_named_without_values(self, renderer: Callable[..., Renderer]) -> None:
        with pytest.raises(RenderingFailed) as raised:
            await run(renderer(), "fail", "Canary-4711")
        text = failures.describe(raised.value)
        assert "tests.kit.layouts: exit code 4: ValueError" in text
        assert "layouts.py:" in text
        assert "Canary" not in text

    @pytest.mark.parametrize(("do", "code"), [("crash", "-11"), ("end", "7: ended")])
    async def test_a_crash_is_an_error(self, renderer: Callable[..., Renderer], do: str, code: str) -> None:
        with pytest.raises(RenderingFailed, match=f"exit code {code}"):
            await run(renderer(), do)

    async def test_an_unknown_layout_is_an_error(self, renderer: Callable[..., Renderer]) -> None:
        with pytest.raises(RenderingFailed, match="ModuleNotFoundError"):
            await renderer().render(TENANT, "tests.kit.no_layout", b"{}")

    @pytest.mark.parametrize("do", ["sleep", "spin"])
    async def test_a_worker_that_takes_too_long_is_killed(self, renderer: Callable[..., Renderer], do: str) -> None:
        before, begin = workers(), time.monotonic()
        with pytest.raises(RenderingTimedOut) as raised:
            await run(renderer(rendering_timeout_s=1.0), do)
        assert 1.0 <= time.monotonic() - begin < 10.0
        assert workers() <= before
        assert (raised.value.code, raised.value.metadata) == (StatusCode.DEADLINE_EXCEEDED, {"limit_seconds": "1"})

    async def test_a_worker_that_needs_too_much_memory_ends(self, renderer: Callable[..., Renderer]) -> None:
        with pytest.raises(DocumentTooLarge, match="512 MiB") as raised:
            await run(renderer(rendering_memory_bytes_max=512 << 20), "fill_memory")
        assert raised.value.code is StatusCode.FAILED_PRECONDITION

    async def test_a_cancelled_call_kills_its_worker(self, renderer: Callable[..., Renderer]) -> None:
        before = workers()
        call = asyncio.create_task(run(renderer(), "sleep"))

        async def started() -> bool:
            return bool(workers() - before)

        await eventually(started)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert workers() <= before


class TestTurns:
    async def test_a_tenant_does_not_take_all_workers(self, renderer: Callable[..., Renderer]) -> None:
        shared = renderer(rendering_workers_max=2, tenant_reserve=0.5, rendering_timeout_s=30.0)
        many = [asyncio.create_task(run(shared, "sleep")) for _ in range(3)]
        try:
            await asyncio.sleep(0)
            assert await run(shared, "echo", "of another tenant", tenant=OTHER) == b"of another tenant"
        finally:
            for call in many:
                call.cancel()
            await asyncio.wait(many)

    async def test_a_call_that_finds_no_worker_is_refused(self, renderer: Callable[..., Renderer]) -> None:
        shared = renderer(rendering_workers_max=1, tenant_reserve=0, rendering_timeout_s=1.0)
        first = asyncio.create_task(run(shared, "sleep"))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await run(shared, "echo", "too late", tenant=OTHER)
        with pytest.raises(RenderingTimedOut):
            await first
        assert await run(shared, "echo", "free again", tenant=OTHER) == b"free again"
