"""Conversion of departments and their placements."""

from collections.abc import Mapping
from typing import Any, Final

from billing.entities.v1 import department_service_pb2 as pb
from billing.entities.v1.department_pb2 import Department, DepartmentPlacement

from contract.values import date_from_text, date_text, enum_or_none, time_to_proto
from kit import ids
from services.entities import convert
from services.entities.domain.departments import DepartmentDraft, DepartmentFilter, DepartmentState
from services.entities.models.entities import DepartmentHistoryRow, DepartmentRow

_DEPARTMENT_CLEARED: Final[Mapping[str, Any]] = {
    "cost_center": "",
    "gl_code": "",
    "manager_user_id": "",
    "headcount": 0,
    "start_date": "",
}
"""Value of each optional field after it is cleared; the others can't be cleared."""


def to_proto(row: DepartmentRow) -> Department:
    """Convert a department."""
    return Department(
        id=ids.DEPARTMENT.format(row.id),
        entity_id=ids.ENTITY.format(row.entity_id),
        parent_id=ids.DEPARTMENT.format_optional(row.parent_id),
        code=row.code,
        name=row.name,
        cost_center=row.cost_center,
        gl_code=row.gl_code,
        manager_user_id=row.manager_user_id,
        headcount=row.headcount,
        state=Department.State.Value(row.state),
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
        start_date=date_text(row.start_date),
        inactive_date=date_text(row.active_days.inactive_since),
    )


def placement_to_proto(row: DepartmentHistoryRow) -> DepartmentPlacement:
    """Convert a placement of a department."""
    return DepartmentPlacement(
        department_id=ids.DEPARTMENT.format(row.department_id),
        parent_id=ids.DEPARTMENT.format_optional(row.parent_id),
        start_date=row.effective_from.isoformat(),
        end_date=date_text(row.effective_to),
    )


def draft_from_proto(request: pb.CreateDepartmentRequest) -> DepartmentDraft:
    """Parse CreateDepartmentRequest."""
    return DepartmentDraft(
        entity_id=ids.ENTITY.parse(request.entity_id, "entity_id"),
        parent_id=ids.DEPARTMENT.parse_optional(request.parent_id, "parent_id"),
        code=request.code,
        name=request.name,
        cost_center=request.cost_center,
        gl_code=request.gl_code,
        manager_user_id=request.manager_user_id,
        headcount=request.headcount,
        start_date=date_from_text(request.start_date),
    )


def filter_from_proto(request: pb.ListDepartmentsRequest) -> DepartmentFilter:
    """Return the filters of ListDepartmentsRequest."""
    return DepartmentFilter(
        entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
        parent_id=ids.DEPARTMENT.parse_optional(request.parent_id, "parent_id"),
        manager_user_id=request.manager_user_id,
        cost_center=request.cost_center,
        state=enum_or_none(DepartmentState, Department.State, request.state),
    )


def changes_from_proto(request: pb.UpdateDepartmentRequest) -> Mapping[str, Any]:
    """Return the columns that UpdateDepartmentRequest changes, with their new values. Raises InvalidFields."""
    changes = dict(convert.changes.changed_columns(request, _DEPARTMENT_CLEARED))
    if "start_date" in changes:
        changes["start_date"] = date_from_text(changes["start_date"])
    return changes
