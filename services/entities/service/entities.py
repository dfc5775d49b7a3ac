"""What can be done with entities, as a finance person would say it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from eventing import outbox
from kit import clock, dates
from kit.auth import Scope
from kit.db import ReadSession, WriteSession
from kit.errors import InvalidFields, Violation
from services.entities import domain, events, service, store
from services.entities.domain.entities import Address, Consolidation, EntityAction, EntityState, EntityType
from services.entities.errors.contracts import EntityHasActiveContracts
from services.entities.errors.departments import DepartmentNotFound
from services.entities.errors.entities import EntityHasActiveChildren, EntityNotFound
from services.entities.models.entities import DepartmentRow, EntityRow


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityDraft:
    """An entity as it is asked for."""

    parent_id: UUID | None
    code: str
    legal_name: str
    display_name: str
    entity_type: EntityType
    currency_code: str
    country_code: str
    tax_id: str
    registration_number: str
    tax_rate_bp: int
    address: Address | None
    time_zone: str
    fiscal_year_start_month: int
    payment_terms_days: int
    invoice_prefix: str
    consolidation: Consolidation
    labels: dict[str, str]
    controller_user_id: str


async def create(tx: WriteSession, draft: EntityDraft) -> EntityRow:
    """Create an entity below an active one, or as a root, and say so."""
    service.tax_ids.check(draft.country_code, draft.tax_id)
    if draft.parent_id is None:
        _check_may_make_root(tx.scope, "parent_id")
    else:
        await store.trees.lock_shared(tx)
        domain.entities.check_depth(await _adopt_entity(tx, draft.parent_id))
    entity = EntityRow(**asdict(draft), state=EntityState.ACTIVE)
    _fill_invoice_prefix(entity)
    await store.entities.save(tx, entity)
    await store.trees.record_parent(tx, entity)
    outbox.append(tx, events.published.entity_created(entity))
    return entity


def _check_may_make_root(scope: Scope | None, field: str) -> None:
    if scope is not None:
        text = "must name an entity that your token covers; a new root would be outside of it"
        raise InvalidFields([Violation(field, text, "scope.root")])


async def _adopt_entity(tx: WriteSession, parent_id: UUID) -> Sequence[UUID]:
    """The path to an entity that takes another one below it, and stays active until the transaction ends."""
    parent = await store.entities.lock_shared(tx, parent_id)
    domain.entities.advance(parent.id, parent.state, EntityAction.ADOPT)
    return await store.trees.find_path(tx, parent.id)


def _fill_invoice_prefix(entity: EntityRow) -> None:
    # Filled once, so that a new code later does not change the numbers of invoices.
    entity.invoice_prefix = entity.invoice_prefix or entity.code


async def update(tx: WriteSession, entity_id: UUID, changes: Mapping[str, Any], *, etag: str) -> EntityRow:
    """Change an active entity."""
    entity = await store.entities.lock(tx, entity_id)
    entity.check_etag(etag)
    entity.state = domain.entities.advance(entity.id, entity.state, EntityAction.CHANGE)
    time_zone_before = entity.time_zone
    for column, value in changes.items():
        setattr(entity, column, value)
    if not changes.keys().isdisjoint({"country_code", "tax_id"}):
        service.tax_ids.check(entity.country_code, entity.tax_id)
    _fill_invoice_prefix(entity)
    await store.entities.save(tx, entity)
    if entity.time_zone != time_zone_before:
        # The days of its departments and contracts begin at other moments.
        await service.placements.apply_due(tx, entity)
        await service.contracts.reset_timers(tx, entity)
    return entity


async def move(tx: WriteSession, entity_id: UUID, parent_id: UUID | None, *, etag: str) -> EntityRow:
    """Have an entity with all below it below another one, or as a root, from now on, and say so."""
    if parent_id is None:
        _check_may_make_root(tx.scope, "new_parent_id")
    await store.trees.lock(tx)
    entity = await store.entities.lock(tx, entity_id)
    entity.check_etag(etag)
    entity.state = domain.entities.advance(entity.id, entity.state, EntityAction.MOVE)
    if entity.parent_id == parent_id:
        return entity
    if parent_id:
        path = await _adopt_entity(tx, parent_id)
        domain.entities.check_no_cycle(entity.id, path)
        domain.entities.check_depth(path, await store.trees.count_levels(tx, entity.id))
    old_parent_id, entity.parent_id = entity.parent_id, parent_id
    await store.entities.save(tx, entity)
    await store.trees.record_parent(tx, entity)
    outbox.append(tx, events.published.entity_moved(entity, old_parent_id))
    return entity


async def deactivate(tx: WriteSession, entity_id: UUID, *, etag: str) -> EntityRow:
    """Take an entity without active children and contracts in force out of business, and say so."""
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


async def find_lineage(
    tx: ReadSession, entity_id: UUID, department_id: UUID | None
) -> tuple[Sequence[EntityRow], Sequence[DepartmentRow]]:
    """An entity and one of its departments, each with those above, nearest first.

    Raises EntityNotFound, or DepartmentNotFound where there is no such department of the entity.
    """
    path = [*await store.trees.find_path(tx, entity_id)][::-1]
    found = {row.id: row for row in await store.entities.list_by_ids(tx, path)}
    if entity_id not in found:
        raise EntityNotFound(entity_id)
    above: Sequence[UUID] = ()
    below = {}
    if department_id:
        above = [*(await store.departments.find_paths(tx, [department_id])).get(department_id, ())][::-1]
        below = {row.id: row for row in await store.departments.list_by_ids(tx, above)}
        if department_id not in below or below[department_id].entity_id != entity_id:
            raise DepartmentNotFound(department_id)
    return [found[id] for id in path if id in found], [below[id] for id in above]


async def get_hierarchy(
    tx: ReadSession, entity_id: UUID, *, depth_max: int, as_of: date | None
) -> Sequence[store.trees.Place]:
    """The entity and what is below it, or was at the end of a day; see `trees.get_entity_tree`."""
    until = None
    if as_of:
        time_zone = await store.entities.get_time_zone(tx, entity_id)
        today = dates.date_in(time_zone, clock.now())
        if as_of > today:
            raise InvalidFields([Violation("as_of_date", f"must not be after today, {today}", "date.future")])
        until = dates.day_start(as_of + timedelta(days=1), time_zone) if as_of < today else None
    return await store.trees.get(tx, entity_id, depth_max=depth_max, until=until)


async def resolve_scope(tx: ReadSession, entity_ids: Collection[UUID], department_ids: Collection[UUID]) -> Scope:
    """What the entities and departments named cover: themselves, all below them, and the entities' departments."""
    covered = await store.scopes.find_covered_entities(tx, entity_ids)
    return Scope(
        frozenset(covered), frozenset(await store.scopes.find_covered_departments(tx, covered, department_ids))
    )
