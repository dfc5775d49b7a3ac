"""Availability: whether charges would be accepted now, without making them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from kit import clock
from kit.origin import Origin
from services.budgets import domain
from services.budgets.domain.balances import Balance
from services.budgets.domain.entries import AvailabilityVerdict
from services.budgets.domain.postings import AvailabilityQuery, AvailabilityResult
from services.budgets.ledger import Ledger

_ACCEPTED: Final = {AvailabilityVerdict.AVAILABLE, AvailabilityVerdict.AVAILABLE_OVERSPENT}


async def check(
    ledger: Ledger, origin: Origin, queries: Sequence[AvailabilityQuery], charge_time: datetime | None
) -> list[AvailabilityResult]:
    """Check whether charges would be accepted, each after those before it that would be.

    Advisory: a concurrent charge may take the room first. Raises BudgetNotFound, RateMissing or AmountTooSmall.
    """
    at = charge_time or clock.now()
    snapshot = await ledger.read(origin.tenant_id, {query.budget_id for query in queries})
    charged: dict[UUID, Balance] = {}
    results: list[AvailabilityResult] = []
    for query in queries:
        chain = [charged.get(balance.terms.id, balance) for balance in snapshot.chain(origin, query.budget_id)]
        amount = await ledger.convert(origin, query.amount, chain[0].terms, at)
        availability = domain.balances.availability(chain, amount.amount, at)
        if availability.verdict in _ACCEPTED:
            charged |= {balance.terms.id: balance for balance in availability.after}
        results.append(AvailabilityResult(chain[0], amount, availability))
    return results
