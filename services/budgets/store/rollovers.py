"""SQL for rolling trees of budgets over to the next period."""

from collections.abc import Collection, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import aliased

from kit import clock
from kit.db import ReadSession, WriteSession
from services.budgets.domain.budgets import BudgetState
from services.budgets.domain.holds import HoldState
from services.budgets.domain.rollovers import OpenHolds
from services.budgets.models.budgets import BudgetRow
from services.budgets.models.holds import HoldRow

_OPEN: Final = (HoldState.HELD, HoldState.COMMITTED)


async def find_tree_ids(tx: ReadSession, budget_id: UUID) -> tuple[list[UUID], frozenset[UUID]]:
    """Return the budget and the active budgets below it, parents first; and all budgets to lock for their rollover.

    The latter include the budgets above, and all later periods.
    """
    budgets = select(BudgetRow.id, func.cardinality(BudgetRow.ancestor_ids).label("depth"))
    below = aliased(BudgetRow)
    tree = budgets.where(BudgetRow.id == budget_id).cte("tree", recursive=True)
    tree = tree.union_all(
        select(below.id, func.cardinality(below.ancestor_ids))
        .join(tree, below.parent_id == tree.c.id)
        .where(below.state == BudgetState.ACTIVE)
    )
    tree_ids = await tx.all(select(tree.c.id).order_by(tree.c.depth, tree.c.id))
    lock_ids = set(tree_ids)
    for budget in await tx.rows(_parent_periods(budget_id)):
        lock_ids |= {budget.id, *budget.ancestor_ids}
    return list(tree_ids), frozenset(lock_ids | {*await tx.all(_later_periods(lock_ids))})


def _parent_periods(budget_id: UUID) -> Select[UUID, list[UUID]]:
    """Select the parent and the budgets of its later periods, with the budgets above them."""
    parent_id = select(BudgetRow.parent_id).where(BudgetRow.id == budget_id).scalar_subquery()
    periods = (
        select(BudgetRow.id, BudgetRow.ancestor_ids).where(BudgetRow.id == parent_id).cte("periods", recursive=True)
    )
    later = aliased(BudgetRow)
    periods = periods.union_all(select(later.id, later.ancestor_ids).join(periods, later.previous_id == periods.c.id))
    return select(periods.c.id, periods.c.ancestor_ids)


def _later_periods(budget_ids: Collection[UUID]) -> Select[UUID]:
    """Select the budgets of all later periods: what is carried forward to them may have to be corrected."""
    later = select(BudgetRow.id).where(BudgetRow.previous_id.in_(budget_ids)).cte("later", recursive=True)
    following = aliased(BudgetRow)
    later = later.union_all(select(following.id).join(later, following.previous_id == later.c.id))
    return select(later.c.id)


async def find_next_id(tx: ReadSession, budget_id: UUID) -> UUID | None:
    """Return the budget of the next period, or None if it is not open."""
    return await tx.one_or_none(select(BudgetRow.id).where(BudgetRow.previous_id == budget_id))


async def find_rolled_over_ids(tx: ReadSession, budget_ids: Collection[UUID]) -> frozenset[UUID]:
    """Return those of the budgets whose next period is open."""
    previous_ids = await tx.all(select(BudgetRow.previous_id).where(BudgetRow.previous_id.in_(budget_ids)))
    return frozenset(budget_id for budget_id in previous_ids if budget_id)


async def sum_open_holds(tx: ReadSession, budget_ids: Collection[UUID]) -> dict[UUID, OpenHolds]:
    """Return the open holds of each budget that has any, without those of the budgets below it."""
    rest = HoldRow.amount - HoldRow.captured - HoldRow.released
    sum_held = func.coalesce(func.sum(rest).filter(HoldRow.state == HoldState.HELD), 0)
    sum_committed = func.coalesce(func.sum(rest).filter(HoldRow.state == HoldState.COMMITTED), 0)
    query = select(HoldRow.budget_id, sum_held, sum_committed, func.count())
    query = query.where(HoldRow.budget_id.in_(budget_ids), HoldRow.state.in_(_OPEN)).group_by(HoldRow.budget_id)
    rows = await tx.rows(query)
    return {budget_id: OpenHolds(held, committed, count) for budget_id, held, committed, count in rows}


async def move_holds(tx: WriteSession, budget_id: UUID, to_id: UUID, entry_id: UUID) -> Sequence[UUID]:
    """Move the open holds of a locked budget to another one; `entry_id` is the entry that records it.

    Return the approval requests that moved holds belong to.
    """
    holds = update(HoldRow).where(HoldRow.budget_id == budget_id, HoldRow.state.in_(_OPEN))
    moved = holds.values(budget_id=to_id, last_entry_id=entry_id, version=HoldRow.version + 1, update_time=clock.now())
    moved = moved.execution_options(synchronize_session=False)
    approval_ids = await tx.returning(moved.returning(HoldRow.approval_id))
    return sorted(approval_id for approval_id in approval_ids if approval_id)
