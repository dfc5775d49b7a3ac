"""Selection of cases, and measurement of slices."""

import asyncio
import os
import time

import pytest

from tests.bench.__main__ import PARTS
from tests.bench.load import SLICE_S, Runner, WrongReply, cpu_s, interleave, slices
from tests.bench.plan import select_cases


class TestSelectCases:
    def test_all_cases_without_names(self) -> None:
        assert select_cases(PARTS, []) == {case for part in PARTS for case in part.cases}

    def test_group_selects_its_cases(self) -> None:
        assert select_cases(PARTS, ["gateway", "up"]) == {"charge_rest", "get_rest", "codec", "up"}

    def test_unknown_name_raises_with_the_known_ones(self) -> None:
        with pytest.raises(
            ValueError, match=r"charge_cold: the groups are budgets, .*approvals; the cases .*charge_hot"
        ):
            select_cases(PARTS, ["charge_cold"])

    def test_case_names_are_unique(self) -> None:
        cases = [case for part in PARTS for case in part.cases]
        assert len(cases) == len(set(cases))


class TestSlices:
    async def test_callers_send_the_next_request_after_each_reply(self) -> None:
        called: list[int] = []

        async def call(caller: int) -> int:
            called.append(caller)
            await asyncio.sleep(SLICE_S / 4)
            return 5

        measured = await slices(call, callers=3)()
        assert set(called) == {0, 1, 2}
        assert measured.done == 5 * len(called) == 5 * len(measured.latencies_s)
        assert measured.seconds >= SLICE_S
        assert len(called) > 3

    async def test_wrong_reply_ends_the_measurement(self) -> None:
        async def call(_: int) -> int:
            raise WrongReply("unexpected reply")

        with pytest.raises(ExceptionGroup) as raised:
            await slices(call, callers=2)()
        assert raised.group_contains(WrongReply)

    async def test_slices_are_interleaved_after_a_warm_up(self) -> None:
        called: list[str] = []

        def runner(name: str) -> Runner:
            async def call(_: int) -> int:
                await asyncio.sleep(1.1 * SLICE_S)  # longer than the slice, even if timers fire early
                called.append(name)
                return 1

            return slices(call, callers=1)

        measured = await interleave(["a", "b", "a"], {"a": runner("a"), "b": runner("b")}, 1)
        assert [name for name, _ in measured] == ["a", "b", "a"]
        assert called == ["a", "b", "a", "b", "a"]

    def test_cpu_time_of_a_process_grows(self) -> None:
        before, deadline = cpu_s(os.getpid()), time.monotonic() + 10
        while cpu_s(os.getpid()) == before and time.monotonic() < deadline:
            sum(range(100_000))
        assert cpu_s(os.getpid()) > before
        assert cpu_s(None) == 0
