"""SQL for forecasts, summaries and the stream of ledger entries."""

from collections.abc import Collection, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    CTE,
    ColumnElement,
    Date,
    Integer,
    Row,
    Select,
    String,
    Uuid,
    case,
    cast,
    func,
    null,
    select,
    true,
)
from sqlalchemy.orm import aliased

from kit import ids
from kit.db import ReadSession
from services.budgets import store
from services.budgets.domain.budgets import BudgetState
from services.budgets.domain.entries import EntryStreamQuery, EntryType
from services.budgets.domain.forecast import HISTORY_DAYS_MAX
from services.budgets.domain.summaries import GroupBy, Summary, SummaryQuery
from services.budgets.models.budgets import BudgetRow
from services.budgets.models.ledger import EntryRow

_SUMMED: Final = ("amount", "carried", "spent", "held", "committed", "captured")


async def list_previous(tx: ReadSession, budget: BudgetRow) -> Sequence[BudgetRow]:
    """Return the budgets of the earlier periods of the same series, latest first."""
    series = select(BudgetRow.id, BudgetRow.previous_id).where(BudgetRow.id == budget.previous_id)
    previous = series.cte("previous", recursive=True)
    earlier = aliased(BudgetRow)
    previous = previous.union_all(
        select(earlier.id, earlier.previous_id)
        .join(previous, earlier.id == previous.c.previous_id)
        .where(earlier.period_end > _history_start(budget))
    )
    query = select(BudgetRow).where(BudgetRow.id.in_(select(previous.c.id)))
    query = query.where(BudgetRow.period_end > _history_start(budget))
    return await tx.all(query.order_by(BudgetRow.period_end.desc()))


async def list_earlier_of_same_kind(tx: ReadSession, budget: BudgetRow) -> Sequence[BudgetRow]:
    """Return earlier budgets with the same owner and category; without a category, those with the same name."""
    same = [
        getattr(BudgetRow, name) == getattr(budget, name)
        for name in ("entity_id", "category", "gl_code", "currency_code", "period_type", "time_zone")
    ]
    if not budget.category:
        same.append(BudgetRow.name == budget.name)
    query = select(BudgetRow).where(*same, BudgetRow.department_id.is_not_distinct_from(budget.department_id))
    query = query.where(BudgetRow.period_end <= budget.period_start, BudgetRow.period_end > _history_start(budget))
    return await tx.all(query.where(BudgetRow.state != BudgetState.DRAFT).order_by(BudgetRow.id))


def _history_start(budget: BudgetRow) -> date:
    return budget.period_start - timedelta(days=HISTORY_DAYS_MAX)


async def spend_by_day(tx: ReadSession, budget_ids: Collection[UUID], time_zone: str) -> Sequence[Row[date, Decimal]]:
    """Return the spend of the budgets and those below them by day in the time zone; refunds are negative.

    A refund after the end of the period counts on its last day.
    """
    tree = select(BudgetRow.id, BudgetRow.period_start, BudgetRow.period_end).where(BudgetRow.id.in_(budget_ids))
    budgets = tree.cte("tree", recursive=True)
    below = aliased(BudgetRow)
    budgets = budgets.union_all(
        select(below.id, budgets.c.period_start, budgets.c.period_end).join(budgets, below.parent_id == budgets.c.id)
    )
    local_day = cast(func.timezone(time_zone, EntryRow.charge_time), Date)
    day = func.greatest(func.least(local_day, budgets.c.period_end - 1), budgets.c.period_start).label("day")
    # A lateral query per budget reads only its range of the index, whatever size the planner expects of the tree.
    of_one = select(day, func.sum(EntryRow.moved_spent).label("spent")).where(EntryRow.budget_id == budgets.c.id)
    spend = of_one.where(EntryRow.moved_spent != 0).group_by(day).correlate(budgets).lateral("spend")
    by_day = select(spend.c.day, func.sum(spend.c.spent)).select_from(budgets.join(spend, true()))
    return await tx.rows(by_day.group_by(spend.c.day))


async def summarize(tx: ReadSession, query: SummaryQuery) -> Sequence[Summary]:
    """Return the sums of the budgets that match the query, ordered by group.

    What is spent of a budget is spent of all budgets above it, too. So a budget is left out if a budget above it
    matches as well; with `each_group_alone`, only if that one is in the same group.
    """
    matching = _matching(tx, query).cte("matching")
    summed = select(matching).where(matching.c.id.not_in(_below_others(matching, query))).cte("summed")
    effects = _fx_effects(summed)
    used = summed.c.spent + summed.c.held + summed.c.committed
    overspent = func.count().filter(used > summed.c.amount + summed.c.carried)
    sums = [func.sum(summed.c[name]) for name in _SUMMED]
    keys = _keys(summed.c, query.group_by)
    effect, unknown = (func.coalesce(func.sum(effects.c[name]), 0) for name in ("effect", "unknown"))
    statement = select(*keys, func.count(), overspent, *sums, effect, cast(unknown, Integer))
    statement = statement.select_from(summed.outerjoin(effects, effects.c.top_id == summed.c.id))
    rows: Sequence[Any] = await tx.rows(statement.group_by(*keys).order_by(*keys))
    return [Summary(*row) for row in rows]


