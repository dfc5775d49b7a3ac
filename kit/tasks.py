"""Cancellation of asyncio tasks that can be relied on, and long work in pieces.

In Python 3.11 `asyncio.wait_for`, which libraries use, swallows a cancellation that arrives at the moment of its
result: a task that was cancelled once may run for ever.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


async def cancel_and_wait(*tasks: asyncio.Task[None], retry_s: float = 0.5) -> None:
    """Cancel the tasks, every `retry_s` seconds, until all have ended; their exceptions are dropped."""
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=retry_s)
    await asyncio.gather(*tasks, return_exceptions=True)


pause_s: ContextVar[float] = ContextVar("pause_s", default=0.0)
"""How long `let_others_run` pauses in the current call: longer than 0 while other tenants are active."""


async def let_others_run() -> None:
    """Let other tasks run, between the pieces of long work."""
    await asyncio.sleep(pause_s.get())


async def in_pieces(items: Sequence[T], size: int) -> AsyncIterator[Sequence[T]]:
    """Yield the items in pieces of this size. Between the pieces other tasks run, so that they don't wait for all."""
    for start in range(0, len(items), size):
        if start:
            await let_others_run()
        yield items[start : start + size]


async def run_to_completion(work: Awaitable[T]) -> T:
    """Return the result of `work`, and let it finish even if the caller is cancelled; then raise CancelledError."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        task.exception()  # marks it as retrieved, so that asyncio does not log it
        raise cancelled
    return task.result()
