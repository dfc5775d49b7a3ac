"""SQL for budgets."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from uuid import UUID

from sqlalchemy import Select, or_, select, update

from kit.db import ReadSession, WriteSession, found, scope_filter
from kit.money import BP
from services.budgets.domain.budgets import BudgetFilter, BudgetState
from services.budgets.errors.budgets import BudgetNotFound
from services.budgets.models.budgets import BudgetRow
from serving.pages import Page, Slice


def visible(tx: ReadSession) -> Select[BudgetRow]:
    """Select the budgets that the caller may see."""
    covered = scope_filter(tx.scope, BudgetRow.entity_id, BudgetRow.department_id)
    return select(BudgetRow) if covered is None else select(BudgetRow).where(covered)


async def get(tx: ReadSession, budget_id: UUID) -> BudgetRow:
    """Return the budget. Raises BudgetNotFound."""
    query = visible(tx).where(BudgetRow.id == budget_id)
    return found(await tx.one_or_none(query), BudgetNotFound(budget_id))


async def list_by_ids(tx: ReadSession, budget_ids: Collection[UUID]) -> Mapping[UUID, BudgetRow]:
    """Return those of the budgets that the caller may see, by id."""
    return {budget.id: budget for budget in await tx.all(visible(tx).where(BudgetRow.id.in_(budget_ids)))}


async def find_hidden(tx: ReadSession, budget_ids: Iterable[UUID | None]) -> Collection[UUID]:
    """Return those of the budgets that the caller may not see."""
    present = {budget_id for budget_id in budget_ids if budget_id is not None}
    return present - (await list_by_ids(tx, present)).keys() if present and tx.scope else ()


async def list_page(tx: ReadSession, page: Page, filters: BudgetFilter) -> Slice[BudgetRow]:
    """Return one page of the budgets that match all filters, oldest first."""
    query = visible(tx)
    if filters.entity_id is not None:
        query = query.where(BudgetRow.entity_id == filters.entity_id)
    if filters.department_id is not None:
        query = query.where(BudgetRow.department_id == filters.department_id)
    if filters.parent_id is not None:
        query = query.where(BudgetRow.parent_id == filters.parent_id)
    if filters.state is not None:
        query = query.where(BudgetRow.state == filters.state)
    if filters.period_date is not None:
        query = query.where(BudgetRow.period_start <= filters.period_date, filters.period_date < BudgetRow.period_end)
    if filters.utilisation_min_bp:
        used = BudgetRow.spent + BudgetRow.held + BudgetRow.committed
        total = BudgetRow.amount + BudgetRow.carried
        query = query.where(used * BP >= total * filters.utilisation_min_bp, or_(used > 0, total < 0))
    return await page.fetch(tx, query, BudgetRow.id)


async def save(tx: WriteSession, *budgets: BudgetRow) -> None:
    """Write new or changed budgets; the rows then have their ids, times and etags."""
    for budget in budgets:
        tx.add(budget)
    await tx.flush()


async def lock(tx: WriteSession, budget_id: UUID) -> BudgetRow:
    """Return the budget, locked until the transaction ends. Raises BudgetNotFound."""
    query = visible(tx).where(BudgetRow.id == budget_id).with_for_update(key_share=True)
    return found(await tx.one_or_none(query), BudgetNotFound(budget_id))


async def lock_shared(tx: WriteSession, budget_id: UUID) -> BudgetRow:
    """Return the budget, protected from changes until the transaction ends. Raises BudgetNotFound."""
    query = visible(tx).where(BudgetRow.id == budget_id).with_for_update(read=True)
    return found(await tx.one_or_none(query), BudgetNotFound(budget_id))


async def lock_pair(tx: WriteSession, first_id: UUID, second_id: UUID) -> tuple[BudgetRow, BudgetRow]:
    """Return two budgets, locked in id order until the transaction ends. Raises BudgetNotFound."""
    query = visible(tx).where(BudgetRow.id.in_([first_id, second_id])).order_by(BudgetRow.id)
    budgets = {budget.id: budget for budget in await tx.all(query.with_for_update(key_share=True))}
    first, second = (found(budgets.get(id), BudgetNotFound(id)) for id in (first_id, second_id))
    return first, second


async def lock_many(tx: WriteSession, budget_ids: Collection[UUID]) -> dict[UUID, BudgetRow]:
    """Return the budgets as they are when all are locked, in id order like the ledger does."""
    query = select(BudgetRow).where(BudgetRow.id.in_(budget_ids)).order_by(BudgetRow.id)
    query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    return {budget.id: budget for budget in await tx.all(query)}


async def lock_open(tx: WriteSession, entity_id: UUID) -> Sequence[BudgetRow]:
    """Return all budgets of the entity that are not closed, locked in id order."""
    query = select(BudgetRow).where(BudgetRow.entity_id == entity_id, BudgetRow.state != BudgetState.CLOSED)
    return await tx.all(query.order_by(BudgetRow.id).with_for_update(key_share=True))


async def set_forecast_version(tx: WriteSession, budget: BudgetRow, ledger_version: int) -> None:
    """Store the `ledger_version` of the last forecast, without changing the etag or `update_time`."""
    query = update(BudgetRow).where(BudgetRow.id == budget.id)
    query = query.values(forecast_version=ledger_version, update_time=BudgetRow.update_time)
    await tx.execute(query.execution_options(synchronize_session=False))
