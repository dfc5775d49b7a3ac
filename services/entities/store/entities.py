"""Entities and the tree they form."""

from collections.abc import Collection, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import Select, or_, select
from sqlalchemy.exc import IntegrityError

from kit.db import ReadSession, WriteSession, constraint_name, scope_filter
from services.entities.domain.entities import EntityState, EntityType
from services.entities.errors.entities import EntityCodeTaken, EntityNotFound
from services.entities.models.entities import DepartmentRow, EntityRow
from serving.pages import Page, Slice

_CHILDREN_NAMED: Final = 10
"""Most active children that the refusal of a deactivation names."""

_ENTITIES: Final = EntityRow.__table__
_ENTITY_COLUMNS: Final = [attribute.columns[0].label(attribute.key) for attribute in EntityRow.__mapper__.column_attrs]
"""For whole trees: rows of the bare table, since mapped ones cost twice as much by the thousands."""


def _visible_entities(tx: ReadSession) -> Select[EntityRow]:
    """Entities that the caller may see."""
    covered = scope_filter(tx.scope, EntityRow.id)
    return select(EntityRow) if covered is None else select(EntityRow).where(covered)


async def get_time_zone(tx: ReadSession, entity_id: UUID) -> str:
    """The time zone of the entity; raises EntityNotFound."""
    wanted = _visible_entities(tx).where(EntityRow.id == entity_id)
    found = await tx.one_or_none(wanted.with_only_columns(EntityRow.time_zone))
    if found is None:
        raise EntityNotFound(entity_id)
    return found


async def get_of_department(tx: ReadSession, department: DepartmentRow) -> EntityRow:
    """The entity of a department that the caller sees."""
    wanted = select(EntityRow).where(EntityRow.id == department.entity_id)
    return _found_entity(await tx.one_or_none(wanted), department.entity_id)


async def lock(tx: WriteSession, entity_id: UUID) -> EntityRow:
    """The entity, locked until the transaction ends; raises EntityNotFound."""
    locked = _visible_entities(tx).where(EntityRow.id == entity_id).with_for_update(key_share=True)
    return _found_entity(await tx.one_or_none(locked), entity_id)


async def lock_shared(tx: WriteSession, entity_id: UUID) -> EntityRow:
    """The entity, kept from changing until the transaction ends; raises EntityNotFound."""
    kept = _visible_entities(tx).where(EntityRow.id == entity_id).with_for_update(read=True)
    return _found_entity(await tx.one_or_none(kept), entity_id)


async def lock_shared_unscoped(tx: WriteSession, entity_id: UUID) -> EntityRow:
    """The entity, whatever the caller may see, kept from changing until the transaction ends; raises EntityNotFound."""
    kept = select(EntityRow).where(EntityRow.id == entity_id).with_for_update(read=True)
    return _found_entity(await tx.one_or_none(kept), entity_id)


async def lock_unscoped(tx: WriteSession, entity_id: UUID) -> EntityRow:
    """The entity, whatever the caller may see, locked until the transaction ends; raises EntityNotFound."""
    locked = select(EntityRow).where(EntityRow.id == entity_id).with_for_update(key_share=True)
    return _found_entity(await tx.one_or_none(locked), entity_id)


def _found_entity(entity: EntityRow | None, entity_id: UUID) -> EntityRow:
    if entity is None:
        raise EntityNotFound(entity_id)
    return entity


async def save(tx: WriteSession, entity: EntityRow) -> None:
    """Write a new or changed entity, which gives it its id and etag; raises EntityCodeTaken."""
    code = entity.code  # a flush that fails takes the row's values with it
    tx.add(entity)
    try:
        await tx.flush()
    except IntegrityError as error:
        if constraint_name(error) == "billing_entities_code_key":
            raise EntityCodeTaken(code) from error
        raise


async def list_page(
    tx: ReadSession,
    page: Page,
    *,
    state: EntityState | None,
    parent_id: UUID | None,
    entity_type: EntityType | None,
    code: str,
    text: str,
) -> Slice[EntityRow]:
    """One page of the entities that fit all filters given, oldest first; `text` is looked for in code and names."""
    wanted = _visible_entities(tx)
    if state is not None:
        wanted = wanted.where(EntityRow.state == state)
    if parent_id is not None:
        wanted = wanted.where(EntityRow.parent_id == parent_id)
    if entity_type is not None:
        wanted = wanted.where(EntityRow.entity_type == entity_type)
    if code:
        wanted = wanted.where(EntityRow.code == code)
    if text:
        searched = EntityRow.code, EntityRow.legal_name, EntityRow.display_name
        wanted = wanted.where(or_(*(column.icontains(text, autoescape=True) for column in searched)))
    return page.slice(await tx.all(page.narrow(wanted, EntityRow.id)))


async def list_by_ids(tx: ReadSession, entity_ids: Collection[UUID]) -> Sequence[EntityRow]:
    """Those of the entities that there are, oldest first."""
    return await tx.all(_visible_entities(tx).where(EntityRow.id.in_(entity_ids)).order_by(EntityRow.id))


async def find_active_children(tx: ReadSession, entity_id: UUID) -> Sequence[UUID]:
    """Ids of the first few active children."""
    active = EntityRow.parent_id == entity_id, EntityRow.state == EntityState.ACTIVE
    return await tx.all(select(EntityRow.id).where(*active).order_by(EntityRow.id).limit(_CHILDREN_NAMED))
