"""SQL for reads of ledger entries; `services.budgets.ledger` writes them."""

from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    any_,
    func,
    literal,
    select,
    true,
)
from sqlalchemy.orm import aliased

from kit.db import ReadSession
from services.budgets.domain.entries import EntryFilter, EntryType, LedgerSums
from services.budgets.domain.holds import HoldState
from services.budgets.models.budgets import BudgetRow
from services.budgets.models.holds import HoldRow
from services.budgets.models.ledger import EntryRow
from serving.pages import Page, Slice


async def list_page(tx: ReadSession, page: Page, filters: EntryFilter) -> Slice[EntryRow]:
    """Return one page of the entries that changed the budget and match all filters, newest first."""
    query = select(EntryRow).where(_moved(filters.budget_id, _tree(filters.budget_id)))
    if filters.entry_type is not None:
        query = query.where(EntryRow.entry_type == filters.entry_type)
    if filters.as_of is not None:
        query = query.where(EntryRow.create_time <= filters.as_of)
    return await page.fetch(tx, query, EntryRow.id, newest_first=True)


async def sums(tx: ReadSession, budget_id: UUID) -> tuple[BudgetRow, LedgerSums]:
    """Return the budget and the sums of its ledger, both from one snapshot."""
    moved = (
        EntryRow.moved_amount, EntryRow.moved_spent, EntryRow.moved_held, EntryRow.moved_committed,
        EntryRow.moved_captured,
    )  # fmt: skip
    sums = [func.coalesce(func.sum(column), 0).label(column.key) for column in moved]
    position = func.array_position(EntryRow.chain_ids, budget_id)
    opening_amount = EntryRow.chain_amounts[position] - EntryRow.moved_amount
    opening = func.max(opening_amount).filter(EntryRow.chain_versions[position] == 1).label("opening")
    tree = _tree(budget_id)
    carried = [
        func.coalesce(func.sum(sign * EntryRow.moved_amount).filter(_own(budget_id, entry_type)), 0).label(entry_type)
        for entry_type, sign in ((EntryType.ROLLOVER_IN, 1), (EntryType.ROLLOVER_OUT, -1))
    ]
    received = select(func.coalesce(func.sum(EntryRow.moved_amount), 0).label("received"))
    by_next = (EntryRow.counterpart_id == budget_id, EntryRow.entry_type == EntryType.ROLLOVER_IN)
    next_ledger = received.where(*by_next).subquery()
    ledger = select(opening, *sums, func.count().label("entries"), *carried).where(_moved(budget_id, tree)).subquery()
    still_open = HoldRow.amount - HoldRow.captured - HoldRow.released
    ongoing = HoldRow.state.in_([HoldState.HELD, HoldState.COMMITTED])
    holds = select(func.coalesce(func.sum(still_open), 0).label("open_holds"))
    open_holds = holds.where(HoldRow.budget_id.in_(tree), ongoing).subquery()
    query = (
        select(BudgetRow, *ledger.c, *next_ledger.c, *open_holds.c)
        .select_from(BudgetRow)
        .where(BudgetRow.id == budget_id)
    )
    query = query.join(ledger, true()).join(next_ledger, true()).join(open_holds, true())
    # Read again if the session has the budget already: both sides must be of this snapshot.
    (row,) = await tx.rows(query.execution_options(populate_existing=True))
    return row[0], LedgerSums(*row[1:])


def _own(budget_id: UUID, entry_type: EntryType) -> ColumnElement[bool]:
    return and_(EntryRow.budget_id == budget_id, EntryRow.entry_type == entry_type)


def _moved(budget_id: UUID, tree: Select[UUID]) -> ColumnElement[bool]:
    """Return the condition for entries that changed the budget: its own, and those of the budgets below it."""
    return and_(EntryRow.budget_id.in_(tree), literal(budget_id) == any_(EntryRow.chain_ids))


def _tree(budget_id: UUID) -> Select[UUID]:
    tree = select(BudgetRow.id).where(BudgetRow.id == budget_id).cte("tree", recursive=True)
    below = aliased(BudgetRow)
    tree = tree.union_all(select(below.id).join(tree, below.parent_id == tree.c.id))
    return select(tree.c.id)
