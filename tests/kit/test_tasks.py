"""Tasks are cancelled for certain, and protected work is finished."""

import asyncio

import pytest

from kit import tasks


async def test_a_task_that_swallows_cancellations_ends() -> None:
    swallowed = 0

    async def swallow_two() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if swallowed == 2:
                    raise
                swallowed += 1

    async def fail() -> None:
        raise RuntimeError

    started = [asyncio.create_task(swallow_two()), asyncio.create_task(fail()), asyncio.create_task(asyncio.sleep(0))]
    await asyncio.sleep(0)
    await asyncio.wait_for(tasks.cancel_and_wait(*started, retry_s=0.01), 5)
    assert swallowed == 2
    await tasks.cancel_and_wait()


async def test_protected_work_finishes_however_often_it_is_cancelled() -> None:
    go_on, done = asyncio.Event(), False

    async def work() -> str:
        nonlocal done
        await go_on.wait()
        done = True
        return "done"

    task = asyncio.create_task(tasks.run_to_completion(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done


async def test_protected_work_returns_its_result_or_raises_its_error() -> None:
    async def fail() -> None:
        raise RuntimeError("broken")

    assert await tasks.run_to_completion(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(RuntimeError, match="broken"):
        await tasks.run_to_completion(fail())
