"""Availability: whether charges would be accepted now, without making them."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final

from kit import clock
from kit.origin import Origin
from kit.tasks import let_others_run
from services.budgets import domain
from services.budgets.domain.entries import AvailabilityVerdict
from services.budgets.domain.postings import AvailabilityQuery, AvailabilityResult
from services.budgets.ledger import Ledger

_ACCEPTED: Final = {AvailabilityVerdict.AVAILABLE, AvailabilityVerdict.AVAILABLE_OVERSPENT}

_QUERIES_AT_ONCE: Final = 32
"""After so many queries of one request other calls run."""


async def check(
    ledger: Ledger, origin: Origin, queries: Sequence[AvailabilityQuery], charge_time: datetime | None
) -> list[AvailabilityResult]:
    """Check whether charges would be accepted, each after those before it that would be.

    Advisory: a concurrent charge may take the room first. Raises BudgetNotFound, RateMissing, AmountTooSmall or
    AmountTooLarge.
    """
    at = charge_time or clock.now()
    snapshot = await ledger.read(origin.tenant_id, {query.budget_id for query in queries})
    balances, rollovers = dict(snapshot.balances), dict(snapshot.rollovers)
    decide = partial(domain.late_postings.decide, rollovers=rollovers, balances=balances)
    results: list[AvailabilityResult] = []
    for index, query in enumerate(queries):
        if index % _QUERIES_AT_ONCE == _QUERIES_AT_ONCE - 1:
            await let_others_run()
        chain = snapshot.chain(origin, query.budget_id, balances)
        amount = await ledger.convert(origin, query.amount, chain[0].terms, at)
        availability = domain.balances.availability(chain, amount.amount, at, decide)
        if availability.verdict in _ACCEPTED:
            balances |= {(balance.terms.tenant_id, balance.terms.id): balance for balance in availability.after}
            balances |= domain.late_postings.corrected(availability.corrections)
            rollovers |= domain.late_postings.correct(rollovers, availability.corrections)
        if origin.scope:
            is_visible = domain.visibility.within(origin.scope, origin.tenant_id, snapshot.balances)
            availability = domain.visibility.conceal_availability(availability, is_visible)
        results.append(AvailabilityResult(chain[0], amount, availability))
    return results
