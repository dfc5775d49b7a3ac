"""What can be done with departments, as a finance person would say it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from eventing import outbox
from kit import clock, dates, ids
from kit.db import WriteSession
from kit.users import User
from services.entities import domain, events, service, store
from services.entities.domain.departments import DepartmentAction, DepartmentState
from services.entities.domain.entities import EntityAction
from services.entities.errors.departments import DepartmentHasActiveChildren, DepartmentOfOtherEntity
from services.entities.models.entities import DepartmentHistoryRow, DepartmentRow, EntityRow


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


async def create(tx: WriteSession, draft: DepartmentDraft, manager: User | None) -> DepartmentRow:
    """Create a department in an active entity, on its own or below an active department of the same entity.

    `manager` is the one that the draft names, as user management knows them.
    """
    domain.managers.check_can_manage(draft.manager_user_id, manager)
    entity = await _share_entity(tx, draft)
    domain.entities.advance(entity.id, entity.state, EntityAction.STAFF)
    department = DepartmentRow(id=ids.new(), **asdict(draft), state=DepartmentState.ACTIVE)
    today = dates.date_in(entity.time_zone, clock.now())
    if draft.parent_id:
        await service.placements.check_parent(tx, draft.parent_id, entity.id)
        domain.departments.check_depth((await store.departments.find_paths(tx, [draft.parent_id]))[draft.parent_id])
        if await store.placements.find_next_change(tx, entity.id, today):
            await service.placements.check_tree(tx, department, draft.parent_id, today)
    await store.departments.save(tx, department)
    tx.add(DepartmentHistoryRow(department_id=department.id, parent_id=department.parent_id, effective_from=today))
    return department


async def _share_entity(tx: WriteSession, draft: DepartmentDraft) -> EntityRow:
    """The entity of a new department; nobody moves its departments meanwhile."""
    if draft.parent_id is None:
        return await store.entities.lock_shared(tx, draft.entity_id)
    if await store.departments.get_entity_id(tx, draft.parent_id) != draft.entity_id:
        raise DepartmentOfOtherEntity(draft.parent_id, draft.entity_id)
    # A caller who is confined to departments may add below them without seeing their entity.
    return await store.entities.lock_shared_unscoped(tx, draft.entity_id)


async def update(
    tx: WriteSession, department_id: UUID, changes: Mapping[str, Any], *, manager: User | None, etag: str
) -> DepartmentRow:
    """Change a department, and say so where somebody else answers for it now.

    `manager` is the one that the changes name, as user management knows them.
    """
    domain.managers.check_can_manage(changes.get("manager_user_id", ""), manager)
    department = await store.departments.lock(tx, department_id)
    department.check_etag(etag)
    department.state = domain.departments.advance(department.id, department.state, DepartmentAction.CHANGE)
    manager_before = department.manager_user_id
    for column, value in changes.items():
        setattr(department, column, value)
    await store.departments.save(tx, department)
    if department.manager_user_id != manager_before:
        outbox.append(tx, events.published.department_manager_changed(department, manager_before))
    return department


async def deactivate(tx: WriteSession, department_id: UUID, *, etag: str) -> DepartmentRow:
    """Take a department out of use below which there is no active one, nor is planned to be."""
    entity, department = await service.placements.lock_with_entity(tx, department_id)
    department.check_etag(etag)
    department.state = domain.departments.advance(department.id, department.state, DepartmentAction.DEACTIVATE)
    today = dates.date_in(entity.time_zone, clock.now())
    children = await store.placements.find_active_children(tx, department.id, today)
    if children:
        raise DepartmentHasActiveChildren(department.id, children)
    await store.departments.save(tx, department)
    return department


async def activate(tx: WriteSession, department_id: UUID, *, etag: str) -> DepartmentRow:
    """Take a department into use again, if those above it are active, today and by what is planned."""
    entity, department = await service.placements.lock_with_entity(tx, department_id)
    department.check_etag(etag)
    department.state = domain.departments.advance(department.id, department.state, DepartmentAction.ACTIVATE)
    domain.entities.advance(entity.id, entity.state, EntityAction.STAFF)
    today = dates.date_in(entity.time_zone, clock.now())
    above = await store.placements.find_parents(tx, department.id, today)
    for parent in await store.departments.list_by_ids_unscoped(tx, above):
        domain.departments.advance(parent.id, parent.state, DepartmentAction.ADOPT)
    await store.departments.save(tx, department)
    return department
