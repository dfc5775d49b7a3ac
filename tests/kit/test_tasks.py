"""Tasks are cancelled for certain, and protected work is finished."""

import asyncio
import time

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


async def test_other_tasks_run_between_the_pieces_of_long_work() -> None:
    order: list[object] = []

    async def work() -> None:
        async for piece in tasks.in_pieces([1, 2, 3, 4, 5], 2):
            order.append(piece)  # noqa: PERF401 - the order of both tasks is recorded

    async def other() -> None:
        for name in "ab":
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(work(), other())
    assert order == [[1, 2], "a", [3, 4], "b", [5]]


async def test_pause_between_pieces_is_that_of_the_call() -> None:
    tasks.pause_s.set(0.05)
    started = time.monotonic()
    assert [piece async for piece in tasks.in_pieces([1, 2, 3], 1)] == [[1], [2], [3]]
    assert time.monotonic() - started >= 0.1


async def test_no_items_are_no_piece() -> None:
    assert [piece async for piece in tasks.in_pieces(list[int](), 2)] == []
