"""Entries of the ledger that change the amount of budgets: adjustments, transfers, rollovers."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final
from uuid import UUID

from kit import clock, ids
from kit.db import WriteSession
from services.budgets.domain.balances import ZERO, Movement
from services.budgets.domain.entries import EntryType
from services.budgets.models.budgets import BudgetRow
from services.budgets.models.ledger import EntryRow

_NO_MOVEMENT: Final = Movement()


def record(
    tx: WriteSession,
    budget: BudgetRow,
    entry_type: EntryType,
    amount: Decimal,
    *,
    moved: Decimal,
    counterpart_id: UUID | None = None,
    description: str = "",
) -> EntryRow:
    """Append to the ledger that what a locked budget has to use was changed by `moved`, as its row says already."""
    return record_on_chain(
        tx,
        budget,
        [budget],
        entry_type,
        amount,
        moved=moved,
        counterpart_id=counterpart_id,
        description=description,
    )


def record_on_chain(
    tx: WriteSession,
    budget: BudgetRow,
    chain: Sequence[BudgetRow],
    entry_type: EntryType,
    amount: Decimal,
    *,
    moved: Decimal = ZERO,
    movement: Movement = _NO_MOVEMENT,
    counterpart_id: UUID | None = None,
    description: str = "",
) -> EntryRow:
    """Append to the ledger of a budget what changed it, or some above it: all in `chain`, whose rows say so already."""
    for moved_budget in chain:
        moved_budget.ledger_version += 1
    after = [moved_budget.balance for moved_budget in chain]
    now = clock.now()
    entry = EntryRow(
        id=ids.new(),
        entry_type=entry_type,
        budget_id=budget.id,
        chain_ids=[balance.terms.id for balance in after],
        chain_versions=[balance.version for balance in after],
        chain_amounts=[balance.total for balance in after],
        chain_spent=[balance.spent for balance in after],
        chain_held=[balance.held for balance in after],
        chain_committed=[balance.committed for balance in after],
        amount=amount,
        currency_code=budget.currency_code,
        moved_amount=moved,
        moved_spent=movement.spent,
        moved_held=movement.held,
        moved_committed=movement.committed,
        moved_captured=movement.captured,
        counterpart_id=counterpart_id,
        request_id=getattr(tx.origin, "key", "") or None,
        description=description,
        actor=tx.origin.actor,
        charge_time=now,
        create_time=now,
    )
    tx.add(entry)
    return entry
