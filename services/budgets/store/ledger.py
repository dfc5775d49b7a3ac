"""The ledger: entries and holds to be read; the engine writes them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    any_,
    func,
    literal,
    or_,
    select,
    true,
)
from sqlalchemy.orm import aliased

from kit.db import ReadSession
from services.budgets import store
from services.budgets.domain.entries import EntryType, LedgerSums
from services.budgets.domain.holds import HoldState
from services.budgets.errors.charges import ChargeNotFound
from services.budgets.errors.holds import HoldNotFound
from services.budgets.models.budgets import BudgetRow
from services.budgets.models.holds import HoldRow
from services.budgets.models.ledger import EntryRow
from serving.pages import Page, Slice


async def get_reply(tx: ReadSession, method: str, request_id: str) -> bytes:
    """What was answered to the request with this key; raises ChargeNotFound."""
    kept = await store.keys.find_kept(tx, method, request_id)
    if kept is None:
        raise ChargeNotFound(request_id)
    return kept.reply


async def list_entries(
    tx: ReadSession, page: Page, budget_id: UUID, *, entry_type: EntryType | None, as_of: datetime | None
) -> Slice[EntryRow]:
    """One page of the entries that moved the budget, newest first."""
    wanted = select(EntryRow).where(_moved(budget_id, _tree(budget_id)))
    if entry_type is not None:
        wanted = wanted.where(EntryRow.entry_type == entry_type)
    if as_of is not None:
        wanted = wanted.where(EntryRow.create_time <= as_of)
    return page.slice(await tx.all(page.narrow(wanted, EntryRow.id, newest_first=True)))


async def sum_ledger(tx: ReadSession, budget_id: UUID) -> tuple[BudgetRow, LedgerSums]:
    """The budget and what its ledger adds up to, both of one moment."""
    moved = (
        EntryRow.moved_amount, EntryRow.moved_spent, EntryRow.moved_held, EntryRow.moved_committed,
        EntryRow.moved_captured,
    )  # fmt: skip
    sums = [func.coalesce(func.sum(column), 0).label(column.key) for column in moved]
    place = func.array_position(EntryRow.chain_ids, budget_id)
    opened_with = EntryRow.chain_amounts[place] - EntryRow.moved_amount
    opening = func.max(opened_with).filter(EntryRow.chain_versions[place] == 1).label("opening")
    tree = _tree(budget_id)
    ledger = select(opening, *sums, func.count().label("entries")).where(_moved(budget_id, tree)).subquery()
    still_open = HoldRow.amount - HoldRow.captured - HoldRow.released
    ongoing = HoldRow.state.in_([HoldState.HELD, HoldState.COMMITTED])
    holds = select(func.coalesce(func.sum(still_open), 0).label("open_holds"))
    holds_found = holds.where(HoldRow.budget_id.in_(tree), ongoing).subquery()
    wanted = select(BudgetRow, *ledger.c, *holds_found.c).select_from(BudgetRow).where(BudgetRow.id == budget_id)
    wanted = wanted.join(ledger, true()).join(holds_found, true())
    # Read anew where the session has the budget already: both sides must be of the moment of this statement.
    (row,) = await tx.rows(wanted.execution_options(populate_existing=True))
    return row[0], LedgerSums(*row[1:])


def _moved(budget_id: UUID, tree: Select[UUID]) -> ColumnElement[bool]:
    """Entries that moved the budget: those on it and on the budgets below it, which are in the tree for good."""
    return and_(EntryRow.budget_id.in_(tree), literal(budget_id) == any_(EntryRow.chain_ids))


def _tree(budget_id: UUID) -> Select[UUID]:
    tree = select(BudgetRow.id).where(BudgetRow.id == budget_id).cte("tree", recursive=True)
    below = aliased(BudgetRow)
    tree = tree.union_all(select(below.id).join(tree, below.parent_id == tree.c.id))
    return select(tree.c.id)


async def list_holds(
    tx: ReadSession, page: Page, budget_id: UUID, *, state: HoldState | None, reference: str
) -> Slice[HoldRow]:
    """One page of the holds on the budget, newest first."""
    wanted = select(HoldRow).where(HoldRow.budget_id == budget_id)
    if state is not None:
        wanted = wanted.where(HoldRow.state == state)
    if reference:
        wanted = wanted.where(HoldRow.reference == reference)
    return page.slice(await tx.all(page.narrow(wanted, HoldRow.id, newest_first=True)))


async def get_hold(tx: ReadSession, budget_id: UUID, hold_id: UUID) -> HoldRow:
    """The hold, which is or was on the budget; raises HoldNotFound."""
    on_it = or_(HoldRow.budget_id == budget_id, HoldRow.opened_budget_id == budget_id)
    hold = await tx.one_or_none(select(HoldRow).where(HoldRow.id == hold_id, on_it))
    if hold is None or await tx.one_or_none(store.budgets.visible(tx).where(BudgetRow.id == hold.budget_id)) is None:
        raise HoldNotFound(hold_id)
    return hold
