"""What forecasts, summaries and feeds read of budgets and their ledger."""

from collections.abc import Collection, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, Date, Row, Select, String, Uuid, case, cast, func, null, select, true
from sqlalchemy.orm import aliased

from kit.db import ReadSession
from services.budgets import store
from services.budgets.domain.budgets import BudgetState
from services.budgets.domain.entries import EntryStreamQuery, EntryType
from services.budgets.domain.forecast import HISTORY_DAYS_MAX
from services.budgets.domain.summaries import GroupBy, Summary, SummaryQuery
from services.budgets.models.budgets import BudgetRow
from services.budgets.models.ledger import EntryRow

_CLOCKS_DIFFER: Final = timedelta(hours=1)
"""More than the clock that an id is made by and the one that an entry's time is of ever do."""


async def previous_periods(tx: ReadSession, budget: BudgetRow) -> Sequence[BudgetRow]:
    """The budgets of the periods before, from which it came one after the other, newest first."""
    line = select(BudgetRow.id, BudgetRow.previous_id).where(BudgetRow.id == budget.previous_id)
    found = line.cte("line", recursive=True)
    before = aliased(BudgetRow)
    found = found.union_all(
        select(before.id, before.previous_id)
        .join(found, before.id == found.c.previous_id)
        .where(before.period_end > _oldest(budget))
    )
    wanted = select(BudgetRow).where(BudgetRow.id.in_(select(found.c.id)), BudgetRow.period_end > _oldest(budget))
    return await tx.all(wanted.order_by(BudgetRow.period_end.desc()))


async def of_same_kind(tx: ReadSession, budget: BudgetRow) -> Sequence[BudgetRow]:
    """Earlier budgets of the same owner and category, or of the same name where it has no category."""
    same = [
        getattr(BudgetRow, name) == getattr(budget, name)
        for name in ("entity_id", "category", "gl_code", "currency_code", "period_type", "time_zone")
    ]
    if not budget.category:
        same.append(BudgetRow.name == budget.name)
    wanted = select(BudgetRow).where(*same, BudgetRow.department_id.is_not_distinct_from(budget.department_id))
    earlier = wanted.where(BudgetRow.period_end <= budget.period_start, BudgetRow.period_end > _oldest(budget))
    return await tx.all(earlier.where(BudgetRow.state != BudgetState.DRAFT).order_by(BudgetRow.id))


def _oldest(budget: BudgetRow) -> date:
    return budget.period_start - timedelta(days=HISTORY_DAYS_MAX)


async def spend_by_day(tx: ReadSession, budget_ids: Collection[UUID], time_zone: str) -> Sequence[Row[date, Decimal]]:
    """What was spent of the budgets on the days of a zone, and on those below them; a refund counts below zero.

    A refund that came after the period counts on its last day.
    """
    tree = select(BudgetRow.id, BudgetRow.period_start, BudgetRow.period_end).where(BudgetRow.id.in_(budget_ids))
    found = tree.cte("tree", recursive=True)
    below = aliased(BudgetRow)
    found = found.union_all(
        select(below.id, found.c.period_start, found.c.period_end).join(found, below.parent_id == found.c.id)
    )
    local_day = cast(func.timezone(time_zone, EntryRow.charge_time), Date)
    day = func.greatest(func.least(local_day, found.c.period_end - 1), found.c.period_start).label("day")
    # Of each budget by itself, so that its part of the index is read whatever the planner thinks of the tree.
    of_one = select(day, func.sum(EntryRow.moved_spent).label("spent")).where(EntryRow.budget_id == found.c.id)
    spend = of_one.where(EntryRow.moved_spent != 0).group_by(day).correlate(found).lateral("spend")
    by_day = select(spend.c.day, func.sum(spend.c.spent)).select_from(found.join(spend, true()))
    return await tx.rows(by_day.group_by(spend.c.day))


_NUMBERS: Final = ("amount", "carried", "spent", "held", "committed", "captured")


async def summarize(tx: ReadSession, ask: SummaryQuery) -> Sequence[Summary]:
    """The budgets added up, in the order of their groups.

    Added are those that have no budget above them among the chosen, or among those of their group: what is spent of a
    budget is spent of all above it too.
    """
    chosen = _chosen(tx, ask).cte("chosen")
    added = select(chosen).where(chosen.c.id.not_in(_below_others(chosen, ask))).cte("added")
    effects = _fx_effects(added)
    used = added.c.spent + added.c.held + added.c.committed
    overspent = func.count().filter(used > added.c.amount + added.c.carried)
    sums = [func.sum(added.c[name]) for name in _NUMBERS]
    keys = _keys(added.c, ask.group_by)
    wanted = select(*keys, func.count(), overspent, *sums, func.coalesce(func.sum(effects.c.effect), 0))
    wanted = wanted.select_from(added.outerjoin(effects, effects.c.top_id == added.c.id))
    rows: Sequence[Any] = await tx.rows(wanted.group_by(*keys).order_by(*keys))
    return [Summary(*row) for row in rows]


