"""Cost allocations, added up and one by one."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Date, DateTime, Select, Uuid, any_, cast, func, literal, select
from sqlalchemy.orm import InstrumentedAttribute

from kit.db import ReadSession, scope_filter
from services.entities import store
from services.entities.domain.costs import LINES_MAX, DepartmentGroupBy, Key, Line, SummaryGroupBy, Tree
from services.entities.models.allocations import AllocationRow
from services.entities.models.costs import POSTED_DEPARTMENTS

_CLOCKS_DIFFER: Final = timedelta(minutes=5)
"""By how much the clock that made an id and the one that reads may differ at most."""

_COLUMNS: Final = {
    "ENTITY": AllocationRow.entity_id,
    "DEPARTMENT": AllocationRow.department_id,
    "CATEGORY": AllocationRow.category,
    "GL_CODE": AllocationRow.gl_code,
    "MONTH": AllocationRow.allocation_date,
}
"""What the groups are made by; months are made of days, which are added up before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DepartmentAsk:
    """Which costs of a department are to be added up, and how."""

    department_id: UUID
    start: date
    end: date
    """The day after the last one."""
    group_by: Sequence[DepartmentGroupBy]
    include_descendants: bool
    tree: Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryAsk:
    """Which costs of entities are to be added up, and how."""

    entity_ids: Collection[UUID]
    """Empty: all."""
    start: date
    end: date
    """The day after the last one."""
    group_by: Sequence[SummaryGroupBy]


class Summary(NamedTuple):
    """Costs of one group whose books are in one currency."""

    key: Key
    currency: str
    cost: Decimal
    entries: int
    reversals: int


async def sum_department(tx: ReadSession, ask: DepartmentAsk) -> Sequence[Line]:
    """What the department cost, by group and by the currency in which it arose, in the order of the groups.

    At most one line more than LINES_MAX.
    """
    chosen = [_one_of(AllocationRow.department_id, await _departments_of(tx, ask)), *_covered(tx)]
    await _plan_for_values(tx)
    if ask.include_descendants and ask.tree is Tree.POSTED:
        chosen.append(literal(ask.department_id, Uuid) == any_(AllocationRow.department_path))
    sums = [func.sum(AllocationRow.entity_amount), func.sum(AllocationRow.amount)]
    wanted = _added_up([*chosen, *_in_period(ask)], ask.group_by, AllocationRow.currency_code, sums)
    keys = len(ask.group_by)
    return [Line(tuple(row[:keys]), *row[keys : keys + 3], *map(int, row[keys + 3 :])) for row in await tx.rows(wanted)]


async def _departments_of(tx: ReadSession, ask: DepartmentAsk) -> Sequence[UUID]:
    """The departments whose costs may be asked for; under POSTED also some that have others besides.

    Whether an array contains an id is nothing for which an index is read under row-level security, so the departments
    that ever had a cost below this one are looked up first. Where they were when is not in their history: a move in
    the past corrects that, and leaves what was posted as it is.
    """
    if not ask.include_descendants:
        return [ask.department_id]
    if ask.tree is Tree.CURRENT:
        return await store.departments.find_descendants(tx, ask.department_id)
    posted = POSTED_DEPARTMENTS.c
    return await tx.all(select(posted.department_id).where(posted.ancestor_id == ask.department_id))


async def sum_entities(tx: ReadSession, ask: SummaryAsk) -> Sequence[Summary]:
    """What entities cost, by group and by the currency of their books, in the order of the groups.

    At most one more than LINES_MAX.
    """
    await _plan_for_values(tx)
    chosen = [*_in_period(ask), *_covered(tx)]
    if ask.entity_ids:
        chosen.append(_one_of(AllocationRow.entity_id, ask.entity_ids))
    sums = [func.sum(AllocationRow.entity_amount)]
    wanted = _added_up(chosen, ask.group_by, AllocationRow.entity_currency_code, sums)
    keys = len(ask.group_by)
    return [
        Summary(tuple(row[:keys]), *row[keys : keys + 2], *map(int, row[keys + 2 :])) for row in await tx.rows(wanted)
    ]


