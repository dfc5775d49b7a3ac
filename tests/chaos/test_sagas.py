"""Requests and their money: whoever dies at a place between two writes, in the end budgets hold what requests say."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.faults import PLACES
from tests.chaos.sagas import WHERE, cases, staged, theatre
from tests.harness.databases import Copy
from tests.harness.services import Entities, Served
from tests.harness.tokens import Keys

EVERYBODY: Final = os.environ.get("SAGA_VICTIMS") == "all"
"""Else whoever is at a place dies there, and NATS where events are; `make chaos-approvals`: everybody everywhere."""
PARTS: Final = 2
"""So that two workers share them."""


def test_each_place_is_passed_by_a_story() -> None:
    passed = {(service, place) for places in WHERE.values() for service, named in places.items() for place in named}
    assert passed == {(service, place) for service, places in PLACES.items() for place in places}


@pytest.mark.parametrize("part", range(PARTS))
async def test_budgets_hold_and_commit_what_requests_say_whoever_dies_where(
    fresh_database: Callable[[], Awaitable[Copy]],
    keys: Keys,
    entities_served: Served[Entities],
    tmp_path: Path,
    part: int,
) -> None:
    database: Copy = await fresh_database()
    planned = cases(everybody=EVERYBODY)[part::PARTS]
    async with (
        staged(database, keys, entities_served.address, tmp_path) as stage,
        theatre(stage, keys, entities_served.stubs) as playing,
    ):
        for case in planned:
            await playing.play(case)
        await playing.healed()
    assert stage.deaths.total() == len(planned)
