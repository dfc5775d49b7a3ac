"""Which rules a request takes, and why. Pure.

The rule with the highest priority that matches; of equal ones the narrower range of amounts, then the older rule. Where
it is a level of a ladder, every level of that ladder that matches and begins below the amount, lowest first. Where none
matches, the default rule of the type, else the one for every type.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from kit.money import Money
from services.approvals.domain.rules import Facts, Rule, RuleTerms

Amounts = Mapping[str, Decimal]
"""What a request costs, by currency; in that of each rule that looks at amounts."""
Objection = Callable[[str, Facts], str | None]
"""Why a condition does not hold for a request; None where it does."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A rule that a request takes, and why, in a sentence."""

    rule: Rule
    reason: str


@dataclass(frozen=True, slots=True)
class Route:
    """The rules that a request takes, in their order."""

    levels: tuple[Chosen, ...]

    @property
    def steps(self) -> Sequence[str]:
        """The names of the steps, in their order."""
        return [step.name for level in self.levels for step in level.rule.terms.steps]

    @property
    def auto_approved(self) -> bool:
        """Whether nobody is asked."""
        return not self.steps


def currencies_of(rules: Sequence[Rule], facts: Facts) -> frozenset[str]:
    """The currencies, other than the request's own, in which its amount has to be known."""
    if facts.amount is None:
        return frozenset()
    looked_at = {rule.terms.currency for rule in rules if _is_of_type(rule.terms, facts)}
    return frozenset(looked_at - {"", facts.amount.currency})


def choose(rules: Sequence[Rule], facts: Facts, amounts: Amounts, objection: Objection) -> Route | None:
    """The way of a request; None where no rule matches and there is no default one."""
    named = [rule for rule in rules if not rule.terms.is_default and fits(rule.terms, facts)]
    candidates = sorted((rule for rule in named if in_range(rule.terms, amounts)), key=_rank)
    for rule in candidates:
        if objection(rule.terms.condition, facts) is None:
            return _route(rule, named, facts, amounts, objection)
    defaults = [rule for rule in rules if rule.terms.is_default and _is_of_type(rule.terms, facts)]
    if not defaults:
        return None
    default = min(defaults, key=lambda rule: (rule.terms.request_type is None, rule.id))
    return Route((Chosen(default, f"no other of {len(rules)} rules matches, and this is the default one"),))


def _rank(rule: Rule) -> tuple[int, bool, Decimal, UUID]:
    terms = rule.terms
    if terms.amount_up_to is None:
        return -terms.priority, True, -(terms.amount_above or Decimal(0)), rule.id
    return -terms.priority, False, terms.amount_up_to - (terms.amount_above or Decimal(0)), rule.id


def _route(rule: Rule, named: Sequence[Rule], facts: Facts, amounts: Amounts, objection: Objection) -> Route:
    if not rule.terms.ladder:
        return Route((Chosen(rule, _reason(rule.terms, facts, amounts)),))
    levels = [
        level
        for level in named
        if level.terms.ladder == rule.terms.ladder
        and _begins_below(level.terms, amounts)
        and objection(level.terms.condition, facts) is None
    ]
    levels.sort(key=lambda level: (level.terms.amount_above or Decimal(0), level.id))
    return Route(tuple(Chosen(level, _reason(level.terms, facts, amounts)) for level in levels))


def fits(terms: RuleTerms, facts: Facts) -> bool:
    """Whether the type, the place and the category of a request are those of the rule."""
    return (
        _is_of_type(terms, facts)
        and (not terms.entity_ids or not terms.entity_ids.isdisjoint(facts.entity_path))
        and (not terms.department_ids or not terms.department_ids.isdisjoint(facts.department_path))
        and (not terms.categories or facts.category in terms.categories)
    )


def _is_of_type(terms: RuleTerms, facts: Facts) -> bool:
    return terms.request_type in {None, facts.request_type}


def in_range(terms: RuleTerms, amounts: Amounts) -> bool:
    """Whether the amount of a request is in the range of the rule; without an amount it is in none."""
    if not terms.currency:
        return True
    amount = amounts.get(terms.currency)
    above = terms.amount_above is None or (amount is not None and amount > terms.amount_above)
    return amount is not None and above and (terms.amount_up_to is None or amount <= terms.amount_up_to)


def _begins_below(terms: RuleTerms, amounts: Amounts) -> bool:
    amount = amounts.get(terms.currency)
    return terms.amount_above is None or (amount is not None and amount > terms.amount_above)


def _reason(terms: RuleTerms, facts: Facts, amounts: Amounts) -> str:
    said = [f"it is for {terms.request_type}" if terms.request_type else "it is for every type"]
    if terms.currency:
        said.append(_range_said(terms))
        if facts.amount and facts.amount.currency != terms.currency and terms.currency in amounts:
            said.append(f"{facts.amount} are {amounts[terms.currency]:.2f} {terms.currency} today")
    for told, wanted in (
        ("of this entity or one above", terms.entity_ids),
        ("of this department or one above", terms.department_ids),
        (f"of the category {facts.category!r}", terms.categories),
        ("of which its condition holds", terms.condition),
    ):
        if wanted:
            said.append(told)
    if terms.ladder:
        said.append(f"a level of the ladder {terms.ladder!r}")
    elif terms.priority:
        said.append(f"with the highest priority that matches, {terms.priority}")
    return ", ".join(said)


def _range_said(terms: RuleTerms) -> str:
    bounds = (("above", terms.amount_above), ("up to", terms.amount_up_to))
    return " ".join(f"{word} {Money(bound, terms.currency)}" for word, bound in bounds if bound is not None)


def flaws_of_ladder(terms: RuleTerms, others: Sequence[RuleTerms]) -> Sequence[tuple[str, str]]:
    """What keeps a rule from being a level of its ladder beside the others: the field, and why."""
    found = []
    for other in others:
        if other.request_type != terms.request_type:
            found.append(("request_type", f"must be that of the other levels of the ladder, {other.request_type}"))
        if other.currency and terms.currency and other.currency != terms.currency:
            found.append(("amount_above", f"must be in the currency of the other levels, {other.currency}"))
        if (other.amount_above or Decimal(0)) == (terms.amount_above or Decimal(0)):
            found.append(("amount_above", f"is where the level {other.name!r} begins already"))
    return list(dict.fromkeys(found))
