"""A task that is told to end ends, even where a library loses its cancellation; what must be finished is finished."""

import asyncio

import pytest

from kit import tasks


async def test_a_task_that_loses_a_cancellation_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_AGAIN_S", 0.01)
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                lost += 1
                if lost == 3:
                    raise

    async def broken() -> None:
        raise RuntimeError

    started = [asyncio.create_task(deaf()), asyncio.create_task(broken()), asyncio.create_task(asyncio.sleep(0))]
    await asyncio.sleep(0)
    await asyncio.wait_for(tasks.end(*started), 5)
    assert lost == 3
    await tasks.end()


async def test_what_is_undisturbed_is_done_to_its_end_however_often_it_is_cancelled() -> None:
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


async def test_undisturbed_work_gives_its_result_or_raises_what_it_raises() -> None:
    async def fail() -> None:
        raise RuntimeError("broken")

    assert await tasks.run_to_completion(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(RuntimeError, match="broken"):
        await tasks.run_to_completion(fail())
