"""What of the bench is measured, and that a slice is one."""

import asyncio
import os
import time

import pytest

from tests.bench.__main__ import PARTS
from tests.bench.load import SLICE_S, Runner, WrongAnswer, cpu_s, in_turn, slices
from tests.bench.plan import chosen


class TestChosen:
    def test_all_cases_where_none_is_named(self) -> None:
        assert chosen(PARTS, []) == {case for part in PARTS for case in part.cases}

    def test_a_group_stands_for_its_cases(self) -> None:
        assert chosen(PARTS, ["gateway", "up"]) == {"charge_rest", "get_rest", "codec", "up"}

    def test_a_name_that_there_is_not_is_refused_with_those_that_there_are(self) -> None:
        with pytest.raises(
            ValueError, match=r"charge_cold: the groups are budgets, .*approvals; the cases .*charge_hot"
        ):
            chosen(PARTS, ["charge_cold"])

    def test_no_case_is_measured_twice(self) -> None:
        cases = [case for part in PARTS for case in part.cases]
        assert len(cases) == len(set(cases))


class TestSlices:
    async def test_each_caller_asks_again_as_soon_as_it_is_answered(self) -> None:
        asked: list[int] = []

        async def call(caller: int) -> int:
            asked.append(caller)
            await asyncio.sleep(SLICE_S / 4)
            return 5

        measured = await slices(call, callers=3)()
        assert set(asked) == {0, 1, 2}
        assert measured.done == 5 * len(asked) == 5 * len(measured.latencies_s)
        assert measured.seconds >= SLICE_S
        assert len(asked) > 3

    async def test_a_wrong_answer_ends_the_measurement(self) -> None:
        async def call(_: int) -> int:
            raise WrongAnswer("not what was asked for")

        with pytest.raises(ExceptionGroup) as raised:
            await slices(call, callers=2)()
        assert raised.group_contains(WrongAnswer)

    async def test_slices_take_turns_after_one_that_does_not_count(self) -> None:
        asked: list[str] = []

        def runner(name: str) -> Runner:
            async def call(_: int) -> int:
                await asyncio.sleep(1.1 * SLICE_S)  # beyond the slice, also where timers are a little early
                asked.append(name)
                return 1

            return slices(call, callers=1)

        measured = await in_turn(["a", "b", "a"], {"a": runner("a"), "b": runner("b")}, 1)
        assert [name for name, _ in measured] == ["a", "b", "a"]
        assert asked == ["a", "b", "a", "b", "a"]

    def test_processor_time_of_a_process_grows_with_what_it_does(self) -> None:
        before, deadline = cpu_s(os.getpid()), time.monotonic() + 10
        while cpu_s(os.getpid()) == before and time.monotonic() < deadline:
            sum(range(100_000))
        assert cpu_s(os.getpid()) > before
        assert cpu_s(None) == 0
