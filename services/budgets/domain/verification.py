"""Verification: the balance of a budget against the sums of its ledger. Pure."""

from decimal import Decimal
from typing import NamedTuple

from services.budgets.domain.balances import Balance
from services.budgets.domain.entries import LedgerSums
from services.budgets.domain.late_postings import RolledOver


class Verification(NamedTuple):
    """What the ledger implies for a budget, in its currency."""

    verified: bool
    """True if the budget agrees with all of it."""
    total: Decimal
    """Amount and carried forward: the opening amount and all changes since."""
    carried: Decimal
    """Carried forward from the previous period, minus carried forward to the next one."""
    recomputed: Decimal | None
    """What the terms carry forward of the amount left by the ledger; None until the budget is rolled over."""


def verify(balance: Balance, rolled_over: RolledOver | None, sums: LedgerSums) -> Verification:
    """Compare a budget with the sums of its ledger, and recompute what it carries forward from them."""
    total = balance.total if sums.opening is None else sums.opening + sums.amount
    carried = sums.carried_in - sums.carried_out
    stored = balance.total, balance.carried, balance.spent, balance.held, balance.committed, balance.captured
    by_ledger = total, carried, sums.spent, sums.held, sums.committed, sums.captured
    verified = (*stored, balance.version) == (*by_ledger, sums.entries)
    verified = verified and balance.held + balance.committed == sums.open_holds
    recomputed = None
    if rolled_over:
        left = balance._replace(
            amount=total - carried, carried=carried, spent=sums.spent, held=sums.held, committed=sums.committed
        )
        recomputed = rolled_over._replace(carried=sums.carried_out).carried_of(left)
        forwarded = {rolled_over.carried, sums.carried_out, sums.received_by_next, recomputed}
        verified = verified and len(forwarded) == 1
    return Verification(verified, total, carried, recomputed)
