"""Entities and the tree they form."""

from collections.abc import Collection, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import CTE, Select, and_, literal, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from kit.db import ReadSession, WriteSession, constraint_of, within
from services.entities.domain.entities import ENTITY_DEPTH_MAX, EntityState, EntityType
from services.entities.errors import EntityCodeTaken, EntityNotFound
from services.entities.models.entities import DepartmentRow, EntityColumns, EntityRow
from services.entities.store.trees import count_levels
from serving.pages import Page, Slice

_CHILDREN_NAMED: Final = 10
"""Most active children that the refusal of a deactivation names."""

_ENTITIES: Final = EntityRow.__table__
_ENTITY_COLUMNS: Final = [attribute.columns[0].label(attribute.key) for attribute in EntityRow.__mapper__.column_attrs]
"""For whole trees: rows of the bare table, since mapped ones cost twice as much by the thousands."""


def _visible_entities(tx: ReadSession) -> Select[EntityRow]:
    """Entities that the caller may see."""
    covered = within(tx.scope, EntityRow.id)
    return select(EntityRow) if covered is None else select(EntityRow).where(covered)


async def lock_entity(tx: WriteSession, entity_id: UUID) -> EntityRow:
    """The entity, locked until the transaction ends; raises EntityNotFound."""
    locked = _visible_entities(tx).where(EntityRow.id == entity_id).with_for_update(key_share=True)
    return _found_entity(await tx.one_or_none(locked), entity_id)


async def share_entity(tx: WriteSession, entity_id: UUID) -> EntityRow:
    """The entity, kept from changing until the transaction ends; raises EntityNotFound."""
    kept = _visible_entities(tx).where(EntityRow.id == entity_id).with_for_update(read=True)
    return _found_entity(await tx.one_or_none(kept), entity_id)


async def share_entity_of(tx: WriteSession, department: DepartmentRow) -> EntityRow:
    """The entity of a department that the caller sees, kept from changing until the transaction ends."""
    kept = select(EntityRow).where(EntityRow.id == department.entity_id).with_for_update(read=True)
    return _found_entity(await tx.one_or_none(kept), department.entity_id)


def _found_entity(entity: EntityRow | None, entity_id: UUID) -> EntityRow:
    if entity is None:
        raise EntityNotFound(entity_id)
    return entity


async def save_entity(tx: WriteSession, entity: EntityRow) -> None:
    """Write a new or changed entity, which gives it its id and etag; raises EntityCodeTaken."""
    code = entity.code  # a flush that fails takes the row's values with it
    tx.add(entity)
    try:
        await tx.flush()
    except IntegrityError as error:
        if constraint_of(error) == "billing_entities_code_key":
            raise EntityCodeTaken(code) from error
        raise


async def list_entities(
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


async def find_entities(tx: ReadSession, entity_ids: Collection[UUID]) -> Sequence[EntityRow]:
    """Those of the entities that there are, oldest first."""
    return await tx.all(_visible_entities(tx).where(EntityRow.id.in_(entity_ids)).order_by(EntityRow.id))


async def find_active_children(tx: ReadSession, entity_id: UUID) -> Sequence[UUID]:
    """Ids of the first few active children."""
    active = EntityRow.parent_id == entity_id, EntityRow.state == EntityState.ACTIVE
    return await tx.all(select(EntityRow.id).where(*active).order_by(EntityRow.id).limit(_CHILDREN_NAMED))


async def get_entity_level(tx: ReadSession, entity_id: UUID) -> int:
    """On which level of its tree the entity is; roots are on level 1."""
    above = aliased(EntityRow)
    path = select(EntityRow.id, EntityRow.parent_id).where(EntityRow.id == entity_id).cte("path", recursive=True)
    path = path.union_all(select(above.id, above.parent_id).join(path, above.id == path.c.parent_id))
    return await count_levels(tx, path)


async def get_entity_tree(tx: ReadSession, entity_id: UUID, *, depth_max: int) -> Sequence[EntityColumns]:
    """The columns of the entity and of all at most `depth_max` levels below it (0: all of them).

    Parents stand before their children and siblings in the order of their codes. `truncated` is true where
    `depth_max` left children out. Raises EntityNotFound.
    """
    # Who sees the entity sees all below it.
    if tx.scope and not tx.scope.covers(entity_id):
        raise EntityNotFound(entity_id)
    tree, child = _entity_tree(entity_id, depth_max or ENTITY_DEPTH_MAX), _ENTITIES.alias()
    has_children = select(child.c.id).where(child.c.parent_id == _ENTITIES.c.id).exists()
    truncated = and_(tree.c.depth == depth_max, has_children) if depth_max else literal(value=False)
    ordered: Select[*tuple[Any, ...]] = (
        select(*_ENTITY_COLUMNS, truncated.label("truncated"))
        .join(tree, tree.c.id == _ENTITIES.c.id)
        .order_by(tree.c.depth, _ENTITIES.c.code)
    )
    rows = await tx.rows(ordered)
    if not rows:
        raise EntityNotFound(entity_id)
    return rows


def _entity_tree(entity_id: UUID, depth_max: int) -> CTE:
    top = select(_ENTITIES.c.id, literal(0).label("depth")).where(_ENTITIES.c.id == entity_id)
    tree, below = top.cte("tree", recursive=True), _ENTITIES.alias()
    deeper = select(below.c.id, tree.c.depth + 1).join(tree, below.c.parent_id == tree.c.id)
    return tree.union_all(deeper.where(tree.c.depth < depth_max))
