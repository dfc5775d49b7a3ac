"""Routing: choose the rules that apply to a request, with reasons. Pure.

Among the rules that match, the one with the highest priority applies; with equal priority the one with the narrower
amount range, then the older one. If it is a level of a ladder, all matching levels of the ladder whose range starts
below the amount apply, lowest first. If no rule matches, the default rule of the type applies, else the default rule
for all types.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple
from uuid import UUID

from kit.money import Money
from services.approvals.domain.rules import Facts, Rule, RuleSpec

Amounts = Mapping[str, Decimal]
"""The amount of a request by currency: its own, and those of all rules with an amount range."""


class Unmet(NamedTuple):
    """Why a condition is not true for the facts of a request."""

    reason: str
    failed: bool
    """True if it could not be evaluated."""


ConditionCheck = Callable[[str, Facts], Unmet | None]
"""Returns why a condition is not true for the facts of a request; None if it is true."""
_FAILED_NAMED_MAX: Final = 3
"""The number of rules whose condition could not be evaluated that a text names at most."""


@dataclass(frozen=True, slots=True)
class MatchedRule:
    """A rule that applies to a request, and why, as a sentence."""

    rule: Rule
    reason: str


@dataclass(frozen=True, slots=True)
class Route:
    """The rules that apply to a request, in order."""

    rules: tuple[MatchedRule, ...]

    @property
    def steps(self) -> Sequence[str]:
        """The names of the steps, in order."""
        return [step.name for matched in self.rules for step in matched.rule.spec.steps]

    @property
    def auto_approved(self) -> bool:
        """True if the route has no steps."""
        return not self.steps


def required_currencies(rules: Sequence[Rule], facts: Facts) -> frozenset[str]:
    """Return the currencies, besides the request's own, in which its amount is needed to match the rules."""
    if facts.amount is None:
        return frozenset()
    currencies = {rule.spec.currency for rule in rules if _matches_type(rule.spec, facts)}
    return frozenset(currencies - {"", facts.amount.currency})


def choose(rules: Sequence[Rule], facts: Facts, amounts: Amounts, check: ConditionCheck) -> Route | None:
    """Return the route of a request; None if no rule matches and there is no default rule."""
    for rule in candidates(rules, facts, amounts):
        if check(rule.spec.condition, facts) is None:
            return _route(rule, rules, facts, amounts, check)
    defaults = [rule for rule in rules if rule.spec.is_default and _matches_type(rule.spec, facts)]
    if not defaults:
        return None
    default = min(defaults, key=lambda rule: (rule.spec.request_type is None, rule.id))
    reason = ". ".join(["default rule: no other active rule matches", *failures(rules, facts, amounts, check)])
    return Route((MatchedRule(default, reason),))


def failures(rules: Sequence[Rule], facts: Facts, amounts: Amounts, check: ConditionCheck) -> Sequence[str]:
    """Return a sentence with the rules that would be candidates if their conditions could be evaluated, or nothing."""
    failed = [
        f"{rule.spec.name!r} ({unmet.reason})"
        for rule in candidates(rules, facts, amounts)
        if (unmet := check(rule.spec.condition, facts)) and unmet.failed
    ]
    if not failed:
        return ()
    more = f" and {len(failed) - _FAILED_NAMED_MAX} more" if len(failed) > _FAILED_NAMED_MAX else ""
    return (f"Conditions that could not be evaluated: {', '.join(failed[:_FAILED_NAMED_MAX])}{more}.",)


def has_failed(rule: Rule, facts: Facts, amounts: Amounts, check: ConditionCheck) -> bool:
    """True if a rule would be a candidate if its condition could be evaluated."""
    return bool(failures([rule], facts, amounts, check))


def _matching(rules: Sequence[Rule], facts: Facts) -> Sequence[Rule]:
    return [rule for rule in rules if not rule.spec.is_default and matches(rule.spec, facts)]


def candidates(rules: Sequence[Rule], facts: Facts, amounts: Amounts) -> Sequence[Rule]:
    """Return the rules of which the first whose condition is true applies."""
    return sorted((rule for rule in _matching(rules, facts) if in_range(rule.spec, amounts)), key=_rank)


