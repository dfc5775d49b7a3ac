"""Use cases of reversals of allocations, one or several at once."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from eventing import outbox
from kit import clock, ids
from kit.db import WriteSession
from kit.errors import InvalidFields, Violation
from kit.origin import Origin
from services.entities import domain, events, store
from services.entities.errors.allocations import AllocationAlreadyReversed, AllocationIsReversal
from services.entities.models.allocations import AllocationRow


async def reverse(tx: WriteSession, allocation_id: UUID, *, reason: str, day: date | None = None) -> AllocationRow:
    """Reverse an allocation as a whole, publish AllocationReversed and return the reversal.

    The reversal is dated `day`, by default the date of the allocation, and not before that. Raises AllocationNotFound,
    AllocationIsReversal, AllocationAlreadyReversed, AllocationDateTooFar, InvalidFields.
    """
    row = await store.allocations.get(tx, allocation_id)
    if row.reversal_of:
        raise AllocationIsReversal(row.id)
    reversals = await reverse_all(tx, [row], reason=reason, day=choose_day(day, row.allocation_date))
    if not reversals:
        reversed_by = await store.allocations.find_reversals(tx, [row.id])
        raise AllocationAlreadyReversed(row.id, reversed_by[row.id])
    return reversals[0]


def choose_day(day: date | None, of_cost: date) -> date:
    """Return the date of a reversal, by default that of the cost. Raises InvalidFields, AllocationDateTooFar."""
    day = day or of_cost
    if day < of_cost:
        text = f"must be {of_cost}, the day of the allocation, or later"
        raise InvalidFields([Violation("allocation_date", text, "allocation_date.order")])
    domain.allocations.check_date(day, max(clock.now().date(), of_cost))
    return day


async def reverse_all(
    tx: WriteSession, rows: Sequence[AllocationRow], *, reason: str, day: date
) -> Sequence[AllocationRow]:
    """Reverse the allocations that are not reversed yet, publish AllocationReversed for each; return the reversals."""
    reversals = {row.id: _reversal(row, tx.origin, day, reason) for row in rows}
    inserted = await store.allocations.append(tx, list(reversals.values()))
    new = [(reversals[row.id], row) for row in rows if reversals[row.id].id in inserted]
    for reversal, row in new:
        outbox.append(tx, events.published.allocation_reversed(reversal, row))
    return [reversal for reversal, _ in new]


def _reversal(row: AllocationRow, origin: Origin, day: date, reason: str) -> AllocationRow:
    return row.copy(
        id=ids.new(),
        amount=-row.amount,
        entity_amount=-row.entity_amount,
        quantity=None if row.quantity is None else -row.quantity,
        allocation_date=day,
        description=reason,
        reversal_of=row.id,
        actor=origin.actor,
        create_time=clock.now(),
    )
