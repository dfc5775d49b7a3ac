"""Placements: the tree of departments on each day, past, current and planned.

A placement is the date range in which a department has one parent, or none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import islice
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

from services.entities.domain.departments import DEPARTMENT_DEPTH_MAX
from services.entities.errors.departments import DepartmentCycle, DepartmentTreeTooDeep

MOVES_TIMER: Final = "department-moves"
"""Kind of the timer that makes planned placements of an entity's departments current."""

Parents: TypeAlias = Mapping[UUID, UUID | None]
"""The tree of one day: the parent of each department, None at the top."""


class DatedDepartment(NamedTuple):
    """A department on a day."""

    department_id: UUID
    day: date


@dataclass(frozen=True, slots=True)
class Placement:
    """A date range in which a department has one parent, or none."""

    department_id: UUID
    parent_id: UUID | None
    start: date
    end: date | None
    """First day after the range; None if it is open."""

    def includes(self, day: date) -> bool:
        """Return true if the range includes `day`."""
        return self.start <= day and (self.end is None or day < self.end)


def check_move(placements: Sequence[Placement], department_id: UUID, parent_id: UUID, day: date) -> None:
    """Check that from `day` on the department can be below `parent_id`.

    Raises DepartmentCycle or DepartmentTreeTooDeep for the first day on which it can't. `placements` are those of the
    whole entity that end after `day`. The department's own are ignored, since the move replaces them.
    """
    others = [each for each in placements if each.department_id != department_id]
    moved = [*others, Placement(department_id, parent_id, day, None)]
    for change_day in sorted({day} | {each.start for each in others if each.start > day}):
        parents = {each.department_id: each.parent_id for each in moved if each.includes(change_day)}
        _check_tree(parents, department_id, parent_id, change_day)


def _check_tree(parents: Parents, department_id: UUID, parent_id: UUID, day: date) -> None:
    path = list(islice(_path_up(parents, parent_id), DEPARTMENT_DEPTH_MAX))
    if department_id in path:
        raise DepartmentCycle(department_id, parent_id, day)
    if len(path) + count_levels(parents, department_id) > DEPARTMENT_DEPTH_MAX:
        raise DepartmentTreeTooDeep(parent_id, DEPARTMENT_DEPTH_MAX, day)


def _path_up(parents: Parents, department_id: UUID | None) -> Iterator[UUID]:
    """Yield the department and its ancestors, nearest first."""
    while department_id is not None:
        yield department_id
        department_id = parents.get(department_id)


def count_levels(parents: Parents, department_id: UUID) -> int:
    """Return the number of levels of the subtree of the department, itself included."""
    children: dict[UUID, list[UUID]] = {}
    for child, parent in parents.items():
        if parent is not None:
            children.setdefault(parent, []).append(child)
    levels, level = 0, [department_id]
    while level:
        levels += 1
        level = [child for each in level for child in children.get(each, ())]
    return levels
