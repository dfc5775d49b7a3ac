"""Group budgets: what the processes weigh when nobody asks them anything, and how long `make up` takes."""

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

_NOT_PASSED_ON: Final = ("MAKE", "MFLAGS", "DATABASE_URL", "NATS_URL")
_MAKE_WITHIN_S: Final = 120
_MEMORY_GOAL: Final = Goal("memory_idle/heaviest_mib", "memory_idle", (), float, at_most=120)
_UP_GOAL: Final = Goal("up/first_s", "up", (), float, at_most=8)


async def weigh(bench: Bench) -> None:
    """The memory of each process, before anything is asked of it."""
    found = {f"{name}_mib": process.resident_mib for name, process in bench.stack.services.items()}
    bench.report.cases["memory_idle"] = found
    bench.report.judge(_MEMORY_GOAL, max(found.values()))


async def start(bench: Bench) -> None:
    """`make up` where everything is installed: with nothing laid out yet, and once more with what was left."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
    environment |= {"BILLING_HOME": str(bench.stack.folder / "home"), "GATEWAY_PORT": str(free_port())}
    try:
        first_s = await _made("up", environment)
        await _made("down", environment)
        again_s = await _made("up", environment)
    finally:
        await _made("reset", environment)
    bench.report.cases["up"] = {"first_s": round(first_s, 1), "again_s": round(again_s, 1)}
    bench.report.judge(_UP_GOAL, first_s)


async def _made(target: str, environment: Mapping[str, str]) -> float:
    """Seconds that make takes for a target; raises RuntimeError with what it said if it fails."""
    started = time.monotonic()
    done = await asyncio.to_thread(_make, target, environment, ROOT)
    if done.returncode != 0:
        raise RuntimeError(f"make {target}: {done.stdout[-2000:]}")
    return time.monotonic() - started


def _make(target: str, environment: Mapping[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", "-s", target], cwd=folder, env=environment, text=True, timeout=_MAKE_WITHIN_S, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


MEMORY: Final = Part("budgets", ("memory_idle",), weigh)
UP: Final = Part("budgets", ("up",), start)
