"""Routing of requests: reads the active rules, converts the amount to their currencies, and chooses the route."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final
from uuid import UUID

from clients.rates import RateQuery
from kit import clock
from kit.cache import TtlCache
from kit.db import ReadSession
from kit.money import Money
from kit.origin import Origin
from kit.rates import RateMissing
from services.approvals import domain, service, store
from services.approvals.clients import Clients
from services.approvals.domain.routes import Amounts, Route
from services.approvals.domain.rules import Facts, Rule
from services.approvals.errors.approvals import NoRuleMatches

_TENANTS_MAX: Final = 1_000
"""Maximum number of tenants whose rules are cached: each has up to 500 rules."""


class RuleCache:
    """The active rules of tenants; read from the database again when a tenant's rules have changed."""

    def __init__(self) -> None:
        self._rules: TtlCache[UUID, tuple[int, Sequence[Rule]]] = TtlCache(_TENANTS_MAX)

    async def get(self, tx: ReadSession) -> Sequence[Rule]:
        """Return the active rules of the tenant, as of this transaction."""
        revision = await store.rules.get_revision(tx)
        cached = self._rules.get(tx.tenant_id)
        if cached and cached[0] == revision:
            return cached[1]
        rules = await store.rules.list_active(tx)
        self._rules.set(tx.tenant_id, (revision, rules))
        return rules


async def choose(clients: Clients, origin: Origin, rules: Sequence[Rule], facts: Facts) -> Route:
    """Return the route of a request. Raises RateMissing or NoRuleMatches."""
    amounts = await _amounts(clients, origin, rules, facts)
    evaluation = service.conditions.Evaluation(facts)
    await evaluation.prepare(rules, amounts)
    check = evaluation.unmet
    route = domain.routes.choose(rules, facts, amounts, check)
    if route is None:
        raise NoRuleMatches(facts.request_type, len(rules), domain.routes.failures(rules, facts, amounts, check))
    return route


async def _amounts(clients: Clients, origin: Origin, rules: Sequence[Rule], facts: Facts) -> Amounts:
    """Return the amount of a request in its own currency and in those of the rules. Raises RateMissing."""
    if facts.amount is None:
        return {}
    amounts = {facts.amount.currency: facts.amount.amount}
    for currency in sorted(domain.routes.required_currencies(rules, facts)):
        amounts[currency] = await convert(clients, origin, facts.amount, currency)
    return amounts


async def convert(clients: Clients, origin: Origin, amount: Money, currency: str) -> Decimal:
    """Return the amount in another currency at today's rate (UTC), not rounded. Raises RateMissing."""
    if amount.currency == currency:
        return amount.amount
    today = clock.now().date()
    (rate,) = await clients.rates.find(origin, [RateQuery(amount.currency, currency, today)])
    if rate is None:
        raise RateMissing(amount.currency, to=currency, on=today)
    return amount.amount * rate.rate
