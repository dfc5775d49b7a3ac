"""Ledger entries of changes to budgets themselves: adjustments, transfers and rollovers."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from kit import clock, ids
from kit.db import ReadSession, WriteSession
from services.budgets import domain, ledger, store
from services.budgets.domain.balances import ZERO, Movement
from services.budgets.domain.entries import EntryType, LedgerSums
from services.budgets.domain.postings import Entry
from services.budgets.domain.verification import Verification
from services.budgets.models.budgets import BudgetRow

_NO_MOVEMENT: Final = Movement()


def record(
    tx: WriteSession,
    chain: Sequence[BudgetRow],
    entry_type: EntryType,
    amount: Decimal,
    *,
    moved_amount: Decimal = ZERO,
    movement: Movement = _NO_MOVEMENT,
    **fields: Any,
) -> Entry:
    """Append an entry to the ledger of the first budget of a chain, whose locked rows contain the change already.

    `moved_amount` is by how much the total of each budget changed; `fields` are other fields of the entry.
    """
    for budget in chain:
        budget.ledger_version += 1
    now = clock.now()
    entry = Entry(
        id=ids.new(),
        entry_type=entry_type,
        chain=[budget.balance for budget in chain],
        amount=amount,
        movement=movement,
        moved_amount=moved_amount,
        request_id=getattr(tx.origin, "key", "") or None,
        actor=tx.origin.actor,
        charge_time=now,
        create_time=now,
        **fields,
    )
    ledger.append_entries(tx, [entry])
    return entry


async def verify(tx: ReadSession, budget_id: UUID) -> tuple[BudgetRow, LedgerSums, Verification]:
    """Return the budget, the sums of its ledger, and whether they agree."""
    budget, sums = await store.entries.sums(tx, budget_id)
    next_id = await store.rollovers.find_next_id(tx, budget_id)
    rolled_over = budget.rolled_over(next_id) if next_id else None
    return budget, sums, domain.verification.verify(budget.balance, rolled_over, sums)
