"""Late postings: postings on budgets that were rolled over already, and what they change in the next period. Pure.

What is left of a rolled-over budget was carried forward by its rollover terms. A posting changes what is left, so the
amount carried forward is computed again by the same terms, and the difference moves from one budget to the other. If
the budget of the next period was rolled over as well, the difference goes on to the period after it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from services.budgets import domain
from services.budgets.domain.balances import Balance, Correction, Decision, Movement
from services.budgets.domain.budgets import Rollover
from services.budgets.domain.entries import EntryType
from services.budgets.domain.postings import Key


class RolledOver(NamedTuple):
    """The rollover of a budget: its terms, and what it has carried forward so far."""

    next_id: UUID
    """The budget of the next period."""
    rollover: Rollover
    cap: Decimal | None
    carry_overspend: bool
    carried: Decimal
    """Carried forward to the next period, corrections included."""
    moved_holds: Decimal
    """Open holds that moved to the next period."""
    next_amount: Decimal
    """Amount of the next budget when it was opened."""

    def carried_of(self, balance: Balance) -> Decimal:
        """Return the amount to carry forward of the budget, from its balance after the rollover."""
        return domain.rollovers.carried_forward(
            balance.before_carrying(self.carried),
            rollover=self.rollover,
            cap=self.cap,
            carry_overspend=self.carry_overspend,
            moved_holds=self.moved_holds,
            next_amount=self.next_amount,
        )


def decide(
    chain: Sequence[Balance],
    entry_type: EntryType,
    movement: Movement,
    at: datetime,
    *,
    approved: bool = False,
    rollovers: Mapping[Key, RolledOver],
    balances: Mapping[Key, Balance],
) -> Decision:
    """Decide like `domain.balances.decide`, with corrections for the budgets of the chain that were rolled over.

    `balances` has at least the later periods of these. A budget of a later period that would lose an amount which is
    used already refuses the movement, too. Raises the same errors.
    """
    domain.balances.check_accepts(chain, entry_type, at)
    moved = [balance.moved(movement) for balance in chain]
    corrections = [each for balance in moved for each in corrections_of(balance, rollovers, balances)]
    latest = corrected(corrections)
    after = [latest.get(_key(balance), balance) for balance in moved]
    verdict = domain.balances.judge(after, movement.used, approved=approved)
    chain_keys = {_key(balance) for balance in chain}
    for key, balance in latest.items():
        if key not in chain_keys:
            domain.balances.judge([balance], balances[key].total - balance.total, approved=approved)
    return Decision(verdict, chain, after, moved, corrections)


def corrections_of(
    balance: Balance, rollovers: Mapping[Key, RolledOver], balances: Mapping[Key, Balance]
) -> list[Correction]:
    """Return the corrections for a budget whose balance is `balance` now, one for each later period that changes."""
    corrections: list[Correction] = []
    while rolled_over := rollovers.get(_key(balance)):
        amount = rolled_over.carried_of(balance) - rolled_over.carried
        if not amount:
            break
        opened = balances[balance.terms.tenant_id, rolled_over.next_id]
        correction = Correction(amount, _carry(balance, -amount), _carry(opened, amount))
        corrections.append(correction)
        balance = correction.opened
    return corrections


def corrected(corrections: Sequence[Correction]) -> dict[Key, Balance]:
    """Return the balances of the corrected budgets after all corrections."""
    return {_key(balance): balance for each in corrections for balance in (each.closing, each.opened)}


def correct(rollovers: Mapping[Key, RolledOver], corrections: Sequence[Correction]) -> dict[Key, RolledOver]:
    """Return the rollovers of the corrected budgets after all corrections."""
    return {
        key: rollovers[key]._replace(carried=rollovers[key].carried + each.amount)
        for each in corrections
        for key in [_key(each.closing)]
    }


def _carry(balance: Balance, amount: Decimal) -> Balance:
    return balance._replace(carried=balance.carried + amount, version=balance.version + 1)


def _key(balance: Balance) -> Key:
    return balance.terms.tenant_id, balance.terms.id
