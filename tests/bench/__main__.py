"""`make bench`: measures the cases that are asked for, shows a table and writes `build/bench.json`.

`python -m tests.bench [--slices N] [--json FILE] [CASE or GROUP …]`
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Final

import uvloop

from tests.bench import approvals, budgets, costs, events, gateway, hierarchy, history, upkeep, usage
from tests.bench.figures import Report
from tests.bench.plan import Bench, Part, chosen
from tests.bench.stack import ROOT, machine, running

PARTS: Final[tuple[Part, ...]] = (
    upkeep.MEMORY,
    budgets.PART,
    history.PART,
    events.PART,
    usage.PART,
    costs.PART,
    upkeep.UP,
    gateway.PART,
    gateway.CODEC,
    hierarchy.PART,
    approvals.PART,
)
_SLICES: Final = 10


async def measure(wanted: frozenset[str], rounds: int, report: Report) -> None:
    """Fill the report."""
    started = time.monotonic()
    async with running() as stack:
        report.machine = await machine(stack)
        for part in PARTS:
            if now := wanted.intersection(part.cases):
                print(f"{time.monotonic() - started:4.0f} s  {', '.join(sorted(now))}", flush=True)  # noqa: T201
                await part.measure(Bench(stack, report, wanted, rounds))
    report.machine["took_s"] = round(time.monotonic() - started)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--slices", type=int, default=_SLICES, help="of each case; eight at least for a figure")
    parser.add_argument("names", nargs="*", metavar="CASE or GROUP")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json", help="the file that is written")
    given = parser.parse_args()
    try:
        wanted = chosen(PARTS, [name for names in given.names for name in names.split(",") if name])
    except ValueError as error:
        parser.error(str(error))
    for name in [name for name in os.environ if name.startswith("BILLING_")]:
        del os.environ[name]  # what is set for a stack on this machine is not for this one
    report = Report()
    try:
        uvloop.run(measure(wanted, given.slices, report))
    finally:  # should a case fail, those before it were measured
        given.json.parent.mkdir(exist_ok=True)
        given.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
        print(f"\n{report.table()}\n\n{given.json}")  # noqa: T201


if __name__ == "__main__":
    main()
