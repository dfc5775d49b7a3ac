"""SQL for cost reports: sums of allocations, and allocations in the order of their ids."""

from collections.abc import Collection, Sequence
from datetime import date
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Date, DateTime, Select, Uuid, any_, cast, func, literal, select
from sqlalchemy.orm import InstrumentedAttribute

from kit import ids
from kit.db import ReadSession, scope_filter
from services.entities import store
from services.entities.domain.costs import (
    GROUPS_MAX,
    AllocationStreamQuery,
    CostSummaryQuery,
    DepartmentCostQuery,
    DepartmentGroupBy,
    DepartmentSubtotal,
    EntitySubtotal,
    SummaryGroupBy,
    Tree,
)
from services.entities.models.allocations import AllocationRow
from services.entities.models.costs import POSTED_DEPARTMENTS

_COLUMNS: Final = {
    "ENTITY": AllocationRow.entity_id,
    "DEPARTMENT": AllocationRow.department_id,
    "CATEGORY": AllocationRow.category,
    "GL_CODE": AllocationRow.gl_code,
    "MONTH": AllocationRow.allocation_date,
}
"""Column of each `group_by`. For MONTH, sums per day are added up afterwards."""


async def sum_department(tx: ReadSession, query: DepartmentCostQuery) -> Sequence[DepartmentSubtotal]:
    """Return the costs of a department by group and original currency, sorted; at most GROUPS_MAX + 1."""
    conditions = [_is_any(AllocationRow.department_id, await _find_departments(tx, query)), *_covered(tx)]
    await _force_custom_plan(tx)
    if query.include_descendants and query.tree is Tree.POSTED:
        conditions.append(literal(query.department_id, Uuid) == any_(AllocationRow.department_path))
    sums = [func.sum(AllocationRow.entity_amount), func.sum(AllocationRow.amount)]
    statement = _grouped([*conditions, *_in_period(query)], query.group_by, AllocationRow.currency_code, sums)
    keys = len(query.group_by)
    return [
        DepartmentSubtotal(tuple(row[:keys]), *row[keys : keys + 3], *map(int, row[keys + 3 :]))
        for row in await tx.rows(statement)
    ]


async def _find_departments(tx: ReadSession, query: DepartmentCostQuery) -> Sequence[UUID]:
    """Return the departments whose costs may belong to the report.

    No index can be used under row-level security for the condition that `department_path` contains an id. So for
    POSTED the departments that ever had a cost below this one are looked up first; some may have other costs as well.
    The history of departments does not help: a backdated move changes it, and leaves posted costs where they are.
    """
    if not query.include_descendants:
        return [query.department_id]
    if query.tree is Tree.CURRENT:
        return await store.departments.find_descendants(tx, query.department_id)
    posted = POSTED_DEPARTMENTS.c
    return await tx.all(select(posted.department_id).where(posted.ancestor_id == query.department_id))


async def sum_entities(tx: ReadSession, query: CostSummaryQuery) -> Sequence[EntitySubtotal]:
    """Return the costs of entities by group and entity currency, sorted; at most GROUPS_MAX + 1."""
    await _force_custom_plan(tx)
    conditions = [*_in_period(query), *_covered(tx)]
    if query.entity_ids:
        conditions.append(_is_any(AllocationRow.entity_id, query.entity_ids))
    sums = [func.sum(AllocationRow.entity_amount)]
    statement = _grouped(conditions, query.group_by, AllocationRow.entity_currency_code, sums)
    keys = len(query.group_by)
    return [
        EntitySubtotal(tuple(row[:keys]), *row[keys : keys + 2], *map(int, row[keys + 2 :]))
        for row in await tx.rows(statement)
    ]


async def _force_custom_plan(tx: ReadSession) -> None:
    """Make PostgreSQL plan the statements of this transaction for their actual parameters.

    A generic plan assumes arrays of ten elements and short periods, and is many times slower for a report over most
    of the table.
    """
    await tx.one_or_none(select(func.set_config("plan_cache_mode", "force_custom_plan", literal(value=True))))


def _covered(tx: ReadSession) -> list[ColumnElement[bool]]:
    covered = scope_filter(tx.scope, AllocationRow.entity_id, AllocationRow.department_id)
    return [] if covered is None else [covered]


def _in_period(query: DepartmentCostQuery | CostSummaryQuery) -> list[ColumnElement[bool]]:
    return [AllocationRow.allocation_date >= query.start, AllocationRow.allocation_date < query.end]


def _is_any(column: InstrumentedAttribute[Any], ids: Collection[UUID]) -> ColumnElement[bool]:
    """Compare with a list of ids that is one parameter."""
    return column == any_(literal(list(ids), ARRAY(Uuid)))


def _grouped(
    conditions: Sequence[ColumnElement[bool]],
    group_by: Sequence[DepartmentGroupBy] | Sequence[SummaryGroupBy],
    currency: InstrumentedAttribute[str],
    sums: Sequence[ColumnElement[Any]],
) -> Select[*tuple[Any, ...]]:
    """Select the keys, the currency, the sums, and the numbers of entries and of corrections."""
    keys: list[ColumnElement[Any]] = [_COLUMNS[each].label(each.lower()) for each in group_by]
    currencies: ColumnElement[str] = currency.label("currency")
    counts = func.count(), func.count(func.coalesce(AllocationRow.reversal_of, AllocationRow.credit_of))
    numbers = [number.label(f"number_{position}") for position, number in enumerate([*sums, *counts])]
    statement = select(*keys, currencies, *numbers).where(*conditions).group_by(*keys, currencies)
    if "MONTH" in group_by:
        by_day = statement.subquery("by_day").c  # grouping by day first is cheaper than computing each row's month
        keys = [_month(by_day[each.lower()]) if each == "MONTH" else by_day[each.lower()] for each in group_by]
        currencies = by_day.currency
        totals = [func.sum(by_day[number.name]) for number in numbers]
        statement = select(*keys, currencies, *totals).group_by(*keys, currencies)
    return statement.order_by(*keys, currencies).limit(GROUPS_MAX + 1)


def _month(day: ColumnElement[date]) -> ColumnElement[date]:
    """Return the first day of the month."""
    return cast(func.date_trunc("month", cast(day, DateTime)), Date)


async def list_allocations(
    tx: ReadSession, query: AllocationStreamQuery, after: UUID | None, limit: int
) -> Sequence[AllocationRow]:
    """Return the next allocations after `after` in the order of their ids."""
    # Ids begin with their creation time, so a range of ids saves a scan of the whole index.
    statement = select(AllocationRow).where(AllocationRow.create_time < query.end, *_covered(tx))
    statement = statement.where(AllocationRow.id < ids.upper_bound(query.end))
    if query.start is not None:
        statement = statement.where(
            AllocationRow.create_time >= query.start, AllocationRow.id >= ids.lower_bound(query.start)
        )
    if after is not None:
        statement = statement.where(AllocationRow.id > after)
    if query.entity_ids:
        statement = statement.where(_is_any(AllocationRow.entity_id, query.entity_ids))
    return await tx.all(statement.order_by(AllocationRow.id).limit(limit))
