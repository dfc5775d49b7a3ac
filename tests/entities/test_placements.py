"""The rules of placements, compared with a check of every single day."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import TypeAlias
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.entities import domain
from services.entities.domain.departments import DEPARTMENT_DEPTH_MAX
from services.entities.domain.placements import Placement
from services.entities.errors.departments import DepartmentCycle, DepartmentTreeTooDeep

FIRST = date(2026, 1, 1)
DAYS = 8
DEPARTMENTS = [UUID(int=number) for number in range(1, 8)]
LOW = [UUID(int=number) for number in range(100, 100 + DEPARTMENT_DEPTH_MAX - 1)]
"""A chain that leaves one level below its last department."""

Move: TypeAlias = tuple[int, UUID, UUID | None]
"""Day, department and new parent."""
moves = st.lists(
    st.tuples(
        st.integers(0, DAYS - 1), st.sampled_from(DEPARTMENTS), st.sampled_from([None, LOW[-1], *DEPARTMENTS])
    ),
    max_size=25,
)  # fmt: skip


def on(day: int) -> date:
    return FIRST + timedelta(days=day)


def placed(placements: list[Placement], department_id: UUID, parent_id: UUID | None, day: date) -> list[Placement]:
    """The placements after the move."""
    others = [
        replace(each, end=day) if each.department_id == department_id and each.includes(day) else each
        for each in placements
        if each.department_id != department_id or each.start < day
    ]
    return [*others, Placement(department_id, parent_id, day, None)]


def parents_on(placements: list[Placement], day: date) -> dict[UUID, UUID | None]:
    return {each.department_id: each.parent_id for each in placements if each.includes(day)}


def tree_error(parents: Mapping[UUID, UUID | None]) -> type[Exception] | None:
    """The error that the tree of one day must raise."""
    for department_id in parents:
        above: list[UUID] = []
        one: UUID | None = department_id
        while one is not None:
            if one in above:
                return DepartmentCycle
            above.append(one)
            one = parents[one]
        if len(above) > DEPARTMENT_DEPTH_MAX:
            return DepartmentTreeTooDeep
    return None


@given(moves)
def test_move_is_refused_if_some_day_would_have_no_valid_tree(planned: list[Move]) -> None:
    history = [Placement(each, None, FIRST, None) for each in DEPARTMENTS]
    history += [
        Placement(each, above, FIRST, None) for each, above in zip(LOW, [None, *LOW], strict=False)
    ]  # fmt: skip
    for number, department_id, parent_id in planned:
        day = on(number)
        moved = placed(history, department_id, parent_id, day)
        bad = [(on(each), tree_error(parents_on(moved, on(each)))) for each in range(DAYS)]
        first = next(((each, why) for each, why in bad if why), None)
        if first is None:
            if parent_id:
                domain.placements.check_move(history, department_id, parent_id, day)
            history = moved
            continue
        assert parent_id is not None
        with pytest.raises(first[1]) as error:
            domain.placements.check_move(history, department_id, parent_id, day)
        assert getattr(error.value, "metadata")["date"] == first[0].isoformat()  # noqa: B009


def test_levels_are_counted_downwards() -> None:
    one, two, three, beside = DEPARTMENTS[:4]
    parents = {one: None, two: one, three: two, beside: one}
    assert [domain.placements.count_levels(parents, each) for each in (one, two, three, beside)] == [3, 2, 1, 1]


def test_placement_includes_start_and_excludes_end() -> None:
    placement = Placement(DEPARTMENTS[0], None, on(1), on(3))
    assert [placement.includes(on(day)) for day in range(5)] == [False, True, True, False, False]
    assert replace(placement, end=None).includes(on(999))
