"""Use cases of entities."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from eventing import outbox
from kit import clock, dates
from kit.auth import Scope
from kit.db import ReadSession, WriteSession
from kit.errors import InvalidFields, Violation
from services.entities import domain, events, service, store
from services.entities.domain.entities import EntityAction, EntityDraft, EntityState, HierarchyNode
from services.entities.domain.placements import DatedDepartment
from services.entities.errors.contracts import EntityHasActiveContracts
from services.entities.errors.departments import DepartmentNotFound
from services.entities.errors.entities import EntityHasActiveChildren, EntityNotFound
from services.entities.models.entities import DepartmentRow, EntityRow


async def create(tx: WriteSession, draft: EntityDraft) -> EntityRow:
    """Create an entity below an active parent, or as a root.

    Raises EntityNotFound, EntityStateForbids, EntityTreeTooDeep, EntityCodeTaken, and InvalidFields for the tax id.
    """
    service.tax_ids.check(draft.country_code, draft.tax_id)
    if draft.parent_id is None:
        _check_can_be_root(tx.scope, "parent_id")
    else:
        await store.hierarchies.lock_shared(tx)
        domain.entities.check_depth(await _lock_parent_path(tx, draft.parent_id))
    entity = EntityRow(**asdict(draft), state=EntityState.ACTIVE)
    _set_invoice_prefix(entity)
    await store.entities.save(tx, entity)
    await store.hierarchies.record_parent(tx, entity)
    outbox.append(tx, events.published.entity_created(entity))
    return entity


def _check_can_be_root(scope: Scope | None, field: str) -> None:
    if scope is not None:
        text = "must name an entity that your token covers; a new root would be outside of it"
        raise InvalidFields([Violation(field, text, "scope.root")])


async def _lock_parent_path(tx: WriteSession, parent_id: UUID) -> Sequence[UUID]:
    """Lock the parent, check that it can have children, and return the path from the root to it."""
    parent = await store.entities.lock_shared(tx, parent_id)
    domain.entities.advance(parent.id, parent.state, EntityAction.ADD_CHILD)
    return await store.hierarchies.find_path(tx, parent.id)


def _set_invoice_prefix(entity: EntityRow) -> None:
    # Set once, so that a later change of the code does not change invoice numbers.
    entity.invoice_prefix = entity.invoice_prefix or entity.code


async def update(tx: WriteSession, entity_id: UUID, changes: Mapping[str, Any], *, etag: str) -> EntityRow:
    """Change an active entity. Raises EntityNotFound, EntityStateForbids, EntityCodeTaken, EtagMismatch."""
    entity = await store.entities.lock(tx, entity_id)
    entity.check_etag(etag)
    entity.state = domain.entities.advance(entity.id, entity.state, EntityAction.CHANGE)
    time_zone_before = entity.time_zone
    for column, value in changes.items():
        setattr(entity, column, value)
    if not changes.keys().isdisjoint({"country_code", "tax_id"}):
        service.tax_ids.check(entity.country_code, entity.tax_id)
    _set_invoice_prefix(entity)
    await store.entities.save(tx, entity)
    if entity.time_zone != time_zone_before:
        # The days of its departments and contracts now begin at other times.
        await service.placements.apply_due(tx, entity)
        await service.contracts.reset_timers(tx, entity)
    return entity


async def move(tx: WriteSession, entity_id: UUID, parent_id: UUID | None, *, etag: str) -> EntityRow:
    """Move an entity with everything below it to another parent, or make it a root, from now on.

    Raises EntityNotFound, EntityStateForbids, EntityCycle, EntityTreeTooDeep, EtagMismatch.
    """
    if parent_id is None:
        _check_can_be_root(tx.scope, "new_parent_id")
    await store.hierarchies.lock(tx)
    entity = await store.entities.lock(tx, entity_id)
    entity.check_etag(etag)
    entity.state = domain.entities.advance(entity.id, entity.state, EntityAction.MOVE)
    if entity.parent_id == parent_id:
        return entity
    if parent_id:
        path = await _lock_parent_path(tx, parent_id)
        domain.entities.check_no_cycle(entity.id, path)
        domain.entities.check_depth(path, await store.hierarchies.count_levels(tx, entity.id))
    old_parent_id, entity.parent_id = entity.parent_id, parent_id
    await store.entities.save(tx, entity)
    await store.hierarchies.record_parent(tx, entity)
    outbox.append(tx, events.published.entity_moved(entity, old_parent_id))
    return entity


async def deactivate(tx: WriteSession, entity_id: UUID, *, etag: str) -> EntityRow:
    """Deactivate an entity that has no active children and no contracts in force.

    Raises EntityNotFound, EntityStateForbids, EntityHasActiveChildren, EntityHasActiveContracts, EtagMismatch.
    """
    entity = await store.entities.lock(tx, entity_id)
    entity.check_etag(etag)
    entity.state = domain.entities.advance(entity.id, entity.state, EntityAction.DEACTIVATE)
    children = await store.entities.find_active_children(tx, entity.id)
    if children:
        raise EntityHasActiveChildren(entity.id, children)
    in_force = await store.contracts.list_ids_in_force(tx, entity.id)
    if in_force:
        raise EntityHasActiveContracts(entity.id, in_force)
    await store.entities.save(tx, entity)
    outbox.append(tx, events.published.entity_deactivated(entity))
    return entity


async def get_lineage(
    tx: ReadSession, entity_id: UUID, department_id: UUID | None, *, as_of: date | None
) -> tuple[Sequence[EntityRow], Sequence[DepartmentRow]]:
    """Return the entity and the department, each followed by its visible ancestors, nearest first.

    The department's are those of the day `as_of`, or of today's tree.

    Raises EntityNotFound, or DepartmentNotFound if the entity has no such department.
    """
    path = [*await store.hierarchies.find_path(tx, entity_id)][::-1]
    entities = {row.id: row for row in await store.entities.list_by_ids(tx, path)}
    if entity_id not in entities:
        raise EntityNotFound(entity_id)
    department_path: Sequence[UUID] = ()
    departments = {}
    if department_id:
        department_path = [*await _department_path(tx, department_id, as_of)][::-1]
        departments = {row.id: row for row in await store.departments.list_by_ids(tx, department_path)}
        if department_id not in departments or departments[department_id].entity_id != entity_id:
            raise DepartmentNotFound(department_id)
    return [entities[id] for id in path if id in entities], [departments[id] for id in department_path]


async def _department_path(tx: ReadSession, department_id: UUID, as_of: date | None) -> Sequence[UUID]:
    if as_of is None:
        return (await store.departments.find_paths(tx, [department_id])).get(department_id, ())
    dated = DatedDepartment(department_id, as_of)
    return (await store.placements.find_paths(tx, [dated])).get(dated, ())


async def get_hierarchy(
    tx: ReadSession, entity_id: UUID, *, depth_max: int, as_of: date | None
) -> Sequence[HierarchyNode]:
    """Return the tree below the entity, now or at the end of the day `as_of`; see `store.hierarchies.get`.

    Raises EntityNotFound, and InvalidFields if `as_of` is after today.
    """
    until = None
    if as_of:
        time_zone = await store.entities.get_time_zone(tx, entity_id)
        today = dates.date_in(time_zone, clock.now())
        if as_of > today:
            raise InvalidFields([Violation("as_of_date", f"must not be after today, {today}", "date.future")])
        until = dates.day_start(as_of + timedelta(days=1), time_zone) if as_of < today else None
    return await store.hierarchies.get(tx, entity_id, depth_max=depth_max, until=until)
