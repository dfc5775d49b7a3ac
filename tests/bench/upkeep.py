"""Group budgets: memory of idle processes, and the duration of `make up`."""

import asyncio
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deploy.local.ports import free_port
from tests.bench.figures import Goal
from tests.bench.plan import Bench, Part
from tests.bench.stack import ROOT

_REMOVED_VARIABLES: Final = ("MAKE", "MFLAGS", "DATABASE_URL", "NATS_URL")
_MAKE_TIMEOUT_S: Final = 120
_MEMORY_GOAL: Final = Goal("memory_idle/heaviest_mib", "memory_idle", (), float, at_most=120)
_UP_GOAL: Final = Goal("up/first_s", "up", (), float, at_most=8)


async def measure_memory(bench: Bench) -> None:
    """Measure the memory of each process before the first request."""
    memory = {f"{name}_mib": process.resident_mib for name, process in bench.stack.services.items()}
    bench.report.cases["memory_idle"] = memory
    bench.report.judge(_MEMORY_GOAL, max(memory.values()))


async def start(bench: Bench) -> None:
    """Measure `make up` with installed packages: with an empty data folder, and again with existing data."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_REMOVED_VARIABLES)}
    environment |= {"BILLING_HOME": str(bench.stack.folder / "home"), "GATEWAY_PORT": str(free_port())}
    try:
        first_s = await _run_make("up", environment)
        await _run_make("down", environment)
        again_s = await _run_make("up", environment)
    finally:
        await _run_make("reset", environment)
    bench.report.cases["up"] = {"first_s": round(first_s, 1), "again_s": round(again_s, 1)}
    bench.report.judge(_UP_GOAL, first_s)


async def _run_make(target: str, environment: Mapping[str, str]) -> float:
    """Return how many seconds a make target takes. Raises RuntimeError with its output if it fails."""
    started = time.monotonic()
    result = await asyncio.to_thread(_make, target, environment, ROOT)
    if result.returncode != 0:
        raise RuntimeError(f"make {target}: {result.stdout[-2000:]}")
    return time.monotonic() - started


def _make(target: str, environment: Mapping[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", "-s", target], cwd=folder, env=environment, text=True, timeout=_MAKE_TIMEOUT_S, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


MEMORY: Final = Part("budgets", ("memory_idle",), measure_memory)
UP: Final = Part("budgets", ("up",), start)
