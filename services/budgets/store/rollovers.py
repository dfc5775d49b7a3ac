"""Trees of budgets from one period to the next."""

from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import aliased

from kit import clock
from kit.db import ReadSession, WriteSession
from services.budgets.domain.budgets import BudgetState
from services.budgets.domain.holds import HoldState
from services.budgets.models.budgets import BudgetRow
from services.budgets.models.holds import HoldRow

_OPEN = (HoldState.HELD, HoldState.COMMITTED)


class HeldTotals(NamedTuple):
    """Totals of the open holds of a budget."""

    held: Decimal
    committed: Decimal
    holds: int


async def database_now(tx: ReadSession) -> datetime:
    """The moment at which the transaction began, by the clock of the database."""
    (now,) = await tx.all(select(func.now()))
    return now


async def tree_ids(tx: ReadSession, budget_id: UUID) -> tuple[list[UUID], frozenset[UUID]]:
    """The budget and the active ones below it, those above first; and all that rolling them over may touch.

    Those are the budgets above as well, and the ones of later periods that may be above the next one instead.
    """
    tree = select(BudgetRow.id, func.cardinality(BudgetRow.ancestor_ids).label("depth"))
    below = aliased(BudgetRow)
    found = tree.where(BudgetRow.id == budget_id).cte("tree", recursive=True)
    found = found.union_all(
        select(below.id, func.cardinality(below.ancestor_ids))
        .join(found, below.parent_id == found.c.id)
        .where(below.state == BudgetState.ACTIVE)
    )
    ids = await tx.all(select(found.c.id).order_by(found.c.depth, found.c.id))
    touched = set(ids)
    for budget in await tx.rows(_above(budget_id)):
        touched |= {budget.id, *budget.ancestor_ids}
    return list(ids), frozenset(touched)


def _above(budget_id: UUID) -> Select[UUID, list[UUID]]:
    """The budget above and those that come after it, period by period."""
    parent_id = select(BudgetRow.parent_id).where(BudgetRow.id == budget_id).scalar_subquery()
    above = select(BudgetRow.id, BudgetRow.ancestor_ids).where(BudgetRow.id == parent_id).cte("above", recursive=True)
    later = aliased(BudgetRow)
    above = above.union_all(select(later.id, later.ancestor_ids).join(above, later.previous_id == above.c.id))
    return select(above.c.id, above.c.ancestor_ids)


async def find_next_id(tx: ReadSession, budget_id: UUID) -> UUID | None:
    """The budget of the next period, if it was opened."""
    return await tx.one_or_none(select(BudgetRow.id).where(BudgetRow.previous_id == budget_id))


async def rolled_over(tx: ReadSession, budget_ids: Collection[UUID]) -> frozenset[UUID]:
    """Those of the budgets whose next period was opened."""
    found = await tx.all(select(BudgetRow.previous_id).where(BudgetRow.previous_id.in_(budget_ids)))
    return frozenset(budget_id for budget_id in found if budget_id)


async def open_holds(tx: ReadSession, budget_ids: Collection[UUID]) -> dict[UUID, HeldTotals]:
    """What the open holds of each budget set aside, apart from those of the budgets below it; none where none are."""
    still_open = HoldRow.amount - HoldRow.captured - HoldRow.released
    in_all_held = func.coalesce(func.sum(still_open).filter(HoldRow.state == HoldState.HELD), 0)
    in_all_committed = func.coalesce(func.sum(still_open).filter(HoldRow.state == HoldState.COMMITTED), 0)
    wanted = select(HoldRow.budget_id, in_all_held, in_all_committed, func.count())
    wanted = wanted.where(HoldRow.budget_id.in_(budget_ids), HoldRow.state.in_(_OPEN)).group_by(HoldRow.budget_id)
    rows = await tx.rows(wanted)
    return {budget_id: HeldTotals(held, committed, holds) for budget_id, held, committed, holds in rows}


async def move_holds(tx: WriteSession, budget_id: UUID, to: UUID, entry_id: UUID) -> None:
    """Let the open holds of a locked budget be those of another; the entry is the newest that moved them."""
    moved = update(HoldRow).where(HoldRow.budget_id == budget_id, HoldRow.state.in_(_OPEN))
    await tx.execute(
        moved.values(
            budget_id=to, last_entry_id=entry_id, version=HoldRow.version + 1, update_time=clock.now()
        ).execution_options(synchronize_session=False)
    )
