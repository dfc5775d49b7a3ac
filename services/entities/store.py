"""Every SQL statement of the entities service."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CHAR,
    CTE,
    Date,
    DateTime,
    Integer,
    Numeric,
    Select,
    String,
    TableValuedAlias,
    Uuid,
    and_,
    bindparam,
    column,
    func,
    literal,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased
from sqlalchemy.types import TypeEngine

from kit import clock, ids
from kit.db import ReadSession, WriteSession, constraint_of, within
from services.entities.domain import (
    ENTITY_DEPTH_MAX,
    RATE_AGE_DAYS_MAX,
    DepartmentState,
    EntityState,
    EntityType,
    Pair,
    Quote,
    RateDraft,
)
from services.entities.errors import DepartmentCodeTaken, DepartmentNotFound, EntityCodeTaken, EntityNotFound
from services.entities.models import DepartmentRow, EntityColumns, EntityRow, ExchangeRateRow
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


def _visible_departments(tx: ReadSession) -> Select[DepartmentRow]:
    """Departments that the caller may see."""
    covered = within(tx.scope, DepartmentRow.entity_id, DepartmentRow.id)
    return select(DepartmentRow) if covered is None else select(DepartmentRow).where(covered)


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
    return await _count(tx, path)


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


async def get_department(tx: ReadSession, department_id: UUID) -> DepartmentRow:
    """The department; raises DepartmentNotFound."""
    wanted = _visible_departments(tx).where(DepartmentRow.id == department_id)
    return _found_department(await tx.one_or_none(wanted), department_id)


async def lock_department(tx: WriteSession, department_id: UUID) -> DepartmentRow:
    """The department, locked until the transaction ends; raises DepartmentNotFound."""
    locked = _visible_departments(tx).where(DepartmentRow.id == department_id).with_for_update(key_share=True)
    return _found_department(await tx.one_or_none(locked), department_id)


async def share_department(tx: WriteSession, department_id: UUID) -> DepartmentRow:
    """The department, kept from changing until the transaction ends; raises DepartmentNotFound."""
    kept = _visible_departments(tx).where(DepartmentRow.id == department_id).with_for_update(read=True)
    return _found_department(await tx.one_or_none(kept), department_id)


def _found_department(department: DepartmentRow | None, department_id: UUID) -> DepartmentRow:
    if department is None:
        raise DepartmentNotFound(department_id)
    return department


async def save_department(tx: WriteSession, department: DepartmentRow) -> None:
    """Write a new or changed department, which gives it its id and etag; raises DepartmentCodeTaken."""
    entity_id, code = department.entity_id, department.code  # a flush that fails takes the row's values with it
    tx.add(department)
    try:
        await tx.flush()
    except IntegrityError as error:
        if constraint_of(error) == "departments_code_key":
            raise DepartmentCodeTaken(entity_id, code) from error
        raise


async def list_departments(
    tx: ReadSession,
    page: Page,
    *,
    entity_id: UUID | None,
    parent_id: UUID | None,
    manager_user_id: str,
    cost_center: str,
    state: DepartmentState | None,
) -> Slice[DepartmentRow]:
    """One page of the departments that fit all filters given, oldest first."""
    wanted = _visible_departments(tx)
    if entity_id is not None:
        wanted = wanted.where(DepartmentRow.entity_id == entity_id)
    if parent_id is not None:
        wanted = wanted.where(DepartmentRow.parent_id == parent_id)
    if manager_user_id:
        wanted = wanted.where(DepartmentRow.manager_user_id == manager_user_id)
    if cost_center:
        wanted = wanted.where(DepartmentRow.cost_center == cost_center)
    if state is not None:
        wanted = wanted.where(DepartmentRow.state == state)
    return page.slice(await tx.all(page.narrow(wanted, DepartmentRow.id)))


async def find_departments(tx: ReadSession, department_ids: Collection[UUID]) -> Sequence[DepartmentRow]:
    """Those of the departments that there are, oldest first."""
    wanted = _visible_departments(tx).where(DepartmentRow.id.in_(department_ids))
    return await tx.all(wanted.order_by(DepartmentRow.id))


async def get_department_level(tx: ReadSession, department_id: UUID) -> int:
    """On which level of its entity the department is; those without a parent are on level 1."""
    above = aliased(DepartmentRow)
    start = select(DepartmentRow.id, DepartmentRow.parent_id).where(DepartmentRow.id == department_id)
    path = start.cte("path", recursive=True)
    path = path.union_all(select(above.id, above.parent_id).join(path, above.id == path.c.parent_id))
    return await _count(tx, path)


async def _count(tx: ReadSession, path: CTE) -> int:
    return await tx.one_or_none(select(func.count()).select_from(path)) or 0


async def find_entities_at_or_below(tx: ReadSession, entity_ids: Collection[UUID]) -> Sequence[UUID]:
    """Ids of those of the entities that there are, and of all below them."""
    covered = select(EntityRow.id).where(EntityRow.id.in_(entity_ids)).cte("covered", recursive=True)
    below = aliased(EntityRow)
    covered = covered.union(select(below.id).join(covered, below.parent_id == covered.c.id))
    return await tx.all(select(covered.c.id))


async def find_departments_covered(
    tx: ReadSession, entity_ids: Collection[UUID], department_ids: Collection[UUID]
) -> Sequence[UUID]:
    """Ids of all departments of the entities, of those of the departments that there are, and of all below them."""
    named = or_(DepartmentRow.entity_id.in_(entity_ids), DepartmentRow.id.in_(department_ids))
    covered = select(DepartmentRow.id).where(named).cte("covered", recursive=True)
    below = aliased(DepartmentRow)
    covered = covered.union(select(below.id).join(covered, below.parent_id == covered.c.id))
    return await tx.all(select(covered.c.id))


async def record_rates(tx: WriteSession, drafts: Collection[RateDraft]) -> Sequence[ExchangeRateRow]:
    """Write the rates, and give the rows that are new or have another rate or source than before."""
    # In one order whoever writes, so that no two wait for each other.
    ordered = sorted(drafts, key=lambda draft: (draft.base_currency, draft.quote_currency, draft.effective_date))
    given = _unnested(
        id=(Uuid, [ids.new() for _ in ordered]),
        base_currency=(CHAR(3), [draft.base_currency for draft in ordered]),
        quote_currency=(CHAR(3), [draft.quote_currency for draft in ordered]),
        effective_date=(Date, [draft.effective_date for draft in ordered]),
        rate=(Numeric(24, 12), [draft.rate for draft in ordered]),
        source=(String, [draft.source for draft in ordered]),
    )
    moment = literal(clock.now(), DateTime(timezone=True))
    columns = {
        "tenant_id": literal(tx.tenant_id), **given.columns, "version": literal(1), "create_time": moment,
        "update_time": moment,
    }  # fmt: skip
    recorded = insert(ExchangeRateRow).from_select(list(columns), select(*columns.values()))
    new = recorded.excluded
    recorded = recorded.on_conflict_do_update(
        constraint="exchange_rates_day_key",
        set_={
            "rate": new.rate,
            "source": new.source,
            "version": ExchangeRateRow.version + 1,
            "update_time": new.update_time,
        },
        where=or_(ExchangeRateRow.rate != new.rate, ExchangeRateRow.source != new.source),
    )
    return await tx.returning(recorded.returning(ExchangeRateRow))


async def list_rates(
    tx: ReadSession, page: Page, *, base_currency: str, quote_currency: str, start: date | None, end: date | None
) -> Slice[ExchangeRateRow]:
    """One page of the rates that fit all filters given, oldest record first; `end` is the day after the last one."""
    wanted = select(ExchangeRateRow)
    if base_currency:
        wanted = wanted.where(ExchangeRateRow.base_currency == base_currency)
    if quote_currency:
        wanted = wanted.where(ExchangeRateRow.quote_currency == quote_currency)
    if start is not None:
        wanted = wanted.where(ExchangeRateRow.effective_date >= start)
    if end is not None:
        wanted = wanted.where(ExchangeRateRow.effective_date < end)
    return page.slice(await tx.all(page.narrow(wanted, ExchangeRateRow.id)))


_QUOTES: Final = (
    text("""
    with recursive wanted as (
        select * from unnest(:sources, :targets, :days) as each(source, target, day)
    ), pairs as (  -- by leaping from one to the next through the key: a pair has thousands of days
        (select base_currency, quote_currency from exchange_rates order by 1, 2 limit 1)
        union all
        select next.* from pairs cross join lateral (
            select each.base_currency, each.quote_currency from exchange_rates each
            where (each.base_currency, each.quote_currency) > (pairs.base_currency, pairs.quote_currency)
            order by 1, 2 limit 1
        ) next
    ), legs as (
        select base_currency as source, quote_currency as target, * from pairs
        union all select quote_currency, base_currency, * from pairs
    ), needed as (  -- the pair itself and its inverse, and both legs of every way over one currency
        select day, base_currency, quote_currency from wanted join legs using (source, target)
        union
        select day, unnest(array[first.base_currency, second.base_currency]),
            unnest(array[first.quote_currency, second.quote_currency])
        from wanted join legs first using (source) join legs second on second.source = first.target
        where second.target = wanted.target
    )
    select needed.day, needed.base_currency, needed.quote_currency, quote.effective_date, quote.rate
    from needed cross join lateral (
        select effective_date, rate from exchange_rates each
        where each.base_currency = needed.base_currency and each.quote_currency = needed.quote_currency
        and each.effective_date between needed.day - :days_max and needed.day
        order by each.effective_date desc limit 1
    ) quote""")
    .bindparams(
        bindparam("sources", type_=ARRAY(CHAR(3))),
        bindparam("targets", type_=ARRAY(CHAR(3))),
        bindparam("days", type_=ARRAY(Date)),
        bindparam("days_max", RATE_AGE_DAYS_MAX, Integer),
    )
    .columns(day=Date, base_currency=CHAR(3), quote_currency=CHAR(3), effective_date=Date, rate=Numeric(24, 12))
    .subquery("quotes")
)
"""Every rate that can matter for conversions; as text, since what it reads and in which order is all there is to it."""


async def find_quotes(
    tx: ReadSession, conversions: Collection[tuple[str, str, date]]
) -> Mapping[date, Mapping[Pair, Quote]]:
    """What is effective on the days of the conversions between their currencies, or over one more; by day."""
    given = {
        "sources": [source for source, _, _ in conversions],
        "targets": [target for _, target, _ in conversions],
        "days": [day for _, _, day in conversions],
    }
    quotes: dict[date, dict[Pair, Quote]] = {}
    for day, base, quote, effective_date, rate in await tx.rows(select(*_QUOTES.columns).params(given)):
        quotes.setdefault(day, {})[base, quote] = Quote(rate, effective_date)
    return quotes


def _unnested(**columns: tuple[TypeEngine[Any] | type[TypeEngine[Any]], Sequence[Any]]) -> TableValuedAlias:
    """A table of these columns, each with its type and its values: one parameter each, however many rows there are."""
    arrays = [bindparam(name, values, ARRAY(kind), unique=True) for name, (kind, values) in columns.items()]
    named = [column(name, kind) for name, (kind, _) in columns.items()]
    return func.unnest(*arrays).table_valued(*named, name="given").render_derived()