def _chosen(tx: ReadSession, ask: SummaryQuery) -> Select[BudgetRow]:
    wanted = store.budgets.visible(tx).where(
        BudgetRow.state == ask.state if ask.state else BudgetRow.state != BudgetState.DRAFT
    )
    if ask.entity_ids:
        wanted = wanted.where(BudgetRow.entity_id.in_(ask.entity_ids))
    if ask.period_date:
        wanted = wanted.where(BudgetRow.period_start <= ask.period_date, BudgetRow.period_end > ask.period_date)
    if ask.start_date:
        wanted = wanted.where(BudgetRow.period_end > ask.start_date)
    if ask.end_date:
        wanted = wanted.where(BudgetRow.period_start < ask.end_date)
    return wanted


def _keys(columns: Any, group_by: GroupBy) -> list[ColumnElement[Any]]:
    """Entity, department, category and currency; null where they make no difference."""
    by_entity, by_department = group_by in {GroupBy.ENTITY, GroupBy.DEPARTMENT}, group_by is GroupBy.DEPARTMENT
    return [
        (columns.entity_id if by_entity else cast(null(), Uuid)).label("entity"),
        (columns.department_id if by_department else cast(null(), Uuid)).label("department"),
        (columns.category if group_by is GroupBy.CATEGORY else cast(null(), String)).label("of_category"),
        columns.currency_code.label("currency"),
    ]


def _below_others(chosen: CTE, ask: SummaryQuery) -> Select[UUID]:
    """Those of the chosen budgets that lie below another of them; each is joined to the few above it."""
    ancestors = func.unnest(chosen.c.ancestor_ids).table_valued("id").render_derived().lateral("ancestors")
    above = chosen.alias("above")
    same_group: list[ColumnElement[bool]] = []
    if ask.each_group_alone:
        pairs = zip(_keys(chosen.c, ask.group_by), _keys(above.c, ask.group_by), strict=True)
        same_group = [below.element.is_not_distinct_from(upper.element) for below, upper in pairs]
    joined = chosen.join(ancestors, true()).join(above, above.c.id == cast(ancestors.c.id, Uuid))
    return select(chosen.c.id).select_from(joined).where(*same_group)


def _fx_effects(added: CTE) -> Any:
    """By budget: what was spent of it and of those below it beyond what that was at the rates of the plan."""
    tree = select(added.c.id.label("top_id"), added.c.id).cte("tree", recursive=True)
    below = aliased(BudgetRow)
    tree = tree.union_all(select(tree.c.top_id, below.id).join(tree, below.parent_id == tree.c.id))
    charge = aliased(EntryRow)
    spent_more = EntryRow.amount - func.coalesce(EntryRow.plan_amount, EntryRow.amount)
    had_more = charge.amount - func.coalesce(charge.plan_amount, charge.amount)
    effect = case(
        (EntryRow.entry_type.in_([EntryType.CHARGE, EntryType.CAPTURE]), spent_more),
        (EntryRow.entry_type == EntryType.REFUND, -EntryRow.amount * had_more / charge.amount),
        else_=0,
    )
    converted = select(func.sum(effect).label("effect")).outerjoin(charge, charge.id == EntryRow.charge_id)
    # Of each budget by itself, as above.
    converted = converted.where(EntryRow.budget_id == tree.c.id, EntryRow.original_currency.is_not(None))
    of_one = converted.correlate(tree).lateral("of_one")
    by_budget = select(tree.c.top_id, func.sum(of_one.c.effect).label("effect")).select_from(tree.join(of_one, true()))
    return by_budget.group_by(tree.c.top_id).subquery("effects")


async def entries_after(
    tx: ReadSession, ask: EntryStreamQuery, after: UUID | None, limit: int
) -> Sequence[Row[EntryRow, BudgetRow]]:
    """The next entries in the order of their ids, each with its budget."""
    # Ids begin with the time at which they were made: it keeps the index from being read from end to end.
    wanted = select(EntryRow).where(EntryRow.create_time < ask.end, EntryRow.id < _id_at(ask.end + _CLOCKS_DIFFER))
    if ask.start is not None:
        wanted = wanted.where(EntryRow.create_time >= ask.start, EntryRow.id >= _id_at(ask.start - _CLOCKS_DIFFER))
    if after is not None:
        wanted = wanted.where(EntryRow.id > after)
    if ask.entity_ids:
        theirs = select(BudgetRow.id).where(BudgetRow.entity_id.in_(ask.entity_ids))
        wanted = wanted.where(EntryRow.budget_id.in_(theirs))
    # A page of entries first, and then their budgets: joined before, all would be sorted for every page.
    page = aliased(EntryRow, wanted.order_by(EntryRow.id).limit(limit).subquery("page"))
    with_budgets = select(page, BudgetRow).join(BudgetRow, BudgetRow.id == page.budget_id)
    return await tx.rows(with_budgets.order_by(page.id))


def _id_at(moment: datetime) -> UUID:
    """The lowest id that can be made at a moment."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
