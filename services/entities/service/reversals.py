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
from services.entities.errors.allocations import (
    AllocationAlreadyReversed,
    AllocationFullyCredited,
    AllocationIsCredit,
    AllocationIsReversal,
)
from services.entities.models.allocations import AllocationRow, Corrections


async def reverse(tx: WriteSession, allocation_id: UUID, *, reason: str, day: date | None = None) -> AllocationRow:
    """Reverse what is left of an allocation, publish AllocationReversed and return the reversal.

    The reversal is dated `day`, by default the date of the allocation, and not before that. Raises AllocationNotFound,
    AllocationIsReversal, AllocationIsCredit, AllocationAlreadyReversed, AllocationFullyCredited, AllocationDateTooFar,
    InvalidFields.
    """
    row = await store.allocations.get(tx, allocation_id)
    check_correctable(row)
    reversals = await reverse_all(tx, [row], reason=reason, day=choose_day(day, row.allocation_date))
    if not reversals:
        reversed_by = (await store.allocations.find_reversals(tx, [row.id])).get(row.id)
        raise AllocationAlreadyReversed(row.id, reversed_by) if reversed_by else AllocationFullyCredited(row.id)
    return reversals[0]


def check_correctable(row: AllocationRow) -> None:
    """Raise AllocationIsReversal or AllocationIsCredit: what corrects another allocation can't be corrected itself."""
    if row.reversal_of:
        raise AllocationIsReversal(row.id)
    if row.credit_of:
        raise AllocationIsCredit(row.id)


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
    """Reverse what is left of the allocations and publish AllocationReversed for each; return the reversals.

    Allocations that are reversed already or credited in full are skipped.
    """
    row_ids = [row.id for row in rows]
    await store.allocations.lock(tx, row_ids)
    corrections = await store.allocations.find_corrections(tx, row_ids)
    open_rows = [row for row in rows if _is_open(row, corrections[row.id])]
    reversals = [_reversal(row, corrections[row.id], tx.origin, day, reason) for row in open_rows]
    await store.allocations.append(tx, reversals)
    outbox.append_all(tx, map(events.published.allocation_reversed, reversals, open_rows))
    return reversals


def _is_open(row: AllocationRow, corrections: Corrections) -> bool:
    return not corrections.reversed_by and corrections.credited < row.amount


def _reversal(row: AllocationRow, corrections: Corrections, origin: Origin, day: date, reason: str) -> AllocationRow:
    return row.copy(
        id=ids.new(),
        amount=corrections.credited - row.amount,
        entity_amount=corrections.credited_entity_amount - row.entity_amount,
        quantity=None if row.quantity is None else -row.quantity,
        allocation_date=day,
        description=reason,
        reversal_of=row.id,
        actor=origin.actor,
        create_time=clock.now(),
    )
