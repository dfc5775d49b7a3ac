"""`make bench`: measures the selected cases, prints a table and writes `build/bench.json`.

`python -m tests.bench [--slices N] [--json FILE] [CASE or GROUP …]`
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Final

import uvloop

from tests.bench import approvals, budgets, costs, events, gateway, hierarchy, history, invoices, upkeep, usage
from tests.bench.figures import Report
from tests.bench.plan import Bench, Part, select_cases
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
    invoices.PART,
    approvals.PART,
)
_SLICES: Final = 10


async def measure(selected: frozenset[str], rounds: int, report: Report) -> None:
    """Measure the selected cases and fill the report."""
    started = time.monotonic()
    async with running() as stack:
        report.machine = await machine(stack)
        for part in PARTS:
            if cases := selected.intersection(part.cases):
                print(f"{time.monotonic() - started:4.0f} s  {', '.join(sorted(cases))}", flush=True)  # noqa: T201
                await part.measure(Bench(stack, report, selected, rounds))
    report.machine["took_s"] = round(time.monotonic() - started)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--slices", type=int, default=_SLICES, help="slices of each case; at least eight for a reliable figure"
    )
    parser.add_argument("names", nargs="*", metavar="CASE or GROUP")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json", help="output file")
    arguments = parser.parse_args()
    try:
        selected = select_cases(PARTS, [name for names in arguments.names for name in names.split(",") if name])
    except ValueError as error:
        parser.error(str(error))
    for name in [name for name in os.environ if name.startswith("BILLING_")]:
        del os.environ[name]  # settings of a local stack don't apply here
    report = Report()
    try:
        uvloop.run(measure(selected, arguments.slices, report))
    finally:  # also if a case fails: report the cases before it
        arguments.json.parent.mkdir(exist_ok=True)
        arguments.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
        print(f"\n{report.table()}\n\n{arguments.json}")  # noqa: T201


if __name__ == "__main__":
    main()
