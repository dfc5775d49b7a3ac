"""Requests and their holds stay consistent when a process crashes at any crash point."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.faults import CRASH_POINTS
from tests.chaos.sagas import CRASH_POINTS_OF, cases, restarting_processes, scenario_runner
from tests.harness.databases import Copy
from tests.harness.services import Entities, Served
from tests.harness.tokens import Keys

EVERY_VICTIM: Final = os.environ.get("SAGA_VICTIMS") == "all"
"""Set by `make chaos-approvals`."""
PARTS: Final = 2
"""Number of test cases into which the scenarios are split, so that pytest workers share them."""


@pytest.mark.parametrize(
    ("service", "name"), [(service, name) for service in CRASH_POINTS for name in CRASH_POINTS[service]]
)
def test_crash_point_exists(service: str, name: str) -> None:
    CRASH_POINTS[service][name].resolve(service)


def test_every_crash_point_is_passed_by_a_scenario() -> None:
    passed = {
        (service, name)
        for points_of in CRASH_POINTS_OF.values()
        for service, names in points_of.items()
        for name in names
    }
    assert passed == {(service, name) for service, points in CRASH_POINTS.items() for name in points}


@pytest.mark.parametrize("part", range(PARTS))
async def test_budgets_agree_with_requests_after_crashes(
    fresh_database: Callable[[], Awaitable[Copy]],
    keys: Keys,
    entities_served: Served[Entities],
    tmp_path: Path,
    part: int,
) -> None:
    database: Copy = await fresh_database()
    selected = cases(every_victim=EVERY_VICTIM)[part::PARTS]
    async with (
        restarting_processes(database, keys, entities_served.address, tmp_path) as processes,
        scenario_runner(processes, keys, entities_served.stubs) as runner,
    ):
        for case in selected:
            await runner.run(case)
        await runner.check()
    assert processes.crashes.total() == len(selected)
