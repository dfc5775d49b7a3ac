"""Use cases of departments."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from uuid import UUID

from eventing import outbox
from kit import clock, dates, ids
from kit.db import WriteSession
from kit.users import User
from services.entities import domain, events, service, store
from services.entities.domain.departments import DepartmentAction, DepartmentDraft, DepartmentState
from services.entities.domain.entities import EntityAction
from services.entities.errors.departments import DepartmentHasActiveChildren, DepartmentOfOtherEntity
from services.entities.models.entities import DepartmentRow, EntityRow


async def create(tx: WriteSession, draft: DepartmentDraft, manager: User | None) -> DepartmentRow:
    """Create a department in an active entity, at the top or below an active department of the entity.

    `manager` is the user `draft.manager_user_id`, None if unknown. Raises EntityNotFound, EntityStateForbids,
    DepartmentNotFound, DepartmentStateForbids, DepartmentOfOtherEntity, DepartmentTreeTooDeep, DepartmentCodeTaken,
    ManagerNotFound, ManagerInactive.
    """
    domain.managers.check_can_manage(draft.manager_user_id, manager)
    entity = await _lock_entity(tx, draft)
    domain.entities.advance(entity.id, entity.state, EntityAction.ADD_DEPARTMENT)
    department = DepartmentRow(id=ids.new(), **asdict(draft), state=DepartmentState.ACTIVE)
    today = dates.date_in(entity.time_zone, clock.now())
    day = min(draft.start_date or today, today)
    if draft.parent_id:
        await service.placements.check_parent(tx, draft.parent_id, entity.id)
        domain.departments.check_depth((await store.departments.find_paths(tx, [draft.parent_id]))[draft.parent_id])
        if await store.placements.find_next_change(tx, entity.id, day):
            await service.placements.check_tree(tx, department, draft.parent_id, day)
    await store.departments.save(tx, department)
    await store.placements.insert(tx, department.id, department.parent_id, day)
    return department


async def _lock_entity(tx: WriteSession, draft: DepartmentDraft) -> EntityRow:
    """Return the entity of a new department, protected from changes, so that its departments are not moved."""
    if draft.parent_id is None:
        return await store.entities.lock_shared(tx, draft.entity_id)
    if await store.departments.get_entity_id(tx, draft.parent_id) != draft.entity_id:
        raise DepartmentOfOtherEntity(draft.parent_id, draft.entity_id)
    # A caller whose scope is a department can create departments below it without seeing the entity.
    return await store.entities.lock_shared_unscoped(tx, draft.entity_id)


async def update(
    tx: WriteSession, department_id: UUID, changes: Mapping[str, Any], *, manager: User | None, etag: str
) -> DepartmentRow:
    """Change a department; publish DepartmentManagerChanged if it has another manager afterwards.

    `manager` is the user `changes["manager_user_id"]`, None if unknown. Raises DepartmentNotFound,
    DepartmentCodeTaken, ManagerNotFound, ManagerInactive, EtagMismatch.
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


async def replace_manager(tx: WriteSession, user_id: str, successor: str) -> int:
    """Replace the user as the manager of up to 500 departments by the successor, or by none if that is empty.

    Returns the number of changed departments; repeat the call until it is 0.
    """
    departments = await store.departments.lock_managed_by(tx, user_id)
    for department in departments:
        department.state = domain.departments.advance(department.id, department.state, DepartmentAction.CHANGE)
        department.manager_user_id = successor
        await store.departments.save(tx, department)
        outbox.append(tx, events.published.department_manager_changed(department, user_id))
    return len(departments)


async def deactivate(tx: WriteSession, department_id: UUID, *, etag: str) -> DepartmentRow:
    """Deactivate a department that has no active children, now or by plan.

    Raises DepartmentNotFound, DepartmentStateForbids, DepartmentHasActiveChildren, EtagMismatch.
    """
    entity, department = await service.placements.lock_with_entity(tx, department_id)
    department.check_etag(etag)
    department.state = domain.departments.advance(department.id, department.state, DepartmentAction.DEACTIVATE)
    today = dates.date_in(entity.time_zone, clock.now())
    department.state_changes = department.active_days.with_change(today)
    children = await store.placements.find_active_children(tx, department.id, today)
    if children:
        raise DepartmentHasActiveChildren(department.id, children)
    await store.departments.save(tx, department)
    return department


async def activate(tx: WriteSession, department_id: UUID, *, etag: str) -> DepartmentRow:
    """Activate an inactive department whose entity and parents, now and by plan, are active.

    Raises DepartmentNotFound, DepartmentStateForbids, EntityStateForbids, EtagMismatch.
    """
    entity, department = await service.placements.lock_with_entity(tx, department_id)
    department.check_etag(etag)
    department.state = domain.departments.advance(department.id, department.state, DepartmentAction.ACTIVATE)
    domain.entities.advance(entity.id, entity.state, EntityAction.ADD_DEPARTMENT)
    today = dates.date_in(entity.time_zone, clock.now())
    department.state_changes = department.active_days.with_change(today)
    parent_ids = await store.placements.find_parents(tx, department.id, today)
    for parent in await store.departments.list_by_ids_unscoped(tx, parent_ids):
        domain.departments.advance(parent.id, parent.state, DepartmentAction.ADD_CHILD)
    await store.departments.save(tx, department)
    return department
