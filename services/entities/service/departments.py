"""What can be done with departments, as a finance person would say it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from eventing import outbox
from kit import clock
from kit.db import WriteSession
from services.entities import events
from services.entities.domain.departments import (
    DepartmentAction,
    DepartmentState,
    advance_department,
    check_department_fits_below,
)
from services.entities.domain.entities import EntityAction, advance_entity, day_in
from services.entities.errors import DepartmentOfOtherEntity
from services.entities.models.entities import DepartmentHistoryRow, DepartmentRow
from services.entities.store import departments, entities


@dataclass(frozen=True, slots=True, kw_only=True)
class DepartmentDraft:
    """A department as it is asked for."""

    entity_id: UUID
    parent_id: UUID | None
    code: str
    name: str
    cost_center: str
    gl_code: str
    manager_user_id: str
    headcount: int


async def create_department(tx: WriteSession, draft: DepartmentDraft) -> DepartmentRow:
    """Create a department in an active entity, on its own or below an active department of the same entity."""
    parent = await _adopt_department(tx, draft.parent_id, draft.entity_id) if draft.parent_id else None
    # A caller who is confined to departments may add below them without seeing their entity.
    entity = await entities.share_entity_of(tx, parent) if parent else await entities.share_entity(tx, draft.entity_id)
    advance_entity(entity.id, entity.state, EntityAction.STAFF)
    department = DepartmentRow(**asdict(draft), state=DepartmentState.ACTIVE)
    await departments.save_department(tx, department)
    today = day_in(entity.time_zone, clock.now())
    tx.add(DepartmentHistoryRow(department_id=department.id, parent_id=department.parent_id, effective_from=today))
    return department


async def _adopt_department(tx: WriteSession, parent_id: UUID, entity_id: UUID) -> DepartmentRow:
    parent = await departments.share_department(tx, parent_id)
    if parent.entity_id != entity_id:
        raise DepartmentOfOtherEntity(parent.id, entity_id)
    advance_department(parent.id, parent.state, DepartmentAction.ADOPT)
    check_department_fits_below(parent.id, await departments.get_department_level(tx, parent.id))
    return parent


async def update_department(
    tx: WriteSession, department_id: UUID, changes: Mapping[str, Any], *, etag: str
) -> DepartmentRow:
    """Change a department, and say so where somebody else answers for it now."""
    department = await departments.lock_department(tx, department_id)
    department.check_etag(etag)
    department.state = advance_department(department.id, department.state, DepartmentAction.CHANGE)
    manager_before = department.manager_user_id
    for column, value in changes.items():
        setattr(department, column, value)
    await departments.save_department(tx, department)
    if department.manager_user_id != manager_before:
        outbox.append(tx, events.department_manager_changed(department, manager_before))
    return department
