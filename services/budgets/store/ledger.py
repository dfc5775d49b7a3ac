"""The ledger: entries and holds to be read; the engine writes them."""

from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
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
from services.budgets.domain.lives import EntryType, HoldState
from services.budgets.errors import ChargeNotFound, HoldNotFound
from services.budgets.models import BudgetRow, EntryRow, HoldRow
from services.budgets.store import keys
from services.budgets.store.budgets import visible
from serving.pages import Page, Slice


async def get_reply(tx: ReadSession, method: str, request_id: str) -> bytes:
    """What was answered to the request with this key; raises ChargeNotFound."""
    kept = await keys.find_kept(tx, method, request_id)
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


class Sums(NamedTuple):
    """What the ledger of a budget adds up to."""

    opening: Decimal | None
    """What there was to use before the first entry; None where there is none."""
    amount: Decimal
    """By how much that was changed since."""
    spent: Decimal
    held: Decimal
    committed: Decimal
    captured: Decimal
    entries: int
    open_holds: Decimal


async def sum_ledger(tx: ReadSession, budget_id: UUID) -> tuple[BudgetRow, Sums]:
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
    return row[0], Sums(*row[1:])


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
    if hold is None or await tx.one_or_none(visible(tx).where(BudgetRow.id == hold.budget_id)) is None:
        raise HoldNotFound(hold_id)
    return hold
