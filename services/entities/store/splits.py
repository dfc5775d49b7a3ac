"""SQL for costs that were split."""

from sqlalchemy import Uuid, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError

from kit.db import ReadSession, WriteSession, constraint_name
from services.entities.domain.splits import SplitFilter
from services.entities.errors.allocation_rules import CostAlreadySplit
from services.entities.models.splits import CostSplitRow
from serving.pages import Page, Slice


async def lock(tx: WriteSession, source_ref: str) -> None:
    """Prevent other transactions from splitting this cost until this one ends. Raises CostAlreadySplit."""
    await tx.lock(f"cost split {source_ref}")
    if await tx.one_or_none(select(CostSplitRow.id).where(CostSplitRow.source_ref == source_ref)):
        raise CostAlreadySplit(source_ref)


async def insert(tx: WriteSession, split: CostSplitRow) -> None:
    """Record a split. Raises CostAlreadySplit."""
    source_ref = split.source_ref  # a failed flush expires the row
    tx.add(split)
    try:
        await tx.flush()
    except IntegrityError as error:
        if constraint_name(error) in {"cost_splits_ref_key", "cost_splits_allocation_key"}:
            raise CostAlreadySplit(source_ref) from error
        raise


async def list_page(tx: ReadSession, page: Page, filters: SplitFilter) -> Slice[CostSplitRow]:
    """Return one page of the splits that match all filters, oldest first."""
    query = select(CostSplitRow)
    if tx.scope is not None:
        covered = literal(list(tx.scope.department_ids), ARRAY(Uuid))
        query = query.where(CostSplitRow.department_ids.contained_by(covered))
    if filters.rule_id is not None:
        query = query.where(CostSplitRow.rule_id == filters.rule_id)
    if filters.source_ref:
        query = query.where(CostSplitRow.source_ref == filters.source_ref)
    if filters.start is not None:
        query = query.where(CostSplitRow.allocation_date >= filters.start)
    if filters.end is not None:
        query = query.where(CostSplitRow.allocation_date < filters.end)
    return await page.fetch(tx, query, CostSplitRow.id)
