"""Reads of alerts, and their acknowledgement; `services.budgets.ledger` raises and resolves them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, select

from kit.db import ReadSession, WriteSession
from services.budgets import store
from services.budgets.domain.alerts import AlertState, AlertThreshold, AlertType
from services.budgets.errors.alerts import AlertNotFound
from services.budgets.models.alerts import AlertRow
from services.budgets.models.budgets import BudgetRow
from serving.pages import Page, Slice


async def unresolved(tx: ReadSession, budget_id: UUID) -> set[AlertThreshold]:
    """Return the thresholds of a budget that have an alert which is not resolved."""
    query = select(AlertRow.alert_type, AlertRow.threshold_bp)
    rows = await tx.rows(query.where(AlertRow.budget_id == budget_id, AlertRow.state != AlertState.RESOLVED))
    return {AlertThreshold(*row) for row in rows}


async def list_page(
    tx: ReadSession,
    page: Page,
    budget_id: UUID | None,
    *,
    state: AlertState | None,
    alert_type: AlertType | None,
    since: datetime | None = None,
) -> Slice[AlertRow]:
    """One page of the alerts of the budget, or of all that the caller may see, newest first."""
    wanted = _visible_alerts(tx)
    if budget_id is not None:
        wanted = wanted.where(AlertRow.budget_id == budget_id)
    if state is not None:
        wanted = wanted.where(AlertRow.state == state)
    if alert_type is not None:
        wanted = wanted.where(AlertRow.alert_type == alert_type)
    if since is not None:
        wanted = wanted.where(AlertRow.create_time >= since)
    return page.slice(await tx.all(page.narrow(wanted, AlertRow.id, newest_first=True)))


async def lock(tx: WriteSession, alert_id: UUID) -> AlertRow:
    """The alert, locked until the transaction ends; raises AlertNotFound."""
    locked = _visible_alerts(tx).where(AlertRow.id == alert_id).with_for_update(of=AlertRow)
    alert = await tx.one_or_none(locked)
    if alert is None:
        raise AlertNotFound(alert_id)
    return alert


def _visible_alerts(tx: ReadSession) -> Select[AlertRow]:
    """Alerts of the budgets that the caller may see."""
    if tx.scope is None:
        return select(AlertRow)
    return select(AlertRow).where(AlertRow.budget_id.in_(store.budgets.visible(tx).with_only_columns(BudgetRow.id)))
