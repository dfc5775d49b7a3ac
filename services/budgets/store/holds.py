"""SQL for reads of holds; `services.budgets.ledger` writes them."""

from uuid import UUID

from sqlalchemy import or_, select

from kit.db import ReadSession, found
from services.budgets import store
from services.budgets.domain.holds import HoldFilter
from services.budgets.errors.holds import HoldNotFound
from services.budgets.models.budgets import BudgetRow
from services.budgets.models.holds import HoldRow
from serving.pages import Page, Slice


async def list_page(tx: ReadSession, page: Page, filters: HoldFilter) -> Slice[HoldRow]:
    """Return one page of the holds that match all filters, newest first."""
    query = select(HoldRow).where(HoldRow.budget_id == filters.budget_id)
    if filters.state is not None:
        query = query.where(HoldRow.state == filters.state)
    if filters.reference:
        query = query.where(HoldRow.reference == filters.reference)
    return await page.fetch(tx, query, HoldRow.id, newest_first=True)


async def get(tx: ReadSession, budget_id: UUID, hold_id: UUID) -> HoldRow:
    """Return the hold, which is or was on the budget. Raises HoldNotFound."""
    on_budget = or_(HoldRow.budget_id == budget_id, HoldRow.opened_budget_id == budget_id)
    visible = HoldRow.budget_id.in_(store.budgets.visible(tx).with_only_columns(BudgetRow.id))
    query = select(HoldRow).where(HoldRow.id == hold_id, on_budget, visible)
    return found(await tx.one_or_none(query), HoldNotFound(hold_id))
