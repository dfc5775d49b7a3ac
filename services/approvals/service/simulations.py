"""Simulation of a rule on past requests."""

import asyncio
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from kit import ids
from kit.db import ReadSession
from kit.money import Money
from kit.origin import Origin
from kit.rates import RateMissing
from services.approvals import domain, service, store
from services.approvals.clients import Clients
from services.approvals.domain.routes import Amounts
from services.approvals.domain.rules import Facts, Rule, RuleSpec
from services.approvals.domain.simulations import SimulatedHistory, SimulatedRequest, Simulation

_REQUESTS_MAX: Final = 10_000


async def load_history(tx: ReadSession, since: datetime, until: datetime, replaces: UUID | None) -> SimulatedHistory:
    """Return the requests created in `[since, until)` and the current rules.

    Raises ApprovalRuleNotFound if the rule to be replaced does not exist.
    """
    if replaces:
        await store.rules.get(tx, replaces)
    rows = await store.approvals.list_created(tx, since, until, _REQUESTS_MAX)
    return SimulatedHistory([SimulatedRequest(row.id, row.facts) for row in rows], await store.rules.list_active(tx))


async def simulate(
    clients: Clients,
    origin: Origin,
    history: SimulatedHistory,
    draft: RuleSpec,
    replaces: UUID | None,
    *,
    changes_max: int,
) -> Simulation:
    """Route each request of the history with the current rules, and with the draft added."""
    draft_rule = Rule(id=replaces or ids.new(), version=0, spec=draft)
    with_draft = domain.simulations.with_draft(history.rules, draft_rule, replaces)
    simulation = Simulation(history.rules, with_draft, draft_rule, changes_max)
    converter = _Converter(clients, origin, [*history.rules, draft_rule])
    for request in history.requests:
        await asyncio.sleep(0)  # thousands of requests are routed with hundreds of rules: other calls run in between
        amounts = await converter.amounts(request.facts)
        if amounts is None:
            simulation.skipped += 1
        else:
            evaluation = service.conditions.Evaluation(request.facts)
            await evaluation.prepare(history.rules, amounts)
            await evaluation.prepare(with_draft, amounts)
            simulation.add(request, amounts, evaluation.unmet)
    return simulation


class _Converter:
    """Converts the amounts of requests to the currencies of the rules; looks up each rate once."""

    def __init__(self, clients: Clients, origin: Origin, rules: list[Rule]) -> None:
        self._clients, self._origin, self._rules = clients, origin, rules
        self._rates: dict[tuple[str, str], Decimal | None] = {}

    async def amounts(self, facts: Facts) -> Amounts | None:
        """Return the amount of a request by currency; None if a rate is missing."""
        if facts.amount is None:
            return {}
        amounts = {facts.amount.currency: facts.amount.amount}
        for currency in domain.routes.required_currencies(self._rules, facts):
            rate = await self._rate(facts.amount.currency, currency)
            if rate is None:
                return None
            amounts[currency] = facts.amount.amount * rate
        return amounts

    async def _rate(self, currency: str, to: str) -> Decimal | None:
        if (currency, to) not in self._rates:
            unit = Money(Decimal(1), currency)
            try:
                self._rates[currency, to] = await service.routing.convert(self._clients, self._origin, unit, to)
            except RateMissing:
                self._rates[currency, to] = None
        return self._rates[currency, to]
