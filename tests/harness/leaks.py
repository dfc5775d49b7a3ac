"""What tests leave on the event loop: tasks that still run, and sockets that are open."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop.loop

from tests.harness.observe import eventually

_FOLDER: Final = str(Path(__file__).parents[1])
_ENDING_S: Final = 3.0
"""How long tasks and sockets that are ending may take."""
_SOCKET: Final[type] = vars(uvloop.loop)["UVSocketHandle"]  # not in its type stubs


@contextlib.asynccontextmanager
async def no_tasks_left() -> AsyncIterator[None]:
    """Fail if functions of tests, such as handlers of connections, still run after the block as tasks of their own."""
    before = _running()
    yield
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ENDING_S):
            while left := _running() - before:
                await asyncio.wait(left)
    if left := _running() - before:
        pytest.fail("tasks still run after the test: " + ", ".join(sorted(map(repr, left))))


def _running() -> "set[asyncio.Task[Any]]":
    """Return the tasks in progress whose coroutine is a function in tests/."""
    return {task for task in asyncio.all_tasks() - {asyncio.current_task()} if _file(task).startswith(_FOLDER)}


def _file(task: "asyncio.Task[Any] | None") -> str:
    code = getattr(task.get_coro(), "cr_code", None) if task else None
    return code.co_filename if code else ""


@contextlib.asynccontextmanager
async def no_sockets_left() -> AsyncIterator[None]:
    """Fail if sockets of uvloop are open after the block: it can't close a loop with a connection that is half closed.

    What is no longer referenced has been closed with a ResourceWarning already, which fails the test.
    """
    yield
    gc.collect()
    sockets = [each for each in gc.get_objects() if isinstance(each, _SOCKET) and _is_open(each)]

    async def are_closed() -> bool:
        return not any(map(_is_open, sockets))

    if sockets:
        await eventually(are_closed, within_s=_ENDING_S, about=f"closed sockets: {', '.join(map(_described, sockets))}")


def _is_open(socket: object) -> bool:
    return " closed=False " in repr(socket)


def _described(socket: Any) -> str:
    if not hasattr(socket, "get_extra_info"):
        return repr(socket)
    ends = " to ".join(str(socket.get_extra_info(name)) for name in ("sockname", "peername"))
    return f"{socket!r} of {socket.get_protocol()!r}, {ends}"
