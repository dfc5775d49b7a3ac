"""SQL for entities."""

from collections.abc import Collection, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import Select, or_, select
from sqlalchemy.exc import IntegrityError

from kit.db import ReadSession, WriteSession, constraint_name, found, scope_filter
from services.entities.domain.entities import EntityFilter, EntityState
from services.entities.errors.entities import EntityCodeTaken, EntityNotFound
from services.entities.models.entities import DepartmentRow, EntityRow
from serving.pages import Page, Slice

_CHILDREN_MAX: Final = 10
"""The most active children that an error message lists."""


def _visible(tx: ReadSession) -> Select[EntityRow]:
    """Select the entities that the caller may see."""
    covered = scope_filter(tx.scope, EntityRow.id)
    return select(EntityRow) if covered is None else select(EntityRow).where(covered)


async def get(tx: ReadSession, entity_id: UUID) -> EntityRow:
    """Return the entity. Raises EntityNotFound."""
    return found(await tx.one_or_none(_visible(tx).where(EntityRow.id == entity_id)), EntityNotFound(entity_id))


async def get_time_zone(tx: ReadSession, entity_id: UUID) -> str:
    """Return the time zone of the entity. Raises EntityNotFound."""
    query = _visible(tx).where(EntityRow.id == entity_id).with_only_columns(EntityRow.time_zone)
    return found(await tx.one_or_none(query), EntityNotFound(entity_id))


async def find_base_currency(tx: ReadSession) -> str:
    """Return the base currency of the tenant, that of its oldest top-level entity; empty if there is no entity."""
    query = select(EntityRow.currency_code).where(EntityRow.parent_id.is_(None)).order_by(EntityRow.id).limit(1)
    return await tx.one_or_none(query) or ""


async def get_of_department(tx: ReadSession, department: DepartmentRow) -> EntityRow:
    """Return the entity of a department, even if the caller's scope covers only the department."""
    query = select(EntityRow).where(EntityRow.id == department.entity_id)
    return found(await tx.one_or_none(query), EntityNotFound(department.entity_id))


async def lock(tx: WriteSession, entity_id: UUID) -> EntityRow:
    """Return the entity, locked until the transaction ends. Raises EntityNotFound."""
    query = _visible(tx).where(EntityRow.id == entity_id).with_for_update(key_share=True)
    return found(await tx.one_or_none(query), EntityNotFound(entity_id))


async def lock_unscoped(tx: WriteSession, entity_id: UUID) -> EntityRow:
    """Return the entity, locked until the transaction ends, also outside of the caller's scope."""
    query = select(EntityRow).where(EntityRow.id == entity_id).with_for_update(key_share=True)
    return found(await tx.one_or_none(query), EntityNotFound(entity_id))


async def lock_shared(tx: WriteSession, entity_id: UUID) -> EntityRow:
    """Return the entity, protected from changes until the transaction ends. Raises EntityNotFound."""
    query = _visible(tx).where(EntityRow.id == entity_id).with_for_update(read=True)
    return found(await tx.one_or_none(query), EntityNotFound(entity_id))


async def lock_shared_unscoped(tx: WriteSession, entity_id: UUID) -> EntityRow:
    """Return the entity, protected from changes until the transaction ends, also outside of the caller's scope."""
    query = select(EntityRow).where(EntityRow.id == entity_id).with_for_update(read=True)
    return found(await tx.one_or_none(query), EntityNotFound(entity_id))


async def save(tx: WriteSession, entity: EntityRow) -> None:
    """Write a new or changed entity; the row then has its id and etag. Raises EntityCodeTaken."""
    code = entity.code  # a failed flush expires the row
    tx.add(entity)
    try:
        await tx.flush()
    except IntegrityError as error:
        if constraint_name(error) == "billing_entities_code_key":
            raise EntityCodeTaken(code) from error
        raise


async def list_page(tx: ReadSession, page: Page, filters: EntityFilter) -> Slice[EntityRow]:
    """Return one page of the entities that match all filters, oldest first."""
    query = _visible(tx)
    if filters.state is not None:
        query = query.where(EntityRow.state == filters.state)
    if filters.parent_id is not None:
        query = query.where(EntityRow.parent_id == filters.parent_id)
    if filters.entity_type is not None:
        query = query.where(EntityRow.entity_type == filters.entity_type)
    if filters.code:
        query = query.where(EntityRow.code == filters.code)
    if filters.text:
        searched = EntityRow.code, EntityRow.legal_name, EntityRow.display_name
        query = query.where(or_(*(column.icontains(filters.text, autoescape=True) for column in searched)))
    return await page.fetch(tx, query, EntityRow.id)


async def list_by_ids(tx: ReadSession, entity_ids: Collection[UUID]) -> Sequence[EntityRow]:
    """Return the entities with these ids that the caller may see, oldest first."""
    return await tx.all(_visible(tx).where(EntityRow.id.in_(entity_ids)).order_by(EntityRow.id))


async def find_active_children(tx: ReadSession, entity_id: UUID) -> Sequence[UUID]:
    """Return the ids of active children, at most 10."""
    active = EntityRow.parent_id == entity_id, EntityRow.state == EntityState.ACTIVE
    return await tx.all(select(EntityRow.id).where(*active).order_by(EntityRow.id).limit(_CHILDREN_MAX))


async def filter_existing(tx: ReadSession, entity_ids: Collection[UUID]) -> frozenset[UUID]:
    """Return those of the ids that belong to an entity of the tenant, also outside of the caller's scope."""
    if not entity_ids:
        return frozenset()
    return frozenset(await tx.all(select(EntityRow.id).where(EntityRow.id.in_(entity_ids))))
