"""The rules of allocation rules: what goes together, when one applies, and that none splits what another one did."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import resources
from kit.money import BP
from services.entities.domain.field_violations import FieldViolation
from services.entities.errors.allocation_rules import (
    AllocationRuleMismatch,
    AllocationRuleNotEffective,
    AllocationRuleStateForbids,
)


class RuleType(StrEnum):
    """AllocationRule.Type."""

    FIXED_PERCENT = "FIXED_PERCENT"
    EVEN = "EVEN"
    PROPORTIONAL = "PROPORTIONAL"


class RuleBasis(StrEnum):
    """AllocationRule.Basis."""

    HEADCOUNT = "HEADCOUNT"
    USAGE = "USAGE"
    GIVEN = "GIVEN"


class RuleState(StrEnum):
    """AllocationRule.State."""

    ACTIVE = "ACTIVE"
    ENDED = "ENDED"


class RuleAction(StrEnum):
    """What is done to an allocation rule; the value is how it reads in a sentence."""

    CHANGE = "changed"
    APPLY = "used to split a cost"
    END = "deleted"


RULE_TRANSITIONS: Final[Mapping[tuple[RuleState, RuleAction], RuleState]] = {
    (RuleState.ACTIVE, RuleAction.CHANGE): RuleState.ACTIVE,
    (RuleState.ACTIVE, RuleAction.APPLY): RuleState.ACTIVE,
    (RuleState.ACTIVE, RuleAction.END): RuleState.ENDED,
}
"""The whole life of an allocation rule; what is not here is not allowed."""


def advance(rule_id: UUID, state: RuleState, action: RuleAction) -> RuleState:
    """The state after `action`; raises AllocationRuleStateForbids naming the states in which it is allowed."""
    return resources.advance(RULE_TRANSITIONS, rule_id, state, action, AllocationRuleStateForbids)


@dataclass(frozen=True, slots=True)
class Target:
    """A department that bears a part of a cost."""

    department_id: UUID
    percent_bp: int = 0
    """With FIXED_PERCENT."""
    weight: Decimal | None = None
    """With PROPORTIONAL by GIVEN; None: not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Over whom a cost is split, and by what."""

    rule_type: RuleType
    basis: RuleBasis | None
    """None but for PROPORTIONAL."""
    usage_unit: str
    """Empty but for USAGE."""
    usage_category: str
    """Empty: usage of any category."""
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Which costs a rule splits."""

    source_department_id: UUID | None
    """None: those of any department."""
    category: str
    """Empty: those of any category."""
    effective_from: date
    effective_to: date | None
    """The day after the last one; None: until further notice."""

    def meets(self, other: "Reach") -> bool:
        """Whether there may be a cost on a day and of a category on which both hold, whoever's it is."""
        return (
            (not self.category or not other.category or self.category == other.category)
            and (other.effective_to is None or self.effective_from < other.effective_to)
            and (self.effective_to is None or other.effective_from < self.effective_to)
        )


def terms_violations(terms: Terms) -> Iterator[FieldViolation]:
    """All that does not go together; each place is told as of the message that has `rule_type` and `targets`."""
    if terms.rule_type is RuleType.PROPORTIONAL and terms.basis is None:
        yield FieldViolation("basis", "is required with PROPORTIONAL", "rule.basis")
    if terms.rule_type is not RuleType.PROPORTIONAL and terms.basis is not None:
        yield FieldViolation("basis", "goes with PROPORTIONAL only", "rule.basis")
    if terms.basis is RuleBasis.USAGE and not terms.usage_unit:
        yield FieldViolation("usage_unit", "is required with USAGE", "rule.usage")
    for field in ("usage_unit", "usage_category"):
        if terms.basis is not RuleBasis.USAGE and getattr(terms, field):
            yield FieldViolation(field, "goes with USAGE only", "rule.usage")
    yield from _target_violations(terms)


