"""Closed-loop load: callers that send the next request after each reply, in slices of several cases in turn."""

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
TIMEOUT_S: Final = 10.0
"""Deadline of each call."""

Call = Callable[[int], Awaitable[int]]
"""Makes one call as this caller, checks the reply, and returns the number of operations."""
Runner = Callable[[], Awaitable[Slice]]
"""Measures one slice."""


class WrongReply(Exception):
    """A call returned an unexpected reply; the measurement is void."""


def slices(call: Call, *, callers: int = CALLERS, pid: int | None = None) -> Runner:
    """Return a runner with `callers` concurrent callers; reads the CPU time of the server `pid`."""

    async def run() -> Slice:
        latencies: list[float] = []
        done = 0
        cpu_before = cpu_s(pid)
        started = time.perf_counter()
        until = started + SLICE_S

        async def call_repeatedly(number: int) -> None:
            nonlocal done
            while (sent := time.perf_counter()) < until:
                count = await call(number)
                done += count  # after the await: `done += await …` would lose the counts of others
                latencies.append(time.perf_counter() - sent)

        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(call_repeatedly(number))
        seconds = time.perf_counter() - started
        return Slice(done, seconds, tuple(latencies), cpu_s(pid) - cpu_before)

    return run


def cpu_s(pid: int | None) -> float:
    """Return the CPU time of a process; 0 without a pid."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def interleave(order: Sequence[str], runners: Mapping[str, Runner], rounds: int) -> list[Measured]:
    """Measure `rounds` rounds of slices in this order, after one warm-up slice of each."""
    for name in dict.fromkeys(order):
        await runners[name]()
    gc.collect()
    gc.freeze()  # otherwise each collection in the callers would scan the objects of the set-up
    measured = [(name, await runners[name]()) for _ in range(rounds) for name in order]
    gc.unfreeze()
    return measured