async def _plan_for_values(tx: ReadSession) -> None:
    """Have what is asked in this transaction planned for its own values.

    A plan that is kept for any values takes every array for one of ten, and every period for a short one: of a report
    over most of the table it takes many times as long.
    """
    await tx.one_or_none(select(func.set_config("plan_cache_mode", "force_custom_plan", literal(value=True))))


def _covered(tx: ReadSession) -> list[ColumnElement[bool]]:
    covered = scope_filter(tx.scope, AllocationRow.entity_id, AllocationRow.department_id)
    return [] if covered is None else [covered]


def _in_period(ask: DepartmentAsk | SummaryAsk) -> list[ColumnElement[bool]]:
    return [AllocationRow.allocation_date >= ask.start, AllocationRow.allocation_date < ask.end]


def _one_of(column: InstrumentedAttribute[Any], ids: Collection[UUID]) -> ColumnElement[bool]:
    """As one parameter, however many there are."""
    return column == any_(literal(list(ids), ARRAY(Uuid)))


def _added_up(
    chosen: Sequence[ColumnElement[bool]],
    group_by: Sequence[DepartmentGroupBy] | Sequence[SummaryGroupBy],
    currency: InstrumentedAttribute[str],
    sums: Sequence[ColumnElement[Any]],
) -> Select[*tuple[Any, ...]]:
    """The keys, the currency, the sums, and how many allocations and reversals they are of."""
    keys: list[ColumnElement[Any]] = [_COLUMNS[each].label(each.lower()) for each in group_by]
    arose: ColumnElement[str] = currency.label("currency")
    counts = func.count(), func.count(AllocationRow.reversal_of)
    numbers = [number.label(f"number_{place}") for place, number in enumerate([*sums, *counts])]
    found = select(*keys, arose, *numbers).where(*chosen).group_by(*keys, arose)
    if "MONTH" in group_by:
        by_day = found.subquery("by_day").c  # a day is cheaper to group by than its month
        keys = [_month(by_day[each.lower()]) if each == "MONTH" else by_day[each.lower()] for each in group_by]
        arose = by_day.currency
        added = [func.sum(by_day[number.name]) for number in numbers]
        found = select(*keys, arose, *added).group_by(*keys, arose)
    return found.order_by(*keys, arose).limit(LINES_MAX + 1)


def _month(day: ColumnElement[date]) -> ColumnElement[date]:
    """The first of the day's month."""
    return cast(func.date_trunc("month", cast(day, DateTime)), Date)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedAsk:
    """Which allocations are to be told."""

    start: datetime | None
    end: datetime
    entity_ids: Collection[UUID]


async def list_allocations(tx: ReadSession, ask: FeedAsk, after: UUID | None, limit: int) -> Sequence[AllocationRow]:
    """The next allocations in the order of their ids."""
    # Ids begin with the time at which they were made: it keeps the index from being read from end to end.
    wanted = select(AllocationRow).where(AllocationRow.create_time < ask.end, *_covered(tx))
    wanted = wanted.where(AllocationRow.id < _id_at(ask.end + _CLOCKS_DIFFER))
    if ask.start is not None:
        wanted = wanted.where(
            AllocationRow.create_time >= ask.start, AllocationRow.id >= _id_at(ask.start - _CLOCKS_DIFFER)
        )
    if after is not None:
        wanted = wanted.where(AllocationRow.id > after)
    if ask.entity_ids:
        wanted = wanted.where(_one_of(AllocationRow.entity_id, ask.entity_ids))
    return await tx.all(wanted.order_by(AllocationRow.id).limit(limit))


def _id_at(moment: datetime) -> UUID:
    """The lowest id that can be made at a moment."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