def _matching(tx: ReadSession, query: SummaryQuery) -> Select[BudgetRow]:
    """Select the budgets that the caller may see and that match all filters."""
    state = BudgetRow.state == query.state if query.state else BudgetRow.state != BudgetState.DRAFT
    budgets = store.budgets.visible(tx).where(state)
    if query.entity_ids:
        budgets = budgets.where(BudgetRow.entity_id.in_(query.entity_ids))
    if query.period_date:
        budgets = budgets.where(BudgetRow.period_start <= query.period_date, BudgetRow.period_end > query.period_date)
    if query.start_date:
        budgets = budgets.where(BudgetRow.period_end > query.start_date)
    if query.end_date:
        budgets = budgets.where(BudgetRow.period_start < query.end_date)
    return budgets


def _keys(columns: Any, group_by: GroupBy) -> list[ColumnElement[Any]]:
    """Return entity, department, category and currency; null for those that do not group."""
    by_entity, by_department = group_by in {GroupBy.ENTITY, GroupBy.DEPARTMENT}, group_by is GroupBy.DEPARTMENT
    return [
        (columns.entity_id if by_entity else cast(null(), Uuid)).label("entity"),
        (columns.department_id if by_department else cast(null(), Uuid)).label("department"),
        (columns.category if group_by is GroupBy.CATEGORY else cast(null(), String)).label("group_category"),
        columns.currency_code.label("currency"),
    ]


def _below_others(matching: CTE, query: SummaryQuery) -> Select[UUID]:
    """Select the matching budgets that are below another matching one."""
    ancestors = func.unnest(matching.c.ancestor_ids).table_valued("id").render_derived().lateral("ancestors")
    above = matching.alias("above")
    same_group: list[ColumnElement[bool]] = []
    if query.each_group_alone:
        pairs = zip(_keys(matching.c, query.group_by), _keys(above.c, query.group_by), strict=True)
        same_group = [below.element.is_not_distinct_from(upper.element) for below, upper in pairs]
    joined = matching.join(ancestors, true()).join(above, above.c.id == cast(ancestors.c.id, Uuid))
    return select(matching.c.id).select_from(joined).where(*same_group)


def _fx_effects(summed: CTE) -> Any:
    """Select the FX effect of each budget and those below it: spend minus the same spend at the planned rates.

    It is without charges and captures whose planned rate is unknown; `unknown` is the number of those.
    """
    tree = select(summed.c.id.label("top_id"), summed.c.id).cte("tree", recursive=True)
    below = aliased(BudgetRow)
    tree = tree.union_all(select(tree.c.top_id, below.id).join(tree, below.parent_id == tree.c.id))
    charge = aliased(EntryRow)
    spends = EntryRow.entry_type.in_([EntryType.CHARGE, EntryType.CAPTURE])
    own_effect = EntryRow.amount - func.coalesce(EntryRow.plan_amount, EntryRow.amount)
    charge_effect = charge.amount - func.coalesce(charge.plan_amount, charge.amount)
    effect = case(
        (spends, own_effect),
        (EntryRow.entry_type == EntryType.REFUND, -EntryRow.amount * charge_effect / charge.amount),
        else_=0,
    )
    unknown = func.count().filter(spends, EntryRow.plan_amount.is_(None))
    converted = select(func.sum(effect).label("effect"), unknown.label("unknown")).outerjoin(
        charge, charge.id == EntryRow.charge_id
    )
    # A lateral query per budget, as in spend_by_day.
    converted = converted.where(EntryRow.budget_id == tree.c.id, EntryRow.original_currency.is_not(None))
    of_one = converted.correlate(tree).lateral("of_one")
    sums = [func.sum(of_one.c[name]).label(name) for name in ("effect", "unknown")]
    by_budget = select(tree.c.top_id, *sums).select_from(tree.join(of_one, true()))
    return by_budget.group_by(tree.c.top_id).subquery("effects")


async def list_entries_after(
    tx: ReadSession, query: EntryStreamQuery, after: UUID | None, limit: int
) -> Sequence[Row[EntryRow, BudgetRow]]:
    """Return the next entries by id, each with its budget."""
    # The bounds on the id restrict the scan of the primary key to the time range.
    entries = select(EntryRow).where(EntryRow.create_time < query.end, EntryRow.id < ids.upper_bound(query.end))
    if query.start is not None:
        entries = entries.where(EntryRow.create_time >= query.start, EntryRow.id >= ids.lower_bound(query.start))
    if after is not None:
        entries = entries.where(EntryRow.id > after)
    if query.entity_ids:
        budget_ids = select(BudgetRow.id).where(BudgetRow.entity_id.in_(query.entity_ids))
        entries = entries.where(EntryRow.budget_id.in_(budget_ids))
    # The limit applies before the join; otherwise every page would sort all joined rows.
    page = aliased(EntryRow, entries.order_by(EntryRow.id).limit(limit).subquery("page"))
    with_budgets = select(page, BudgetRow).join(BudgetRow, BudgetRow.id == page.budget_id)
    return await tx.rows(with_budgets.order_by(page.id))
