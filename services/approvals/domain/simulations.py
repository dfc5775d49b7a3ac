"""Simulation of a rule: the routes of past requests with and without it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from services.approvals import domain
from services.approvals.domain.routes import Amounts, ConditionCheck, Route
from services.approvals.domain.rules import Facts, Rule, RuleSpec


@dataclass(frozen=True, slots=True)
class SimulatedRequest:
    """A past request that is routed again."""

    id: UUID
    facts: Facts


@dataclass(frozen=True, slots=True)
class SimulatedHistory:
    """The past requests of a simulation, and the current rules."""

    requests: Sequence[SimulatedRequest]
    rules: Sequence[Rule]


@dataclass(frozen=True, slots=True)
class RouteChange:
    """A past request whose route would differ."""

    request: SimulatedRequest
    before: Route | None
    after: Route | None


@dataclass(slots=True)
class Simulation:
    """Routes past requests with the current rules and with a draft, and counts the differences."""

    rules: Sequence[Rule]
    draft_rules: Sequence[Rule]
    draft: Rule
    changes_max: int
    considered: int = 0
    changed: int = 0
    newly_auto_approved: int = 0
    newly_refused: int = 0
    skipped: int = 0
    """Number of requests without a route because an exchange rate is missing."""
    failed: int = 0
    """Number of requests for which the condition of the draft can't be evaluated."""
    changes: list[RouteChange] = field(default_factory=list)
    """The first `changes_max` differences."""

    def add(self, request: SimulatedRequest, amounts: Amounts, check: ConditionCheck) -> None:
        """Route a request with both sets of rules, and count it."""
        before = domain.routes.choose(self.rules, request.facts, amounts, check)
        after = domain.routes.choose(self.draft_rules, request.facts, amounts, check)
        self.considered += 1
        self.failed += domain.routes.has_failed(self.draft, request.facts, amounts, check)
        if _versions(before) == _versions(after):
            return
        self.changed += 1
        self.newly_refused += before is not None and after is None
        self.newly_auto_approved += after is not None and after.auto_approved and not (before and before.auto_approved)
        if len(self.changes) < self.changes_max:
            self.changes.append(RouteChange(request, before, after))


def with_draft(rules: Sequence[Rule], draft: Rule, replaces: UUID | None) -> Sequence[Rule]:
    """Return the rules with a draft added, without the rule that it replaces. A type has only one default rule."""
    return [*(rule for rule in rules if rule.id != replaces and not _both_default(rule.spec, draft.spec)), draft]


def _both_default(one: RuleSpec, other: RuleSpec) -> bool:
    return one.is_default and other.is_default and one.request_type is other.request_type


def _versions(route: Route | None) -> Sequence[tuple[UUID, int]] | None:
    return None if route is None else [(matched.rule.id, matched.rule.version) for matched in route.rules]
