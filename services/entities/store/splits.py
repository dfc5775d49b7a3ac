"""SQL for costs that were split."""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Uuid, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError

from kit.db import ReadSession, WriteSession, constraint_name, found
from services.entities.domain.splits import SplitFilter
from services.entities.errors.allocation_rules import CostAlreadySplit, CostSplitNotFound
from services.entities.models.splits import CostSplitReversalRow, CostSplitRow, ReversibleSplit
from serving.pages import Page, Slice


async def lock(tx: WriteSession, source_ref: str) -> None:
    """Prevent other transactions from splitting this cost, and from reversing its split, until this one ends."""
    await tx.lock(f"cost split {source_ref}")


def _with_reversals() -> Select[CostSplitRow, CostSplitReversalRow]:
    reversal = CostSplitReversalRow.split_id == CostSplitRow.id
    return select(CostSplitRow, CostSplitReversalRow).outerjoin(CostSplitReversalRow, reversal)


def _covered(tx: ReadSession) -> list[ColumnElement[bool]]:
    if tx.scope is None:
        return []
    return [CostSplitRow.department_ids.contained_by(literal(list(tx.scope.department_ids), ARRAY(Uuid)))]


async def find_latest(tx: ReadSession, source_ref: str) -> ReversibleSplit | None:
    """Return the latest split of this cost, also outside of the caller's scope."""
    query = _with_reversals().where(CostSplitRow.source_ref == source_ref)
    rows = await tx.rows(query.order_by(CostSplitRow.source_ref_sequence.desc()).limit(1))
    return ReversibleSplit(*rows[0]) if rows else None


async def get(tx: ReadSession, split_id: UUID) -> ReversibleSplit:
    """Return a split. Raises CostSplitNotFound."""
    rows = await tx.rows(_with_reversals().where(CostSplitRow.id == split_id, *_covered(tx)))
    return ReversibleSplit(*found(rows[0] if rows else None, CostSplitNotFound(split_id)))


async def find_of_allocations(tx: ReadSession, allocation_ids: Collection[UUID]) -> Mapping[UUID, UUID]:
    """Return the split of each of these allocations that was split, unless that split was reversed."""
    splits = await _list_of_allocations(tx, allocation_ids)
    return {
        split.split_allocation_id: split.id for split, reversal in splits if split.split_allocation_id and not reversal
    }


async def find_restored(tx: ReadSession, allocation_ids: Collection[UUID]) -> Mapping[UUID, UUID]:
    """Return the allocation that each of these was restored as, if it was split and the split was reversed."""
    splits = await _list_of_allocations(tx, allocation_ids)
    return {
        split.split_allocation_id: reversal.restored_allocation_id
        for split, reversal in splits
        if split.split_allocation_id and reversal and reversal.restored_allocation_id
    }


async def _list_of_allocations(tx: ReadSession, allocation_ids: Collection[UUID]) -> Sequence[ReversibleSplit]:
    """Return the splits of these allocations, reversed or not."""
    if not allocation_ids:
        return []
    rows = await tx.rows(_with_reversals().where(CostSplitRow.split_allocation_id.in_(allocation_ids)))
    return [ReversibleSplit(*row) for row in rows]


async def find_reversals(tx: ReadSession, split_ids: Collection[UUID]) -> Mapping[UUID, CostSplitReversalRow]:
    """Return the reversal of each split that has one."""
    rows = await tx.all(select(CostSplitReversalRow).where(CostSplitReversalRow.split_id.in_(split_ids)))
    return {row.split_id: row for row in rows}


async def insert_reversal(tx: WriteSession, reversal: CostSplitReversalRow) -> None:
    """Record the reversal of a split."""
    tx.add(reversal)
    await tx.flush()


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
    query = select(CostSplitRow).where(*_covered(tx))
    if filters.rule_id is not None:
        query = query.where(CostSplitRow.rule_id == filters.rule_id)
    if filters.source_ref:
        query = query.where(CostSplitRow.source_ref == filters.source_ref)
    if filters.start is not None:
        query = query.where(CostSplitRow.allocation_date >= filters.start)
    if filters.end is not None:
        query = query.where(CostSplitRow.allocation_date < filters.end)
    return await page.fetch(tx, query, CostSplitRow.id)