def levels(rule: Rule, rules: Sequence[Rule], facts: Facts, amounts: Amounts) -> Sequence[Rule]:
    """Return the levels of a rule's ladder that apply with it if their conditions are true, lowest first."""
    if not rule.spec.ladder:
        return ()
    matching = [
        level
        for level in _matching(rules, facts)
        if level.spec.ladder == rule.spec.ladder and _starts_below(level.spec, amounts)
    ]
    return sorted(matching, key=lambda level: (level.spec.amount_above or Decimal(0), level.id))


def _rank(rule: Rule) -> tuple[int, bool, Decimal, UUID]:
    """Sort key: priority, then width of the amount range, then age."""
    spec = rule.spec
    if spec.amount_up_to is None:
        return -spec.priority, True, -(spec.amount_above or Decimal(0)), rule.id
    return -spec.priority, False, spec.amount_up_to - (spec.amount_above or Decimal(0)), rule.id


def _route(rule: Rule, rules: Sequence[Rule], facts: Facts, amounts: Amounts, check: ConditionCheck) -> Route:
    if not rule.spec.ladder:
        return Route((MatchedRule(rule, _reason(rule.spec, facts, amounts)),))
    applied = [level for level in levels(rule, rules, facts, amounts) if check(level.spec.condition, facts) is None]
    return Route(tuple(MatchedRule(level, _reason(level.spec, facts, amounts)) for level in applied))


def matches(spec: RuleSpec, facts: Facts) -> bool:
    """True if type, entity, department and category of a request match the rule. Amount and condition are separate."""
    return (
        _matches_type(spec, facts)
        and (not spec.entity_ids or not spec.entity_ids.isdisjoint(facts.entity_path))
        and (not spec.department_ids or not spec.department_ids.isdisjoint(facts.department_path))
        and (not spec.categories or facts.category in spec.categories)
    )


def _matches_type(spec: RuleSpec, facts: Facts) -> bool:
    return spec.request_type in {None, facts.request_type}


def in_range(spec: RuleSpec, amounts: Amounts) -> bool:
    """True if the amount of a request is in the range of the rule. Without an amount it is in no range."""
    if not spec.currency:
        return True
    amount = amounts.get(spec.currency)
    return (
        amount is not None
        and (spec.amount_above is None or amount > spec.amount_above)
        and (spec.amount_up_to is None or amount <= spec.amount_up_to)
    )


def _starts_below(spec: RuleSpec, amounts: Amounts) -> bool:
    amount = amounts.get(spec.currency)
    return spec.amount_above is None or (amount is not None and amount > spec.amount_above)


def _reason(spec: RuleSpec, facts: Facts, amounts: Amounts) -> str:
    """Return why the rule applies, as a sentence with its criteria."""
    parts = [f"matches requests of type {spec.request_type}" if spec.request_type else "matches requests of all types"]
    if spec.currency:
        parts.append(_range_text(spec))
        if facts.amount and facts.amount.currency != spec.currency and spec.currency in amounts:
            parts.append(f"{facts.amount} is {amounts[spec.currency]:.2f} {spec.currency} at today's rate")
    parts += [
        text
        for text, restricted in (
            ("of this entity or an ancestor", spec.entity_ids),
            ("of this department or an ancestor", spec.department_ids),
            (f"of category {facts.category!r}", spec.categories),
            ("whose condition is true", spec.condition),
        )
        if restricted
    ]
    if spec.ladder:
        parts.append(f"as a level of the ladder {spec.ladder!r}")
    elif spec.priority:
        parts.append(f"with the highest matching priority, {spec.priority}")
    return ", ".join(parts)


def _range_text(spec: RuleSpec) -> str:
    bounds = (("above", spec.amount_above), ("up to", spec.amount_up_to))
    return " ".join(f"{word} {Money(bound, spec.currency)}" for word, bound in bounds if bound is not None)


def ladder_violations(spec: RuleSpec, levels: Sequence[RuleSpec]) -> Sequence[tuple[str, str]]:
    """Return the conflicts of a rule with the other levels of its ladder: field and description of each."""
    violations = []
    for level in levels:
        if level.request_type != spec.request_type:
            violations.append(("request_type", f"must be that of the other levels of the ladder, {level.request_type}"))
        if level.currency and spec.currency and level.currency != spec.currency:
            violations.append(("amount_above", f"must be in the currency of the other levels, {level.currency}"))
        if (level.amount_above or Decimal(0)) == (spec.amount_above or Decimal(0)):
            violations.append(("amount_above", f"is already the lower bound of the level {level.name!r}"))
    return list(dict.fromkeys(violations))
