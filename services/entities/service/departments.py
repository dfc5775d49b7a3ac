"""What can be done with departments, as a finance person would say it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from eventing import outbox
from kit import clock, ids
from kit.db import WriteSession
from services.entities import events
from services.entities.domain.departments import (
    DepartmentAction,
    DepartmentState,
    advance_department,
    check_department_fits_below,
)
from services.entities.domain.entities import EntityAction, advance_entity, day_in
from services.entities.domain.managers import Person, check_may_manage
from services.entities.errors import DepartmentHasActiveChildren, DepartmentOfOtherEntity
from services.entities.models.entities import DepartmentHistoryRow, DepartmentRow, EntityRow
from services.entities.service.placements import adopt_department, check_tree, lock_with_entity
from services.entities.store import departments, entities, placements


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


async def create_department(tx: WriteSession, draft: DepartmentDraft, manager: Person | None) -> DepartmentRow:
    """Create a department in an active entity, on its own or below an active department of the same entity.

    `manager` is the one that the draft names, as user management knows them.
    """
    check_may_manage(draft.manager_user_id, manager)
    entity = await _share_entity(tx, draft)
    advance_entity(entity.id, entity.state, EntityAction.STAFF)
    department = DepartmentRow(id=ids.new(), **asdict(draft), state=DepartmentState.ACTIVE)
    today = day_in(entity.time_zone, clock.now())
    if draft.parent_id:
        await adopt_department(tx, draft.parent_id, entity.id)
        check_department_fits_below((await departments.find_paths(tx, [draft.parent_id]))[draft.parent_id])
        if await placements.find_next_day(tx, entity.id, today):
            await check_tree(tx, department, draft.parent_id, today)
    await departments.save_department(tx, department)
    tx.add(DepartmentHistoryRow(department_id=department.id, parent_id=department.parent_id, effective_from=today))
    return department


async def _share_entity(tx: WriteSession, draft: DepartmentDraft) -> EntityRow:
    """The entity of a new department; nobody moves its departments meanwhile."""
    if draft.parent_id is None:
        return await entities.share_entity(tx, draft.entity_id)
    if await departments.get_entity_id(tx, draft.parent_id) != draft.entity_id:
        raise DepartmentOfOtherEntity(draft.parent_id, draft.entity_id)
    # A caller who is confined to departments may add below them without seeing their entity.
    return await entities.share_any_entity(tx, draft.entity_id)


async def update_department(
    tx: WriteSession, department_id: UUID, changes: Mapping[str, Any], *, manager: Person | None, etag: str
) -> DepartmentRow:
    """Change a department, and say so where somebody else answers for it now.

    `manager` is the one that the changes name, as user management knows them.
    """
    check_may_manage(changes.get("manager_user_id", ""), manager)
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


async def deactivate_department(tx: WriteSession, department_id: UUID, *, etag: str) -> DepartmentRow:
    """Take a department out of use below which there is no active one, nor is planned to be."""
    entity, department = await lock_with_entity(tx, department_id)
    department.check_etag(etag)
    department.state = advance_department(department.id, department.state, DepartmentAction.DEACTIVATE)
    today = day_in(entity.time_zone, clock.now())
    children = await placements.find_active_children(tx, department.id, today)
    if children:
        raise DepartmentHasActiveChildren(department.id, children)
    await departments.save_department(tx, department)
    return department


async def activate_department(tx: WriteSession, department_id: UUID, *, etag: str) -> DepartmentRow:
    """Take a department into use again, if those above it are active, today and by what is planned."""
    entity, department = await lock_with_entity(tx, department_id)
    department.check_etag(etag)
    department.state = advance_department(department.id, department.state, DepartmentAction.ACTIVATE)
    advance_entity(entity.id, entity.state, EntityAction.STAFF)
    today = day_in(entity.time_zone, clock.now())
    above = await placements.find_parents(tx, department.id, today)
    for parent in await departments.find_any_departments(tx, above):
        advance_department(parent.id, parent.state, DepartmentAction.ADOPT)
    await departments.save_department(tx, department)
    return department
