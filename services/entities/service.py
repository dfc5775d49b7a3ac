"""What can be done with entities, departments and exchange rates, as a finance person would say it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any
from uuid import UUID

from eventing import outbox
from kit import clock
from kit.auth import Scope
from kit.db import ReadSession, WriteSession
from kit.errors import InvalidFields, Violation
from services.entities import domain, events, store
from services.entities.domain import (
    Address,
    Consolidation,
    DepartmentAction,
    DepartmentState,
    DerivedRate,
    EntityAction,
    EntityState,
    EntityType,
    RateDraft,
)
from services.entities.errors import DepartmentOfOtherEntity, EntityHasActiveChildren, RatesOutOfScope
from services.entities.models import DepartmentHistoryRow, DepartmentRow, EntityRow


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


@dataclass(frozen=True, slots=True)
class RatesSet:
    """How many of the rates that were to be recorded are new, were replaced, and were there already."""

    created: int
    replaced: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class Conversion:
    """Money of one currency that is to become another's on a day."""

    source: str
    target: str
    day: date


async def create_entity(tx: WriteSession, draft: EntityDraft) -> EntityRow:
    """Create an entity below an active one, or as a root, and say so."""
    if draft.parent_id is None:
        _check_may_create_root(tx.scope)
    else:
        await _adopt_entity(tx, draft.parent_id)
    entity = EntityRow(**asdict(draft), state=EntityState.ACTIVE)
    _fill_invoice_prefix(entity)
    await store.save_entity(tx, entity)
    outbox.append(tx, events.entity_created(entity))
    return entity


def _check_may_create_root(scope: Scope | None) -> None:
    if scope is not None:
        text = "must name an entity that your token covers; a new root would be outside of it"
        raise InvalidFields([Violation("parent_id", text, "scope.root")])


async def _adopt_entity(tx: WriteSession, parent_id: UUID) -> None:
    parent = await store.share_entity(tx, parent_id)
    domain.advance_entity(parent.id, parent.state, EntityAction.ADOPT)
    domain.check_entity_fits_below(parent.id, await store.get_entity_level(tx, parent.id))


def _fill_invoice_prefix(entity: EntityRow) -> None:
    # Filled once, so that a new code later does not change the numbers of invoices.
    entity.invoice_prefix = entity.invoice_prefix or entity.code


async def update_entity(tx: WriteSession, entity_id: UUID, changes: Mapping[str, Any], *, etag: str) -> EntityRow:
    """Change an active entity."""
    entity = await store.lock_entity(tx, entity_id)
    entity.check_etag(etag)
    entity.state = domain.advance_entity(entity.id, entity.state, EntityAction.CHANGE)
    for column, value in changes.items():
        setattr(entity, column, value)
    _fill_invoice_prefix(entity)
    await store.save_entity(tx, entity)
    return entity


async def deactivate_entity(tx: WriteSession, entity_id: UUID, *, etag: str) -> EntityRow:
    """Take an entity without active children out of business, and say so."""
    entity = await store.lock_entity(tx, entity_id)
    entity.check_etag(etag)
    entity.state = domain.advance_entity(entity.id, entity.state, EntityAction.DEACTIVATE)
    children = await store.find_active_children(tx, entity.id)
    if children:
        raise EntityHasActiveChildren(entity.id, children)
    await store.save_entity(tx, entity)
    outbox.append(tx, events.entity_deactivated(entity))
    return entity


async def create_department(tx: WriteSession, draft: DepartmentDraft) -> DepartmentRow:
    """Create a department in an active entity, on its own or below an active department of the same entity."""
    parent = await _adopt_department(tx, draft.parent_id, draft.entity_id) if draft.parent_id else None
    # A caller who is confined to departments may add below them without seeing their entity.
    entity = await store.share_entity_of(tx, parent) if parent else await store.share_entity(tx, draft.entity_id)
    domain.advance_entity(entity.id, entity.state, EntityAction.STAFF)
    department = DepartmentRow(**asdict(draft), state=DepartmentState.ACTIVE)
    await store.save_department(tx, department)
    today = domain.day_in(entity.time_zone, clock.now())
    tx.add(DepartmentHistoryRow(department_id=department.id, parent_id=department.parent_id, effective_from=today))
    return department


async def _adopt_department(tx: WriteSession, parent_id: UUID, entity_id: UUID) -> DepartmentRow:
    parent = await store.share_department(tx, parent_id)
    if parent.entity_id != entity_id:
        raise DepartmentOfOtherEntity(parent.id, entity_id)
    domain.advance_department(parent.id, parent.state, DepartmentAction.ADOPT)
    domain.check_department_fits_below(parent.id, await store.get_department_level(tx, parent.id))
    return parent


async def update_department(
    tx: WriteSession, department_id: UUID, changes: Mapping[str, Any], *, etag: str
) -> DepartmentRow:
    """Change a department, and say so where somebody else answers for it now."""
    department = await store.lock_department(tx, department_id)
    department.check_etag(etag)
    department.state = domain.advance_department(department.id, department.state, DepartmentAction.CHANGE)
    manager_before = department.manager_user_id
    for column, value in changes.items():
        setattr(department, column, value)
    await store.save_department(tx, department)
    if department.manager_user_id != manager_before:
        outbox.append(tx, events.department_manager_changed(department, manager_before))
    return department


async def resolve_scope(tx: ReadSession, entity_ids: Collection[UUID], department_ids: Collection[UUID]) -> Scope:
    """What the entities and departments named cover: themselves, all below them, and the entities' departments."""
    covered = await store.find_entities_at_or_below(tx, entity_ids)
    return Scope(frozenset(covered), frozenset(await store.find_departments_covered(tx, covered, department_ids)))


async def set_exchange_rates(tx: WriteSession, drafts: Collection[RateDraft]) -> RatesSet:
    """Record rates, each pair and day at most once, in place of what was there; say so if that changed anything."""
    if tx.scope is not None:
        raise RatesOutOfScope
    changed = await store.record_rates(tx, drafts)
    if changed:
        outbox.append(tx, events.exchange_rates_changed(changed))
    created = sum(row.version == 1 for row in changed)
    return RatesSet(created, len(changed) - created, len(drafts) - len(changed))


async def get_rates(tx: ReadSession, conversions: Sequence[Conversion]) -> Sequence[DerivedRate | None]:
    """The rate for each conversion, in their order; None where there is none."""
    quotes = await store.find_quotes(tx, {(wanted.source, wanted.target, wanted.day) for wanted in conversions})
    return [
        domain.derive_rate(wanted.source, wanted.target, wanted.day, quotes.get(wanted.day, {}))
        for wanted in conversions
    ]
