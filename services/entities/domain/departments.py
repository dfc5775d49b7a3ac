"""Departments: states, limits and input types."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import resources
from services.entities.errors.departments import DepartmentInactiveOnDate, DepartmentStateForbids, DepartmentTreeTooDeep

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
    MOVE = "moved"
    DEACTIVATE = "deactivated"
    ACTIVATE = "activated"


DEPARTMENT_TRANSITIONS: Final[Mapping[tuple[DepartmentState, DepartmentAction], DepartmentState]] = {
    (DepartmentState.ACTIVE, DepartmentAction.CHANGE): DepartmentState.ACTIVE,
    (DepartmentState.ACTIVE, DepartmentAction.ADD_CHILD): DepartmentState.ACTIVE,
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
    start_date: date | None
    """First day for which it accepts costs; None: no limit."""


@dataclass(frozen=True, slots=True)
class ActiveDays:
    """The days on which a department is active, and for which it accepts costs."""

    start: date | None
    """None: no limit."""
    state_changes: Sequence[date]
    """Days on which it was deactivated, activated again, deactivated and so on, in turn."""

    @property
    def inactive_since(self) -> date | None:
        """The first day on which an inactive department is inactive; None if it is active."""
        return self.state_changes[-1] if len(self.state_changes) % 2 else None

    def with_change(self, day: date) -> Sequence[date]:
        """Return the state changes with another one on `day`."""
        return [*self.state_changes, max([day, *self.state_changes[-1:]])]

    def check(self, department_id: UUID, day: date) -> None:
        """Raise DepartmentInactiveOnDate unless the department is active on `day`."""
        if self.start and day < self.start:
            raise DepartmentInactiveOnDate(department_id, day, start=self.start)
        changes = bisect_right(self.state_changes, day)
        if changes % 2:
            until = self.state_changes[changes] if changes < len(self.state_changes) else None
            raise DepartmentInactiveOnDate(
                department_id, day, inactive_from=self.state_changes[changes - 1], until=until
            )


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
