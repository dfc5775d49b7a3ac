"""What can be done with entities, as a finance person would say it."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from eventing import outbox
from kit.auth import Scope
from kit.db import ReadSession, WriteSession
from kit.errors import InvalidFields, Violation
from services.entities import events
from services.entities.domain.entities import (
    Address,
    Consolidation,
    EntityAction,
    EntityState,
    EntityType,
    advance_entity,
    check_entity_fits_below,
)
from services.entities.errors import EntityHasActiveChildren
from services.entities.models.entities import EntityRow
from services.entities.store import entities, scopes


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


async def create_entity(tx: WriteSession, draft: EntityDraft) -> EntityRow:
    """Create an entity below an active one, or as a root, and say so."""
    if draft.parent_id is None:
        _check_may_create_root(tx.scope)
    else:
        await _adopt_entity(tx, draft.parent_id)
    entity = EntityRow(**asdict(draft), state=EntityState.ACTIVE)
    _fill_invoice_prefix(entity)
    await entities.save_entity(tx, entity)
    outbox.append(tx, events.entity_created(entity))
    return entity


def _check_may_create_root(scope: Scope | None) -> None:
    if scope is not None:
        text = "must name an entity that your token covers; a new root would be outside of it"
        raise InvalidFields([Violation("parent_id", text, "scope.root")])


async def _adopt_entity(tx: WriteSession, parent_id: UUID) -> None:
    parent = await entities.share_entity(tx, parent_id)
    advance_entity(parent.id, parent.state, EntityAction.ADOPT)
    check_entity_fits_below(parent.id, await entities.get_entity_level(tx, parent.id))


def _fill_invoice_prefix(entity: EntityRow) -> None:
    # Filled once, so that a new code later does not change the numbers of invoices.
    entity.invoice_prefix = entity.invoice_prefix or entity.code


async def update_entity(tx: WriteSession, entity_id: UUID, changes: Mapping[str, Any], *, etag: str) -> EntityRow:
    """Change an active entity."""
    entity = await entities.lock_entity(tx, entity_id)
    entity.check_etag(etag)
    entity.state = advance_entity(entity.id, entity.state, EntityAction.CHANGE)
    for column, value in changes.items():
        setattr(entity, column, value)
    _fill_invoice_prefix(entity)
    await entities.save_entity(tx, entity)
    return entity


async def deactivate_entity(tx: WriteSession, entity_id: UUID, *, etag: str) -> EntityRow:
    """Take an entity without active children out of business, and say so."""
    entity = await entities.lock_entity(tx, entity_id)
    entity.check_etag(etag)
    entity.state = advance_entity(entity.id, entity.state, EntityAction.DEACTIVATE)
    children = await entities.find_active_children(tx, entity.id)
    if children:
        raise EntityHasActiveChildren(entity.id, children)
    await entities.save_entity(tx, entity)
    outbox.append(tx, events.entity_deactivated(entity))
    return entity


async def resolve_scope(tx: ReadSession, entity_ids: Collection[UUID], department_ids: Collection[UUID]) -> Scope:
    """What the entities and departments named cover: themselves, all below them, and the entities' departments."""
    covered = await scopes.find_entities_at_or_below(tx, entity_ids)
    return Scope(frozenset(covered), frozenset(await scopes.find_departments_covered(tx, covered, department_ids)))
