"""Use case that reverses a split as a whole."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from uuid import UUID

from eventing import outbox
from kit import clock, ids
from kit.db import WriteSession
from kit.errors import Conflict
from services.entities import events, service, store
from services.entities.errors.allocation_rules import CostSplitAlreadyReversed
from services.entities.models.allocations import AllocationRow
from services.entities.models.splits import CostSplitReversalRow, ReversibleSplit


async def reverse(tx: WriteSession, split_id: UUID, *, reason: str, day: date | None = None) -> ReversibleSplit:
    """Reverse all shares of a split that are not reversed yet, and restore the allocation that was split, if any.

    It is allocated again with what was left of the shares, so the sum of all costs stays the same. Raises
    CostSplitNotFound, AllocationNotFound if the caller may not see the allocation that was split,
    CostSplitAlreadyReversed, AllocationDateTooFar, InvalidFields.
    """
    split = (await store.splits.get(tx, split_id)).split
    original = await store.allocations.get(tx, split.split_allocation_id) if split.split_allocation_id else None
    await store.splits.lock(tx, split.source_ref)
    if await store.splits.find_reversals(tx, [split.id]):
        raise CostSplitAlreadyReversed(split.id)
    day = service.reversals.choose_day(day, split.allocation_date)
    shares = await store.allocations.list_by_ids(tx, split.allocation_ids)
    reversals = await service.reversals.reverse_all(tx, shares, reason=reason, day=day)
    restored = await _restore(tx, original, reversals, day) if original and reversals else None
    reversal = CostSplitReversalRow(
        split_id=split.id,
        reason=reason,
        allocation_date=day,
        restored_allocation_id=restored.id if restored else None,
        actor=tx.origin.actor,
    )
    await store.splits.insert_reversal(tx, reversal)
    return ReversibleSplit(split, reversal)


async def _restore(
    tx: WriteSession, original: AllocationRow, reversals: Sequence[AllocationRow], day: date
) -> AllocationRow:
    """Allocate what was left of the shares like the original, at its own rate, and publish CostAllocated.

    Its department and entity may be inactive, as for a reversal.
    """
    moved = await store.allocations.get_reversal(tx, original.id)
    amount = -sum((row.amount for row in reversals), Decimal(0))
    restored = original.copy(
        id=ids.new(),
        source_ref_sequence=original.source_ref_sequence + 1,
        amount=amount,
        entity_amount=(-moved.entity_money).pro_rata(amount, of=-moved.amount).amount,
        # On another day, unlinked usage could count for another commitment than the shares did.
        contract_id=original.contract_id if day == original.allocation_date else reversals[0].contract_id,
        allocation_date=day,
        actor=tx.origin.actor,
        create_time=clock.now(),
    )
    if not await store.allocations.append(tx, [restored]):
        raise Conflict  # a concurrent transaction has allocated the document
    entity_path = await store.hierarchies.find_path(tx, restored.entity_id)
    outbox.append(tx, events.published.cost_allocated(restored, entity_path))
    return restored
