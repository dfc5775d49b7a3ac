"""Load: callers that ask again as soon as they are answered, for one slice, and slices of several things in turn."""

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.bench.figures import Measured, Slice

CALLERS: Final = 64
SLICE_S: Final = 0.5
WITHIN_S: Final = 10.0
"""The deadline of each call."""

Call = Callable[[int], Awaitable[int]]
"""Makes one call as the caller of this number, checks the answer, and gives how much was done by it."""
Runner = Callable[[], Awaitable[Slice]]
"""Measures one slice."""


class WrongAnswer(Exception):
    """A call was answered with something else than it should be; nothing measured with it counts."""


def slices(call: Call, *, callers: int = CALLERS, pid: int | None = None) -> Runner:
    """A runner with so many callers; `pid` is the server's, whose processor time is read."""

    async def run() -> Slice:
        latencies: list[float] = []
        done = 0
        cpu_before = cpu_s(pid)
        started = time.perf_counter()
        until = started + SLICE_S

        async def ask(number: int) -> None:
            nonlocal done
            while (asked := time.perf_counter()) < until:
                made = await call(number)
                done += made
                latencies.append(time.perf_counter() - asked)

        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(ask(number))
        seconds = time.perf_counter() - started
        return Slice(done, seconds, tuple(latencies), cpu_s(pid) - cpu_before)

    return run


def cpu_s(pid: int | None) -> float:
    """Processor time that a process has taken; 0 where none is asked for."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def in_turn(order: Sequence[str], runners: Mapping[str, Runner], rounds: int) -> list[Measured]:
    """So many rounds of the slices in this order, after one of each that does not count."""
    for name in dict.fromkeys(order):
        await runners[name]()
    gc.collect()
    gc.freeze()  # what set-up made would be walked through again and again by the callers' collector
    measured = [(name, await runners[name]()) for _ in range(rounds) for name in order]
    gc.unfreeze()
    return measured
