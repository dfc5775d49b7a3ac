"""Ledger entries of changes to budgets themselves: adjustments, transfers and rollovers."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from kit import clock, ids
from kit.db import WriteSession
from services.budgets import ledger
from services.budgets.domain.balances import ZERO, Movement
from services.budgets.domain.entries import EntryType
from services.budgets.domain.postings import Entry
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