def _target_violations(terms: Terms) -> Iterator[FieldViolation]:
    seen: dict[UUID, int] = {}
    for place, target in enumerate(terms.targets):
        first = seen.setdefault(target.department_id, place)
        if first != place:
            yield FieldViolation(
                f"targets[{place}].department_id", f"is that of targets[{first}] as well", "target.once"
            )
        if target.percent_bp and terms.rule_type is not RuleType.FIXED_PERCENT:
            yield FieldViolation(f"targets[{place}].percent_bp", "goes with FIXED_PERCENT only", "target.percent")
        if target.weight is None and terms.basis is RuleBasis.GIVEN:
            yield FieldViolation(f"targets[{place}].weight", "is required with GIVEN", "target.weight")
        if target.weight is not None and terms.basis is not RuleBasis.GIVEN:
            yield FieldViolation(f"targets[{place}].weight", "goes with PROPORTIONAL by GIVEN only", "target.weight")
    percent_bp = sum(target.percent_bp for target in terms.targets)
    if terms.rule_type is RuleType.FIXED_PERCENT and percent_bp != BP:
        yield FieldViolation(
            "targets", f"have percentages that sum to {percent_bp} basis points; they must sum to {BP}", "rule.whole"
        )
    given = [target.weight for target in terms.targets if target.weight is not None]
    if terms.basis is RuleBasis.GIVEN and len(given) == len(terms.targets) and not any(given):
        yield FieldViolation("targets", "have weights that are all zero", "rule.whole")


def scope_violations(reach: Reach, targets: Iterable[Target]) -> Iterator[FieldViolation]:
    """What is wrong with the costs that a rule splits over the targets."""
    if reach.effective_to is not None and reach.effective_to <= reach.effective_from:
        yield FieldViolation(
            "effective_to_date", f"must be after effective_from_date, {reach.effective_from}", "rule.effective"
        )
    for place, target in enumerate(targets):
        if target.department_id == reach.source_department_id:
            yield FieldViolation(
                f"targets[{place}].department_id", "is the source, whose costs are split", "target.source"
            )


def check_applies(rule_id: UUID, reach: Reach, *, day: date, category: str, source_department_id: UUID | None) -> None:
    """Raise AllocationRuleNotEffective or AllocationRuleMismatch where the rule does not split such a cost.

    A cost without a category or a source department is taken for one of the rule's.
    """
    if day < reach.effective_from or (reach.effective_to is not None and day >= reach.effective_to):
        raise AllocationRuleNotEffective(rule_id, day, reach.effective_from, reach.effective_to)
    if reach.category and category and reach.category != category:
        raise AllocationRuleMismatch(rule_id, "category", wanted=reach.category, given=category)
    wanted, given = reach.source_department_id, source_department_id
    if wanted is not None and given is not None and wanted != given:
        raise AllocationRuleMismatch(rule_id, "source_department_id", wanted=wanted, given=given)


@dataclass(frozen=True, slots=True)
class Link:
    """From whom to whom a rule passes costs on."""

    rule_id: UUID | None
    """None: a split without a rule, or a rule that is being created."""
    reach: Reach
    targets: tuple[UUID, ...]


def find_chain(link: Link, others: Iterable[Link]) -> tuple[Link, tuple[UUID, ...]] | None:
    """The first of the others that would split what this one did, or the other way round, and the way of the cost.

    The way leads from the source of the one over its target, which is the source of the other, to a target of that:
    back to where it began, where there is such a one. Links without a source are of no department: they chain with
    none.
    """
    for other in others:
        if other.rule_id == link.rule_id or not link.reach.meets(other.reach):
            continue
        for first, second in ((link, other), (other, link)):
            source, middle = first.reach.source_department_id, second.reach.source_department_id
            if source is not None and middle is not None and middle in first.targets:
                end = source if source in second.targets else second.targets[0]
                return other, (source, middle, end)
    return None


def month_of(day: date) -> tuple[date, date]:
    """The first day of its month and that of the next."""
    after = date(day.year + day.month // 12, day.month % 12 + 1, 1)
    return day.replace(day=1), after
