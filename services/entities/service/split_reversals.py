"""Use case that reverses a split as a whole."""

from datetime import date
from decimal import Decimal
from uuid import UUID

from eventing import outbox
from kit import clock, ids
from kit.db import WriteSession
from kit.money import Money
from services.entities import events, service, store
from services.entities.errors.allocation_rules import CostSplitAlreadyReversed
from services.entities.models.allocations import AllocationRow
from services.entities.models.splits import CostSplitReversalRow, CostSplitRow, ReversibleSplit


async def reverse(tx: WriteSession, split_id: UUID, *, reason: str, day: date | None = None) -> ReversibleSplit:
    """Reverse all shares of a split that are not reversed yet, and restore the allocation that was split, if any.

    It is allocated again with what was left of the shares, so the sum of all costs stays the same. Raises
    CostSplitNotFound, CostSplitAlreadyReversed, AllocationDateTooFar, InvalidFields.
    """
    split = (await store.splits.get(tx, split_id)).split
    await store.splits.lock(tx, split.source_ref)
    if await store.splits.find_reversals(tx, [split.id]):
        raise CostSplitAlreadyReversed(split.id)
    day = service.reversals.choose_day(day, split.allocation_date)
    shares = await store.allocations.list_by_ids(tx, split.allocation_ids)
    reversals = await service.reversals.reverse_all(tx, shares, reason=reason, day=day)
    left = -sum((row.amount for row in reversals), Decimal(0))
    restored = await _restore(tx, split, Money(left, split.currency_code), day)
    reversal = CostSplitReversalRow(
        split_id=split.id,
        reason=reason,
        allocation_date=day,
        restored_allocation_id=restored.id if restored else None,
        actor=tx.origin.actor,
    )
    await store.splits.insert_reversal(tx, reversal)
    return ReversibleSplit(split, reversal)


async def _restore(tx: WriteSession, split: CostSplitRow, amount: Money, day: date) -> AllocationRow | None:
    """Allocate the amount where the split allocation was, at its own rate, and publish CostAllocated.

    Its department and entity may be inactive, as for a reversal.
    """
    if split.split_allocation_id is None or not amount.amount:
        return None
    reversals = await store.allocations.find_reversals(tx, [split.split_allocation_id])
    original, moved = await store.allocations.list_by_ids(tx, [*reversals, *reversals.values()])
    restored = original.copy(
        id=ids.new(),
        source_ref_sequence=original.source_ref_sequence + 1,
        amount=amount.amount,
        entity_amount=(-moved.entity_money).pro_rata(amount.amount, of=-moved.amount).amount,
        allocation_date=day,
        actor=tx.origin.actor,
        create_time=clock.now(),
    )
    await store.allocations.append(tx, [restored])
    entity_path = await store.hierarchies.find_path(tx, restored.entity_id)
    outbox.append(tx, events.published.cost_allocated(restored, entity_path))
    return restored
