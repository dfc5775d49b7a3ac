"""Tasks that end when they are told to.

In Python 3.11 `asyncio.wait_for` loses a cancellation that comes at the moment of its result, and libraries use it:
a task that was cancelled once may go on for ever.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_AGAIN_S = 0.5

T = TypeVar("T")


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel the tasks until all have ended; what they raise is dropped."""
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)


async def run_to_completion(work: Awaitable[T]) -> T:
    """The result of `work`, which is done to its end, however often the caller is cancelled; that is raised then."""
    doing = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not doing.done():
        try:
            await asyncio.wait({doing})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        doing.exception()  # looked at, so that nobody complains
        raise cancelled
    return doing.result()
