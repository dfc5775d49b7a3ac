"""Cancellation of asyncio tasks that can be relied on.

In Python 3.11 `asyncio.wait_for`, which libraries use, swallows a cancellation that arrives at the moment of its
result: a task that was cancelled once may run for ever.
"""

import asyncio
from collections.abc import Awaitable
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
