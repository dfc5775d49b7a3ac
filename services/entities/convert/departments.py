"""Departments."""

from collections.abc import Mapping
from typing import Any, Final

from billing.entities.v1 import department_service_pb2
from billing.entities.v1.department_pb2 import Department, DepartmentPlacement

from contract.values import time_to_proto
from kit import ids
from services.entities import convert
from services.entities.models.entities import DepartmentHistoryRow, DepartmentRow
from services.entities.service.departments import DepartmentDraft

_DEPARTMENT_CLEARED: Final[Mapping[str, Any]] = {
    "cost_center": "",
    "gl_code": "",
    "manager_user_id": "",
    "headcount": 0,
}
"""What each field of a department is when it is cleared; those that are not here can't be."""


def changes_from_proto(request: department_service_pb2.UpdateDepartmentRequest) -> Mapping[str, Any]:
    """The columns that UpdateDepartment changes, with their new values; raises InvalidFields."""
    return convert.changes.changed_columns(request, _DEPARTMENT_CLEARED)


def to_proto(row: DepartmentRow) -> Department:
    """A department."""
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
    )


def placement_to_proto(row: DepartmentHistoryRow) -> DepartmentPlacement:
    """A time during which a department is at one place in the tree."""
    return DepartmentPlacement(
        department_id=ids.DEPARTMENT.format(row.department_id),
        parent_id=ids.DEPARTMENT.format_optional(row.parent_id),
        start_date=row.effective_from.isoformat(),
        end_date=row.effective_to.isoformat() if row.effective_to else "",
    )


def draft_from_proto(request: department_service_pb2.CreateDepartmentRequest) -> DepartmentDraft:
    """What CreateDepartment asks for."""
    return DepartmentDraft(
        entity_id=ids.ENTITY.parse(request.entity_id, "entity_id"),
        parent_id=ids.DEPARTMENT.parse_optional(request.parent_id, "parent_id"),
        code=request.code,
        name=request.name,
        cost_center=request.cost_center,
        gl_code=request.gl_code,
        manager_user_id=request.manager_user_id,
        headcount=request.headcount,
    )
