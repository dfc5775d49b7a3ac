"""Budgets and their owners."""

from collections.abc import Collection, Sequence
from datetime import date
from uuid import UUID

from sqlalchemy import Select, select, update

from kit.db import ReadSession, WriteSession, scope_filter
from kit.money import BP
from services.budgets.domain.budgets import BudgetState
from services.budgets.errors.budgets import BudgetNotFound
from services.budgets.models.budgets import BudgetRow
from serving.pages import Page, Slice


def visible(tx: ReadSession) -> Select[BudgetRow]:
    """Budgets that the caller may see."""
    covered = scope_filter(tx.scope, BudgetRow.entity_id, BudgetRow.department_id)
    return select(BudgetRow) if covered is None else select(BudgetRow).where(covered)


async def get(tx: ReadSession, budget_id: UUID) -> BudgetRow:
    """The budget; raises BudgetNotFound."""
    return _found(await tx.one_or_none(visible(tx).where(BudgetRow.id == budget_id)), budget_id)


async def lock(tx: WriteSession, budget_id: UUID) -> BudgetRow:
    """The budget, locked until the transaction ends; raises BudgetNotFound."""
    locked = visible(tx).where(BudgetRow.id == budget_id).with_for_update(key_share=True)
    return _found(await tx.one_or_none(locked), budget_id)


async def lock_pair(tx: WriteSession, first_id: UUID, second_id: UUID) -> tuple[BudgetRow, BudgetRow]:
    """Two budgets, locked in id order until the transaction ends; raises BudgetNotFound."""
    both = visible(tx).where(BudgetRow.id.in_([first_id, second_id])).order_by(BudgetRow.id)
    found = {budget.id: budget for budget in await tx.all(both.with_for_update(key_share=True))}
    return _found(found.get(first_id), first_id), _found(found.get(second_id), second_id)


async def lock_shared(tx: WriteSession, budget_id: UUID) -> BudgetRow:
    """The budget, kept from changing until the transaction ends; raises BudgetNotFound."""
    locked = visible(tx).where(BudgetRow.id == budget_id).with_for_update(read=True)
    return _found(await tx.one_or_none(locked), budget_id)


def _found(budget: BudgetRow | None, budget_id: UUID) -> BudgetRow:
    if budget is None:
        raise BudgetNotFound(budget_id)
    return budget


async def list_page(
    tx: ReadSession,
    page: Page,
    *,
    entity_id: UUID | None,
    department_id: UUID | None,
    parent_id: UUID | None,
    state: BudgetState | None,
    period_date: date | None,
    utilisation_min_bp: int,
) -> Slice[BudgetRow]:
    """One page of the budgets that fit all filters given, oldest first."""
    wanted = visible(tx)
    if entity_id is not None:
        wanted = wanted.where(BudgetRow.entity_id == entity_id)
    if department_id is not None:
        wanted = wanted.where(BudgetRow.department_id == department_id)
    if parent_id is not None:
        wanted = wanted.where(BudgetRow.parent_id == parent_id)
    if state is not None:
        wanted = wanted.where(BudgetRow.state == state)
    if period_date is not None:
        wanted = wanted.where(BudgetRow.period_start <= period_date, period_date < BudgetRow.period_end)
    if utilisation_min_bp:
        used = BudgetRow.spent + BudgetRow.held + BudgetRow.committed
        wanted = wanted.where(used * BP >= (BudgetRow.amount + BudgetRow.carried) * utilisation_min_bp, used > 0)
    return page.slice(await tx.all(page.narrow(wanted, BudgetRow.id)))


async def lock_open(tx: WriteSession, entity_id: UUID) -> Sequence[BudgetRow]:
    """All budgets of the entity that are not closed, locked in id order."""
    still_open = select(BudgetRow).where(BudgetRow.entity_id == entity_id, BudgetRow.state != BudgetState.CLOSED)
    return await tx.all(still_open.order_by(BudgetRow.id).with_for_update(key_share=True))


async def lock_many(tx: WriteSession, budget_ids: Collection[UUID]) -> dict[UUID, BudgetRow]:
    """The budgets as they are once all are locked, in id order as the engine does it."""
    locked = select(BudgetRow).where(BudgetRow.id.in_(budget_ids)).order_by(BudgetRow.id)
    locked = locked.with_for_update(key_share=True).execution_options(populate_existing=True)
    return {budget.id: budget for budget in await tx.all(locked)}


async def set_forecast_version(tx: WriteSession, budget: BudgetRow, ledger_version: int) -> None:
    """Note what the ledger of the budget was when it was looked at; for callers the budget has not changed."""
    noted = update(BudgetRow).where(BudgetRow.id == budget.id)
    noted = noted.values(forecast_version=ledger_version, update_time=BudgetRow.update_time)
    await tx.execute(noted.execution_options(synchronize_session=False))
