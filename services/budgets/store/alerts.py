"""Alerts, but for those that the engine raises and resolves."""

from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.dialects.postgresql import insert

from kit import clock, ids
from kit.db import ReadSession, WriteSession
from services.budgets import domain, store
from services.budgets.domain.alerts import AlertAction, AlertState, AlertType
from services.budgets.domain.balances import Balance
from services.budgets.domain.marks import Mark
from services.budgets.errors.alerts import AlertNotFound
from services.budgets.models.alerts import AlertRow
from services.budgets.models.budgets import BudgetRow
from serving.pages import Page, Slice


async def insert_new(
    tx: WriteSession, balance: Balance, marks: Collection[Mark], *, expected: Decimal | None = None
) -> Sequence[AlertRow]:
    """Open an alert for each of the marks that has none open, and give those that were opened.

    They tell what is used, or what is `expected` to be where that has passed the marks.
    """
    if not marks:
        return []
    used = balance.used if expected is None else expected
    moment = clock.now()
    rows = [
        {
            "tenant_id": tx.tenant_id,
            "id": ids.new(),
            "budget_id": balance.terms.id,
            "alert_type": mark.type,
            "threshold_bp": mark.threshold_bp,
            "utilisation_bp": balance.share_bp(used),
            "currency_code": balance.terms.currency,
            "amount": balance.total,
            "spent": balance.spent,
            "used": used,
            "state": AlertState.OPEN,
            "version": 1,
            "create_time": moment,
            "update_time": moment,
        }
        for mark in sorted(marks, key=lambda mark: (mark.threshold_bp, mark.type))
    ]
    return await tx.returning(insert(AlertRow).values(rows).on_conflict_do_nothing().returning(AlertRow))


async def is_open(tx: ReadSession, budget_id: UUID, mark: Mark) -> bool:
    """Whether the mark has an alert that is not resolved."""
    of_mark = select(AlertRow.id).where(AlertRow.alert_type == mark.type, AlertRow.threshold_bp == mark.threshold_bp)
    not_resolved = of_mark.where(AlertRow.budget_id == budget_id, AlertRow.state != AlertState.RESOLVED)
    return await tx.one_or_none(not_resolved) is not None


async def resolve(
    tx: WriteSession, budget_id: UUID, types: Collection[AlertType], still_passed: Collection[Mark]
) -> None:
    """Resolve the alerts of these types whose mark is not among those the budget still is past."""
    not_resolved = select(AlertRow).where(AlertRow.budget_id == budget_id, AlertRow.state != AlertState.RESOLVED)
    for alert in await tx.all(not_resolved.where(AlertRow.alert_type.in_(types))):
        if Mark(alert.alert_type, alert.threshold_bp) not in still_passed:
            alert.state = domain.alerts.advance(alert.id, alert.state, AlertAction.RESOLVE)


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
