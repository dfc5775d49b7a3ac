"""Use case that credits an allocation in part."""

from datetime import date

from eventing import outbox
from kit import clock, ids
from kit.db import WriteSession
from kit.errors import Conflict, InvalidFields, Violation
from kit.money import Money
from services.entities import events, service, store
from services.entities.domain.allocations import CreditDraft
from services.entities.errors.allocations import (
    AllocationAlreadyReversed,
    AllocationSourceTaken,
    CreditExceedsAllocation,
)
from services.entities.models.allocations import AllocationRow, Corrections, DocumentUse


async def credit(tx: WriteSession, draft: CreditDraft) -> AllocationRow:
    """Credit a part of an allocation, publish AllocationCredited and return the credit.

    A document that credited the allocation before is not used again; the result is the existing credit. Raises
    AllocationNotFound, AllocationIsReversal, AllocationIsCredit, AllocationAlreadyReversed, AllocationSourceTaken,
    CreditExceedsAllocation, AllocationDateTooFar, InvalidFields.
    """
    row = await store.allocations.get(tx, draft.allocation_id)
    service.reversals.check_correctable(row)
    day = service.reversals.choose_day(draft.day, row.allocation_date)
    await store.allocations.lock(tx, [row.id])
    corrections = (await store.allocations.find_corrections(tx, [row.id]))[row.id]
    if corrections.reversed_by:
        raise AllocationAlreadyReversed(row.id, corrections.reversed_by)
    use = None
    if draft.source_ref:
        document = row.source, draft.source_ref
        use = (await store.allocations.find_uses(tx, [document])).get(document)
    if use and not use.free:
        return _replay(tx, draft, day, use)
    _check_amount(row, corrections, draft)
    new = _credit(row, corrections, draft, day)
    new.source_ref_sequence = use.allocation.source_ref_sequence + 1 if use else 1
    new.actor = tx.origin.actor
    if not await store.allocations.append(tx, [new]):
        raise Conflict  # a concurrent transaction has allocated the document
    outbox.append(tx, events.published.allocation_credited(new, row))
    return new


def _replay(tx: WriteSession, draft: CreditDraft, day: date, use: DocumentUse) -> AllocationRow:
    """Return the existing credit if it is the same. Raises AllocationSourceTaken."""
    existing = use.allocation
    document = existing.source, draft.source_ref
    if tx.scope and not tx.scope.covers(existing.entity_id, existing.department_id):
        raise AllocationSourceTaken(*document)
    same = {
        "credit_of_id": existing.credit_of == draft.allocation_id,
        "amount": -existing.money == draft.amount,
        "allocation_date": existing.allocation_date == day,
        "reason": existing.description == draft.reason,
    }
    differing = [field for field, is_same in same.items() if not is_same]
    if differing:
        raise AllocationSourceTaken(*document, existing.id, differing)
    return existing


def _check_amount(row: AllocationRow, corrections: Corrections, draft: CreditDraft) -> None:
    if draft.amount.currency != row.currency_code:
        text = f"must be {row.currency_code}, the currency of the allocation"
        raise InvalidFields([Violation("amount.currency_code", text, "currency.of_allocation")])
    available = row.amount - corrections.credited
    if draft.amount.amount > available:
        raise CreditExceedsAllocation(row.id, requested=draft.amount, available=Money(available, row.currency_code))


def _credit(row: AllocationRow, corrections: Corrections, draft: CreditDraft, day: date) -> AllocationRow:
    """Return the credit. Its amount in the entity's currency follows from running totals, so that nothing is left."""
    total = row.entity_money.pro_rata(corrections.credited + draft.amount.amount, of=row.amount)
    return row.copy(
        id=ids.new(),
        source_ref=draft.source_ref,
        amount=-draft.amount.amount,
        entity_amount=corrections.credited_entity_amount - total.amount,
        quantity=None,
        unit="",
        allocation_date=day,
        description=draft.reason,
        credit_of=row.id,
        create_time=clock.now(),
    )
