"""SQL for alerts; `services.budgets.ledger` raises and resolves them."""

from uuid import UUID

from sqlalchemy import Select, select

from kit.db import ReadSession, WriteSession, found
from services.budgets import store
from services.budgets.domain.alerts import AlertFilter, AlertState, AlertThreshold
from services.budgets.errors.alerts import AlertNotFound
from services.budgets.models.alerts import AlertRow
from services.budgets.models.budgets import BudgetRow
from serving.pages import Page, Slice


async def find_unresolved(tx: ReadSession, budget_id: UUID) -> set[AlertThreshold]:
    """Return the thresholds of a budget that have an alert which is not resolved."""
    query = select(AlertRow.alert_type, AlertRow.threshold_bp)
    rows = await tx.rows(query.where(AlertRow.budget_id == budget_id, AlertRow.state != AlertState.RESOLVED))
    return {AlertThreshold(*row) for row in rows}


async def list_page(tx: ReadSession, page: Page, filters: AlertFilter) -> Slice[AlertRow]:
    """Return one page of the alerts that the caller may see and that match all filters, newest first."""
    query = _visible(tx)
    if filters.budget_id is not None:
        query = query.where(AlertRow.budget_id == filters.budget_id)
    if filters.state is not None:
        query = query.where(AlertRow.state == filters.state)
    if filters.alert_type is not None:
        query = query.where(AlertRow.alert_type == filters.alert_type)
    if filters.since is not None:
        query = query.where(AlertRow.create_time >= filters.since)
    return await page.fetch(tx, query, AlertRow.id, newest_first=True)


async def lock(tx: WriteSession, alert_id: UUID) -> AlertRow:
    """Return the alert, locked until the transaction ends. Raises AlertNotFound."""
    query = _visible(tx).where(AlertRow.id == alert_id).with_for_update(of=AlertRow)
    return found(await tx.one_or_none(query), AlertNotFound(alert_id))


async def save(tx: WriteSession, alert: AlertRow) -> None:
    """Write a changed alert; the row then has its new `update_time`."""
    tx.add(alert)
    await tx.flush()


def _visible(tx: ReadSession) -> Select[AlertRow]:
    """Select the alerts of budgets that the caller may see."""
    if tx.scope is None:
        return select(AlertRow)
    return select(AlertRow).where(AlertRow.budget_id.in_(store.budgets.visible(tx).with_only_columns(BudgetRow.id)))
