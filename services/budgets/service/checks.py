"""What charges would meet, without making them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from kit import clock
from kit.money import Money
from kit.origin import Origin
from services.budgets import domain
from services.budgets.domain.balances import Availability, Balance
from services.budgets.domain.entries import AvailabilityVerdict

if TYPE_CHECKING:  # the ledger imports service.moves
    from services.budgets.ledger import Ledger

_TAKEN = {AvailabilityVerdict.AVAILABLE, AvailabilityVerdict.AVAILABLE_OVERSPENT}


@dataclass(frozen=True, slots=True)
class Ask:
    """A charge that is asked about."""

    budget_id: UUID
    amount: Money


@dataclass(frozen=True, slots=True)
class Answer:
    """What it would meet; the amount in the budget's currency."""

    balance: Balance
    amount: Money
    availability: Availability


async def check(ledger: "Ledger", origin: Origin, asks: Sequence[Ask], charge_time: datetime | None) -> list[Answer]:
    """What each charge would meet just now, if those before it that can be taken were taken.

    Raises BudgetNotFound, RateMissing or AmountTooSmall.
    """
    at = charge_time or clock.now()
    found = await ledger.look(origin.tenant_id, {ask.budget_id for ask in asks})
    left: dict[UUID, Balance] = {}
    answers: list[Answer] = []
    for ask in asks:
        chain = [left.get(balance.terms.id, balance) for balance in found.chain(origin, ask.budget_id)]
        amount = await ledger.convert(origin, ask.amount, chain[0].terms, at)
        availability = domain.balances.availability(chain, amount.amount, at)
        if availability.verdict in _TAKEN:
            left |= {balance.terms.id: balance for balance in availability.after}
        answers.append(Answer(chain[0], amount, availability))
    return answers
