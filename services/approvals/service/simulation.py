"""What a rule that is not kept yet would have changed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from kit import ids
from kit.db import ReadSession
from kit.money import Money
from kit.origin import Origin
from kit.rates import RateMissing
from services.approvals.clients import Clients
from services.approvals.domain import routes
from services.approvals.domain.routes import Amounts, Route
from services.approvals.domain.rules import Facts, Rule, RuleTerms
from services.approvals.models.requests import ApprovalRow
from services.approvals.service.routing import convert, objection
from services.approvals.store import requests, rules

REQUESTS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class RouteChange:
    """A request of the past that would have taken another way."""

    row: ApprovalRow
    before: Route | None
    after: Route | None


@dataclass(slots=True)
class Simulation:
    """What a draft would have changed."""

    considered: int = 0
    changed: int = 0
    newly_auto_approved: int = 0
    newly_refused: int = 0
    skipped: int = 0
    changes: list[RouteChange] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Past:
    """The requests of the past, and the rules of today."""

    rows: Sequence[ApprovalRow]
    rules: Sequence[Rule]


async def find_past(tx: ReadSession, since: datetime, until: datetime, replaces: UUID | None) -> Past:
    """What is looked at; raises ApprovalRuleNotFound where the rule to be replaced is not there."""
    if replaces:
        await rules.get_rule(tx, replaces)
    return Past(await requests.list_past(tx, since, until, REQUESTS_MAX), await rules.find_active(tx))


async def simulate(
    clients: Clients, origin: Origin, past: Past, draft: RuleTerms, replaces: UUID | None, *, changes_max: int
) -> Simulation:
    """Look at each request with the rules of today, and with those and the draft."""
    kept = [rule for rule in past.rules if rule.id != replaces]
    if draft.is_default:  # it would stand in the place of the default rule of its type
        kept = [rule for rule in kept if not (rule.terms.is_default and rule.terms.request_type is draft.request_type)]
    new_row = [*kept, Rule(id=replaces or ids.new(), version=0, terms=draft)]
    rates: dict[tuple[str, str], Decimal | None] = {}
    found = Simulation()
    for row in past.rows:
        facts = row.facts
        amounts = await _amounts(clients, origin, [*past.rules, *new_row], facts, rates)
        if amounts is None:
            found.skipped += 1
            continue
        found.considered += 1
        before = routes.choose(past.rules, facts, amounts, objection)
        after = routes.choose(new_row, facts, amounts, objection)
        _count(found, RouteChange(row, before, after), changes_max)
    return found


def _count(found: Simulation, change: RouteChange, changes_max: int) -> None:
    before, after = change.before, change.after
    if _taken(before) == _taken(after):
        return
    found.changed += 1
    found.newly_refused += before is not None and after is None
    found.newly_auto_approved += after is not None and after.auto_approved and not (before and before.auto_approved)
    if len(found.changes) < changes_max:
        found.changes.append(change)


def _taken(route: Route | None) -> Sequence[tuple[UUID, int]] | None:
    return None if route is None else [(level.rule.id, level.rule.version) for level in route.levels]


async def _amounts(
    clients: Clients,
    origin: Origin,
    looked_at: Sequence[Rule],
    facts: Facts,
    rates: dict[tuple[str, str], Decimal | None],
) -> Amounts | None:
    """What a request costs in the currencies of the rules, each rate asked for once; None where one is missing."""
    if facts.amount is None:
        return {}
    amounts = {facts.amount.currency: facts.amount.amount}
    for currency in routes.currencies_of(looked_at, facts):
        pair = facts.amount.currency, currency
        if pair not in rates:
            try:
                rates[pair] = await convert(clients, origin, Money(Decimal(1), pair[0]), currency)
            except RateMissing:
                rates[pair] = None
        rate = rates[pair]
        if rate is None:
            return None
        amounts[currency] = facts.amount.amount * rate
    return amounts
