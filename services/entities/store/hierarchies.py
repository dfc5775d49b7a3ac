"""SQL for the tree of entities, current and past."""

from collections import namedtuple
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CTE,
    JSON,
    BindParameter,
    ColumnElement,
    Enum,
    FromClause,
    Select,
    String,
    Uuid,
    and_,
    any_,
    bindparam,
    cast,
    func,
    literal,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.orm import aliased

from kit.db import ReadSession, WriteSession
from services.entities.domain.entities import ENTITY_DEPTH_MAX, HierarchyNode
from services.entities.errors.entities import EntityNotFound
from services.entities.models.entities import EntityColumns, EntityHistoryRow, EntityRow

_ENTITIES: Final = EntityRow.__table__


def _raw(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the column without conversion of its values in Python: enums and JSON as text."""
    if isinstance(column.type, Enum):
        return type_coerce(column, String)
    return cast(column, String) if isinstance(column.type, JSON) else column


_ENTITY_COLUMNS: Final = [
    _raw(column).label(attribute.key)
    for attribute in EntityRow.__mapper__.column_attrs
    for column in attribute.columns
    if attribute.key != "tenant_id"
]
"""Columns of the plain table, for thousands of entities: mapped rows cost several times as much."""
_NAMES: Final = [column.key for column in _ENTITY_COLUMNS]
_EntityColumns: Any = namedtuple("_EntityColumns", _NAMES)  # type: ignore[misc]  # noqa: PYI024 - the names come from the model


_LOCK: Final = "entity tree"


async def lock(tx: WriteSession) -> None:
    """Prevent other transactions of the tenant from moving an entity or adding a child until this one ends.

    Take this lock before the lock of any entity.
    """
    await tx.lock(_LOCK)


async def lock_shared(tx: WriteSession) -> None:
    """Prevent other transactions of the tenant from moving an entity until this one ends.

    Take this lock before the lock of any entity.
    """
    await tx.lock(_LOCK, shared=True)


def _paths_to(entity_ids: BindParameter[Any]) -> Select[UUID, UUID]:
    above = aliased(EntityRow)
    start = select(EntityRow.id.label("of"), EntityRow.id, EntityRow.parent_id, literal(0).label("steps"))
    path = start.where(EntityRow.id == any_(entity_ids)).cte("path", recursive=True)
    up = select(path.c.of, above.id, above.parent_id, path.c.steps + 1).join(path, above.id == path.c.parent_id)
    path = path.union_all(up.where(path.c.steps < ENTITY_DEPTH_MAX))
    return select(path.c.of, path.c.id).order_by(path.c.of, path.c.steps.desc())


_PATHS: Final = _paths_to(bindparam("entity_ids", type_=ARRAY(Uuid)))
"""Built once, since building the query takes longer than running it."""


async def find_paths(tx: ReadSession, entity_ids: Collection[UUID]) -> Mapping[UUID, Sequence[UUID]]:
    """Return the ids from the root down to each entity itself, also outside of the caller's scope."""
    if not entity_ids:
        return {}
    paths: dict[UUID, list[UUID]] = {}
    for entity_id, id in await tx.rows(_PATHS, entity_ids=list(entity_ids)):
        paths.setdefault(entity_id, []).append(id)
    return paths


async def find_path(tx: ReadSession, entity_id: UUID) -> Sequence[UUID]:
    """Return the ids from the root down to the entity itself, also outside of the caller's scope."""
    return (await find_paths(tx, [entity_id])).get(entity_id, ())


async def count_levels(tx: ReadSession, entity_id: UUID) -> int:
    """Return the number of levels of the subtree of the entity, itself included."""
    tree = _tree(_ENTITIES, entity_id, ENTITY_DEPTH_MAX)
    return await tx.one_or_none(select(func.max(tree.c.depth) + 1)) or 0


async def record_parent(tx: WriteSession, entity: EntityRow) -> None:
    """Record in the history that the entity has its current parent, or is a root, from now on."""
    current = and_(EntityHistoryRow.entity_id == entity.id, EntityHistoryRow.end_time.is_(None))
    now = func.greatest(EntityHistoryRow.start_time, func.clock_timestamp())
    close = update(EntityHistoryRow).where(current).values(end_time=now).returning(EntityHistoryRow.end_time)
    end_times = await tx.returning(close)
    row = EntityHistoryRow(entity_id=entity.id, parent_id=entity.parent_id)
    if end_times:
        row.start_time = end_times[0]
    tx.add(row)


async def get(
    tx: ReadSession, entity_id: UUID, *, depth_max: int, until: datetime | None = None
) -> Sequence[HierarchyNode]:
    """Return the entity and `depth_max` levels below it (0: all levels).

    With `until`, the tree just before that moment. Parents come before their children; siblings are sorted by code.
    Raises EntityNotFound.
    """
    # A scope that covers the entity covers everything below it now, but not what was below it in the past.
    if tx.scope and not tx.scope.covers(entity_id):
        raise EntityNotFound(entity_id)
    links = _ENTITIES if until is None else _links_before(until, tx.scope.entity_ids if tx.scope else None)
    tree, child = _tree(links, entity_id, depth_max or ENTITY_DEPTH_MAX), links.alias()
    has_children = select(child.c.id).where(child.c.parent_id == tree.c.id).exists()
    truncated = and_(tree.c.depth == depth_max, has_children) if depth_max else literal(value=False)
    ordered: Select[UUID, UUID | None, int, datetime, bool] = (
        select(tree.c.id, tree.c.parent_id, _ENTITIES.c.version, _ENTITIES.c.update_time, truncated)
        .join(_ENTITIES, tree.c.id == _ENTITIES.c.id)
        .order_by(tree.c.depth, _ENTITIES.c.code)
    )
    nodes = [HierarchyNode(*row) for row in await tx.rows(ordered)]
    if not nodes:
        raise EntityNotFound(entity_id)
    return nodes


async def find_columns(tx: ReadSession, entity_ids: Collection[UUID]) -> Sequence[EntityColumns]:
    """Return the columns of these entities in no particular order, also outside of the caller's scope."""
    if not entity_ids:
        return []
    query: Select[*tuple[Any, ...]] = select(*_ENTITY_COLUMNS).where(_ENTITIES.c.id == any_(_array(entity_ids)))
    return [_EntityColumns._make(row) for row in await tx.rows(query)]


def _array(entity_ids: Collection[UUID]) -> ColumnElement[Any]:
    """Return the ids as one array parameter."""
    return bindparam("entity_ids", list(entity_ids), ARRAY(Uuid), unique=True)


def _links_before(moment: datetime, covered: Collection[UUID] | None) -> FromClause:
    """Select the parent of each entity just before the moment, among the covered entities if given."""
    conditions: list[ColumnElement[bool]] = [
        EntityHistoryRow.start_time < moment,
        or_(EntityHistoryRow.end_time.is_(None), EntityHistoryRow.end_time >= moment),
    ]
    if covered is not None:
        conditions.append(EntityHistoryRow.entity_id.in_(covered))
    links = select(EntityHistoryRow.entity_id.label("id"), EntityHistoryRow.parent_id)
    return links.where(*conditions).subquery("links")


def _tree(links: FromClause, entity_id: UUID, depth_max: int) -> CTE:
    top = select(links.c.id, links.c.parent_id, literal(0).label("depth")).where(links.c.id == entity_id)
    tree, below = top.cte("tree", recursive=True), links.alias()
    deeper = select(below.c.id, below.c.parent_id, tree.c.depth + 1).join(tree, below.c.parent_id == tree.c.id)
    return tree.union_all(deeper.where(tree.c.depth < depth_max))
