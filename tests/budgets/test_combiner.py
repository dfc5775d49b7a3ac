"""Calls are combined fairly: tenants take turns, nobody suffers from another, and what fails ends."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from kit.errors import BillingError
from services.budgets import combiner
from tests.harness.observe import eventually


def _truth(look: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    """As `eventually` takes it."""

    async def looked() -> object:
        return look()

    return looked


class Works:
    """Does what it is told to with groups, and keeps them."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.go = asyncio.Event()
        self.failing: dict[str, Exception] = {}

    async def __call__(self, works: Any, lane: int) -> list[str]:
        self.groups.append(list(works))
        await self.go.wait()
        for work in works:
            if work in self.failing:
                raise self.failing[work]
        return [f"{work} done" for work in works]


class UniqueViolation(Exception):
    sqlstate = "23505"


class Locked(Exception):
    sqlstate = "55P03"


class TestCombiner:
    async def test_tenants_take_turns_and_each_keeps_its_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(combiner, "GROUP_MAX", 2)
        works = Works()
        queue = combiner.Combiner(works)
        tenants = sorted(UUID(int=n) for n in (1, 2))
        first = asyncio.create_task(queue.submit(tenants[0], "a0"))
        await eventually(_truth(lambda: works.groups))
        waiting = [asyncio.create_task(queue.submit(tenants[0], f"a{n}")) for n in (1, 2, 3)]
        waiting += [asyncio.create_task(queue.submit(tenants[1], "b1"))]
        await asyncio.sleep(0)
        works.go.set()
        assert await asyncio.gather(first, *waiting) == ["a0 done", "a1 done", "a2 done", "a3 done", "b1 done"]
        assert works.groups == [["a0"], ["a1", "b1"], ["a2", "a3"]]

    async def test_one_that_fails_is_told_alone(self) -> None:
        works = Works()
        works.go.set()
        works.failing["w3"] = ValueError("broken")
        queue = combiner.Combiner(works)
        asked = [queue.submit(UUID(int=1), f"w{n}") for n in range(8)]
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == [works.failing["w3"]]

    async def test_what_fails_for_ever_ends(self) -> None:
        for error in (UniqueViolation(), Locked()):
            works = Works()
            works.go.set()
            works.failing = {"w1": error}
            queue = combiner.Combiner(works)
            async with asyncio.timeout(5):
                outcomes = await asyncio.gather(
                    *(queue.submit(UUID(int=1), f"w{n}") for n in range(4)), return_exceptions=True
                )
            assert outcomes == ["w0 done", error, "w2 done", "w3 done"]
            assert len(works.groups) < 60

    async def test_one_that_must_wait_where_the_queue_is_full_is_told_and_stops_nobody(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        works = Works()
        works.failing = {"w0": Locked()}
        queue = combiner.Combiner(works)
        monkeypatch.setattr(combiner, "WAITING_MAX", 1)
        outcomes = [asyncio.create_task(queue.submit(UUID(int=1), "w0"))]
        await eventually(_truth(lambda: works.groups))
        outcomes += [asyncio.create_task(queue.submit(UUID(int=1), "w1"))]
        await asyncio.sleep(0)
        works.go.set()
        async with asyncio.timeout(5):
            refused, done = await asyncio.gather(*outcomes, return_exceptions=True)
        assert isinstance(refused, BillingError)
        assert (refused.reason, done) == ("OVERLOADED", "w1 done")

    async def test_who_gives_up_takes_nothing_from_those_of_the_same_group(self) -> None:
        works = Works()
        queue = combiner.Combiner(works)
        asked = [asyncio.create_task(queue.submit(UUID(int=1), f"w{n}")) for n in range(3)]
        await eventually(_truth(lambda: works.groups))
        assert works.groups == [["w0", "w1", "w2"]]
        asked[0].cancel()
        late = asyncio.create_task(queue.submit(UUID(int=1), "w3"))
        await asyncio.sleep(0)
        works.go.set()
        async with asyncio.timeout(5):
            assert await asyncio.gather(*asked[1:], late) == ["w1 done", "w2 done", "w3 done"]

    async def test_what_nobody_waits_for_any_more_is_not_begun(self) -> None:
        works = Works()
        queue = combiner.Combiner(works)
        first = asyncio.create_task(queue.submit(UUID(int=1), "w0"))
        await eventually(_truth(lambda: works.groups))
        given_up, waits = (asyncio.create_task(queue.submit(UUID(int=1), f"w{n}")) for n in (1, 2))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        works.go.set()
        assert list(await asyncio.gather(first, waits)) == ["w0 done", "w2 done"]
        assert works.groups == [["w0"], ["w2"]]
