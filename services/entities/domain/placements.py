"""Where departments were, are and are planned to be: the rules of their tree, which holds day by day."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import islice
from typing import TypeAlias
from uuid import UUID

from services.entities.domain.departments import DEPARTMENT_DEPTH_MAX
from services.entities.errors.departments import DepartmentCycle, DepartmentTreeTooDeep

Parents: TypeAlias = Mapping[UUID, UUID | None]
"""The tree of one day: the parent of each department that there is, None at the top."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The days on which a department has one parent, or none."""

    department_id: UUID
    parent_id: UUID | None
    start: date
    end: date | None
    """The day after the last one; None: until further notice."""

    def holds_on(self, day: date) -> bool:
        """Whether `day` is one of them."""
        return self.start <= day and (self.end is None or day < self.end)


def check_move(placements: Sequence[Placement], department_id: UUID, parent_id: UUID, day: date) -> None:
    """Raise DepartmentCycle or DepartmentTreeTooDeep for the first day on which the move would make the tree wrong.

    `placements` are those of the whole entity that hold on `day` or later; the department's own of that time are left
    aside, since the move takes their place.
    """
    others = [each for each in placements if each.department_id != department_id]
    moved = [*others, Placement(department_id, parent_id, day, None)]
    for changed in sorted({day} | {each.start for each in others if each.start > day}):
        parents = {each.department_id: each.parent_id for each in moved if each.holds_on(changed)}
        _check_tree(parents, department_id, parent_id, changed)


def _check_tree(parents: Parents, department_id: UUID, parent_id: UUID, day: date) -> None:
    above = list(islice(_upwards(parents, parent_id), DEPARTMENT_DEPTH_MAX))
    if department_id in above:
        raise DepartmentCycle(department_id, parent_id, day)
    if len(above) + levels_below(parents, department_id) > DEPARTMENT_DEPTH_MAX:
        raise DepartmentTreeTooDeep(parent_id, DEPARTMENT_DEPTH_MAX, day)


def _upwards(parents: Parents, department_id: UUID | None) -> Iterator[UUID]:
    """The department and those above it, the nearest first."""
    while department_id is not None:
        yield department_id
        department_id = parents.get(department_id)


def levels_below(parents: Parents, department_id: UUID) -> int:
    """How many levels the department makes together with all below it."""
    children: dict[UUID, list[UUID]] = {}
    for child, parent in parents.items():
        if parent is not None:
            children.setdefault(parent, []).append(child)
    levels, level = 0, [department_id]
    while level:
        levels += 1
        level = [child for each in level for child in _of(children, each)]
    return levels


def _of(children: Mapping[UUID, list[UUID]], parent_id: UUID) -> Iterable[UUID]:
    return children.get(parent_id, ())
