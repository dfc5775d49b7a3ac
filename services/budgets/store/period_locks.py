"""SQL for period locks, and for the copy of the lock date that each budget has."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import ColumnElement, DateTime, cast, func, or_, select, true, update

from kit.db import ReadSession, WriteSession
from services.budgets.models.budgets import BudgetRow
from services.budgets.models.period_locks import PeriodLockRow
from serving.pages import Page, Slice

_LOCK = "period locks"


async def lock(tx: WriteSession) -> None:
    """Prevent other transactions of the tenant from opening budgets or changing period locks until this one ends.

    Call it before any budget is locked.
    """
    await tx.lock(_LOCK)


async def lock_shared(tx: WriteSession) -> None:
    """Prevent other transactions of the tenant from changing period locks until this one ends.

    Call it before any budget is locked: a transaction with `lock` waits for budgets.
    """
    await tx.lock(_LOCK, shared=True)


async def find(tx: ReadSession, entity_id: UUID | None) -> PeriodLockRow | None:
    """Return the lock of the entity, or of the whole tenant; None if there is none."""
    return await tx.one_or_none(select(PeriodLockRow).where(PeriodLockRow.entity_id.is_not_distinct_from(entity_id)))


async def list_page(tx: ReadSession, page: Page) -> Slice[PeriodLockRow]:
    """Return one page of the locks of the tenant and of the entities that the caller may see, oldest first."""
    query = select(PeriodLockRow)
    if tx.scope:
        query = query.where(or_(PeriodLockRow.entity_id.in_(tx.scope.entity_ids), PeriodLockRow.entity_id.is_(None)))
    return await page.fetch(tx, query, PeriodLockRow.id)


async def save(tx: WriteSession, row: PeriodLockRow) -> None:
    """Insert the lock or write its changes."""
    tx.add(row)
    await tx.flush()


async def apply(tx: WriteSession, entity_id: UUID | None) -> None:
    """Copy the lock dates to the budgets of the entity, or to all; locks them in id order, as the ledger does."""
    of_entity = true() if entity_id is None else BudgetRow.entity_id == entity_id
    await tx.all(select(BudgetRow.id).where(of_entity).order_by(BudgetRow.id).with_for_update(key_share=True))
    await _copy(tx, of_entity)


async def apply_to_new(tx: WriteSession, budget_ids: Collection[UUID]) -> None:
    """Copy the lock dates to new budgets. The transaction must have called `lock_shared`."""
    await _copy(tx, BudgetRow.id.in_(budget_ids))


async def _copy(tx: WriteSession, condition: ColumnElement[bool]) -> None:
    """Set the later date of both locks, without changing the etag or `update_time`."""
    applies = or_(PeriodLockRow.entity_id.is_(None), PeriodLockRow.entity_id == BudgetRow.entity_id)
    day = select(func.max(PeriodLockRow.locked_until)).where(applies).scalar_subquery()
    moment = func.timezone(BudgetRow.time_zone, cast(day, DateTime))
    changed = update(BudgetRow).where(condition, BudgetRow.locked_until_time.is_distinct_from(moment))
    changed = changed.values(locked_until_time=moment, update_time=BudgetRow.update_time)
    await tx.execute(changed.execution_options(synchronize_session=False))
