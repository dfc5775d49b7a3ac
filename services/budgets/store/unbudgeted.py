"""SQL for lists of unbudgeted spend."""

from sqlalchemy import select

from kit.db import ReadSession, scope_filter
from services.budgets.domain.unbudgeted import UnbudgetedFilter
from services.budgets.models.unbudgeted import UnbudgetedRow
from serving.pages import Page, Slice


async def list_page(tx: ReadSession, page: Page, filters: UnbudgetedFilter) -> Slice[UnbudgetedRow]:
    """Return one page of the unbudgeted spend that the caller may see and that matches all filters, newest first."""
    covered = scope_filter(tx.scope, UnbudgetedRow.entity_id, UnbudgetedRow.department_id)
    query = select(UnbudgetedRow) if covered is None else select(UnbudgetedRow).where(covered)
    if filters.entity_id is not None:
        query = query.where(UnbudgetedRow.entity_id == filters.entity_id)
    if filters.department_id is not None:
        query = query.where(UnbudgetedRow.department_id == filters.department_id)
    if filters.category:
        query = query.where(UnbudgetedRow.category == filters.category)
    if filters.reason:
        query = query.where(UnbudgetedRow.reason == filters.reason)
    if filters.start is not None:
        query = query.where(UnbudgetedRow.allocation_date >= filters.start)
    if filters.end is not None:
        query = query.where(UnbudgetedRow.allocation_date < filters.end)
    return await page.fetch(tx, query, UnbudgetedRow.id, newest_first=True)
