"""The tree of entities, as it is and as it was."""

from collections import namedtuple
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
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
    text,
    type_coerce,
    update,
)
from sqlalchemy.orm import aliased

from kit.db import ReadSession, WriteSession
from services.entities.domain.entities import ENTITY_DEPTH_MAX
from services.entities.errors.entities import EntityNotFound
from services.entities.models.entities import EntityColumns, EntityHistoryRow, EntityRow

_ENTITIES: Final = EntityRow.__table__


def _quickly(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The column without what Python does to each value: enums as their text, JSON as it is written."""
    if isinstance(column.type, Enum):
        return type_coerce(column, String)
    return cast(column, String) if isinstance(column.type, JSON) else column


_ENTITY_COLUMNS: Final = [
    _quickly(column).label(attribute.key)
    for attribute in EntityRow.__mapper__.column_attrs
    for column in attribute.columns
    if attribute.key != "tenant_id"
]
"""For many at once: rows of the bare table, since mapped ones cost several times as much by the thousands."""
_NAMES: Final = [column.key for column in _ENTITY_COLUMNS]
_EntityColumns: Any = namedtuple("_EntityColumns", _NAMES)  # type: ignore[misc]  # noqa: PYI024 - they are the model's


class Place(NamedTuple):
    """Where an entity is in a tree, and which version of it that is."""

    id: UUID
    parent_id: UUID | None
    """The one of this tree."""
    version: int
    update_time: datetime
    truncated: bool
    """Whether children of it were left out."""


_TREE_NAME: Final = "hashtextextended('entities of ' || :tenant_id, 0)"
_LOCK_TREE, _SHARE_TREE = (text(f"select pg_advisory_xact_lock{kind}({_TREE_NAME})") for kind in ("", "_shared"))


async def lock(tx: WriteSession) -> None:
    """Let nobody else found or move an entity of the tenant below another until the transaction ends.

    It comes before the lock of any entity.
    """
    await tx.execute(_LOCK_TREE.bindparams(tenant_id=str(tx.tenant_id)))


async def lock_shared(tx: WriteSession) -> None:
    """Let nobody move an entity of the tenant until the transaction ends. It comes before the lock of any entity."""
    await tx.execute(_SHARE_TREE.bindparams(tenant_id=str(tx.tenant_id)))


def _path_to(entity_id: BindParameter[UUID]) -> Select[UUID]:
    above, steps = aliased(EntityRow), literal(0).label("steps")
    start = select(EntityRow.id, EntityRow.parent_id, steps).where(EntityRow.id == entity_id)
    path = start.cte("path", recursive=True)
    up = select(above.id, above.parent_id, path.c.steps + 1).join(path, above.id == path.c.parent_id)
    path = path.union_all(up.where(path.c.steps < ENTITY_DEPTH_MAX))
    return select(path.c.id).order_by(path.c.steps.desc())


_PATH: Final = _path_to(bindparam("entity_id", type_=Uuid))
"""Built once: that takes longer than to ask it."""


async def find_path(tx: ReadSession, entity_id: UUID) -> Sequence[UUID]:
    """Ids from the root down to the entity itself, whatever the caller may see."""
    return await tx.all(_PATH, entity_id=entity_id)


async def count_levels(tx: ReadSession, entity_id: UUID) -> int:
    """How many levels the entity makes together with all below it."""
    tree = _tree(_ENTITIES, entity_id, ENTITY_DEPTH_MAX)
    return await tx.one_or_none(select(func.max(tree.c.depth) + 1)) or 0


async def record_parent(tx: WriteSession, entity: EntityRow) -> None:
    """Note in the history that the entity is below its parent, or a root, from now on."""
    open_now = and_(EntityHistoryRow.entity_id == entity.id, EntityHistoryRow.end_time.is_(None))
    now = func.greatest(EntityHistoryRow.start_time, func.clock_timestamp())
    closed = update(EntityHistoryRow).where(open_now).values(end_time=now).returning(EntityHistoryRow.end_time)
    before = await tx.returning(closed)
    place = EntityHistoryRow(entity_id=entity.id, parent_id=entity.parent_id)
    if before:
        place.start_time = before[0]
    tx.add(place)


async def get(tx: ReadSession, entity_id: UUID, *, depth_max: int, until: datetime | None = None) -> Sequence[Place]:
    """The entity and all at most `depth_max` levels below it (0: all of them).

    With `until` as it was right before that moment. Parents stand before their children and siblings in the order of
    their codes. Raises EntityNotFound.
    """
    # Who sees the entity sees all below it; what was below it once may be elsewhere now.
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
    places = [Place(*row) for row in await tx.rows(ordered)]
    if not places:
        raise EntityNotFound(entity_id)
    return places


async def find_columns(tx: ReadSession, entity_ids: Collection[UUID]) -> Sequence[EntityColumns]:
    """The columns of these entities, in no order and whatever the caller may see."""
    if not entity_ids:
        return []
    wanted: Select[*tuple[Any, ...]] = select(*_ENTITY_COLUMNS).where(_ENTITIES.c.id == any_(_array(entity_ids)))
    return [_EntityColumns._make(row) for row in await tx.rows(wanted)]


def _array(entity_ids: Collection[UUID]) -> ColumnElement[Any]:
    """The ids as one parameter, however many there are."""
    return bindparam("entity_ids", list(entity_ids), ARRAY(Uuid), unique=True)


def _links_before(moment: datetime, covered: Collection[UUID] | None) -> FromClause:
    """Which entity was below which right before the moment, of those that are covered."""
    held: list[ColumnElement[bool]] = [
        EntityHistoryRow.start_time < moment,
        or_(EntityHistoryRow.end_time.is_(None), EntityHistoryRow.end_time >= moment),
    ]
    if covered is not None:
        held.append(EntityHistoryRow.entity_id.in_(covered))
    links = select(EntityHistoryRow.entity_id.label("id"), EntityHistoryRow.parent_id)
    return links.where(*held).subquery("links")


def _tree(links: FromClause, entity_id: UUID, depth_max: int) -> CTE:
    top = select(links.c.id, links.c.parent_id, literal(0).label("depth")).where(links.c.id == entity_id)
    tree, below = top.cte("tree", recursive=True), links.alias()
    deeper = select(below.c.id, below.c.parent_id, tree.c.depth + 1).join(tree, below.c.parent_id == tree.c.id)
    return tree.union_all(deeper.where(tree.c.depth < depth_max))
