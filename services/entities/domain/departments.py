"""Departments: states, limits and input types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """Actions on a department; the values are past participles for error messages."""

    CHANGE = "changed"
    ADD_CHILD = "given another department below it"
    ADD_COST = "given a cost"
    MOVE = "moved"
    DEACTIVATE = "deactivated"
    ACTIVATE = "activated"


DEPARTMENT_TRANSITIONS: Final[Mapping[tuple[DepartmentState, DepartmentAction], DepartmentState]] = {
    (DepartmentState.ACTIVE, DepartmentAction.CHANGE): DepartmentState.ACTIVE,
    (DepartmentState.ACTIVE, DepartmentAction.ADD_CHILD): DepartmentState.ACTIVE,
    (DepartmentState.ACTIVE, DepartmentAction.ADD_COST): DepartmentState.ACTIVE,
    (DepartmentState.ACTIVE, DepartmentAction.MOVE): DepartmentState.ACTIVE,
    (DepartmentState.ACTIVE, DepartmentAction.DEACTIVATE): DepartmentState.INACTIVE,
    (DepartmentState.INACTIVE, DepartmentAction.CHANGE): DepartmentState.INACTIVE,
    (DepartmentState.INACTIVE, DepartmentAction.ACTIVATE): DepartmentState.ACTIVE,
}
"""All allowed transitions of a department."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DepartmentDraft:
    """Input for a new department."""

    entity_id: UUID
    parent_id: UUID | None
    code: str
    name: str
    cost_center: str
    gl_code: str
    manager_user_id: str
    headcount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DepartmentFilter:
    """Filters of a list of departments; None or empty text does not filter."""

    entity_id: UUID | None = None
    parent_id: UUID | None = None
    manager_user_id: str = ""
    cost_center: str = ""
    state: DepartmentState | None = None


def advance(department_id: UUID, state: DepartmentState, action: DepartmentAction) -> DepartmentState:
    """Return the state after `action`. Raises DepartmentStateForbids naming the states in which it is allowed."""
    return resources.advance(DEPARTMENT_TRANSITIONS, department_id, state, action, DepartmentStateForbids)


def check_depth(path: Sequence[UUID]) -> None:
    """Raise DepartmentTreeTooDeep if no level fits below the last department of `path`, which starts at the top."""
    if len(path) >= DEPARTMENT_DEPTH_MAX:
        raise DepartmentTreeTooDeep(path[-1], DEPARTMENT_DEPTH_MAX)
