"""The rules of departments: states and limits."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import resources
from services.entities.errors.departments import DepartmentStateForbids, DepartmentTreeTooDeep

DEPARTMENT_DEPTH_MAX: Final = 16
"""Most levels of departments in one entity."""


class DepartmentState(StrEnum):
    """Department.State."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"


class DepartmentAction(StrEnum):
    """What is done to a department; the value is how it reads in a sentence."""

    CHANGE = "changed"
    ADOPT = "given another department below it"
    BEAR = "given a cost"
    MOVE = "moved"
    DEACTIVATE = "deactivated"
    ACTIVATE = "activated"


DEPARTMENT_TRANSITIONS: Final[Mapping[tuple[DepartmentState, DepartmentAction], DepartmentState]] = {
    (DepartmentState.ACTIVE, DepartmentAction.CHANGE): DepartmentState.ACTIVE,
    (DepartmentState.ACTIVE, DepartmentAction.ADOPT): DepartmentState.ACTIVE,
    (DepartmentState.ACTIVE, DepartmentAction.BEAR): DepartmentState.ACTIVE,
    (DepartmentState.ACTIVE, DepartmentAction.MOVE): DepartmentState.ACTIVE,
    (DepartmentState.ACTIVE, DepartmentAction.DEACTIVATE): DepartmentState.INACTIVE,
    (DepartmentState.INACTIVE, DepartmentAction.CHANGE): DepartmentState.INACTIVE,
    (DepartmentState.INACTIVE, DepartmentAction.ACTIVATE): DepartmentState.ACTIVE,
}
"""The whole life of a department; what is not here is not allowed."""


def advance(department_id: UUID, state: DepartmentState, action: DepartmentAction) -> DepartmentState:
    """The state after `action`; raises DepartmentStateForbids naming the states in which it is allowed."""
    return resources.advance(DEPARTMENT_TRANSITIONS, department_id, state, action, DepartmentStateForbids)


def check_depth(path: Sequence[UUID]) -> None:
    """Raise DepartmentTreeTooDeep where `path`, which begins at the top, ends on the lowest level."""
    if len(path) >= DEPARTMENT_DEPTH_MAX:
        raise DepartmentTreeTooDeep(path[-1], DEPARTMENT_DEPTH_MAX)
