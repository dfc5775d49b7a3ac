"""Finding the way of a request: its rules, and the people whom they name."""

from collections.abc import Sequence
from decimal import Decimal
from uuid import UUID

from clients.rates import RateQuery
from kit import clock
from kit.db import ReadSession
from kit.errors import InvalidFields
from kit.money import Money
from kit.origin import Origin
from kit.rates import RateMissing
from services.approvals.clients import Clients
from services.approvals.conditions import Conditions
from services.approvals.domain import routes
from services.approvals.domain.routes import Amounts, Route
from services.approvals.domain.rules import Facts, Rule
from services.approvals.store import rules as store

CONDITIONS = Conditions()
"""Those of all tenants, by their text."""


class Rules:
    """The active rules of tenants, read again when they have changed."""

    def __init__(self) -> None:
        self._known: dict[UUID, tuple[int, Sequence[Rule]]] = {}

    async def find(self, tx: ReadSession) -> Sequence[Rule]:
        """The active rules of the tenant, as they are now."""
        revision = await store.get_revision(tx)
        known = self._known.get(tx.tenant_id)
        if known and known[0] == revision:
            return known[1]
        rules = await store.find_active(tx)
        self._known[tx.tenant_id] = revision, rules
        return rules


async def choose(clients: Clients, origin: Origin, rules: Sequence[Rule], facts: Facts) -> Route | None:
    """The rules that a request takes; raises RateMissing where its amount can't be compared."""
    amounts = await find_amounts(clients, origin, rules, facts)
    return routes.choose(rules, facts, amounts, objection)


def objection(condition: str, facts: Facts) -> str | None:
    """Why a condition does not hold; one that was saved and is none any more does not either."""
    try:
        return CONDITIONS.problem(condition, facts)
    except InvalidFields as refusal:
        return refusal.message


async def find_amounts(clients: Clients, origin: Origin, rules: Sequence[Rule], facts: Facts) -> Amounts:
    """What a request costs, in its own currency and in those of the rules; raises RateMissing."""
    if facts.amount is None:
        return {}
    amounts = {facts.amount.currency: facts.amount.amount}
    for currency in sorted(routes.currencies_of(rules, facts)):
        amounts[currency] = await convert(clients, origin, facts.amount, currency)
    return amounts


async def convert(clients: Clients, origin: Origin, amount: Money, currency: str) -> Decimal:
    """The amount in another currency, at the rate of today, not rounded; raises RateMissing."""
    if amount.currency == currency:
        return amount.amount
    today = clock.now().date()
    (rate,) = await clients.rates.find(origin, [RateQuery(amount.currency, currency, today)])
    if rate is None:
        raise RateMissing(amount.currency, to=currency, on=today)
    return amount.amount * rate.rate
