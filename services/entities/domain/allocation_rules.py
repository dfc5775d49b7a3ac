"""Allocation rules: states, input types, consistency, and chains of rules."""

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


class AllocationRuleState(StrEnum):
    """AllocationRule.State."""

    ACTIVE = "ACTIVE"
    ENDED = "ENDED"


class AllocationRuleAction(StrEnum):
    """Actions on an allocation rule; the values are past participles for error messages."""

    CHANGE = "changed"
    APPLY = "used to split a cost"
    END = "deleted"


ALLOCATION_RULE_TRANSITIONS: Final[Mapping[tuple[AllocationRuleState, AllocationRuleAction], AllocationRuleState]] = {
    (AllocationRuleState.ACTIVE, AllocationRuleAction.CHANGE): AllocationRuleState.ACTIVE,
    (AllocationRuleState.ACTIVE, AllocationRuleAction.APPLY): AllocationRuleState.ACTIVE,
    (AllocationRuleState.ACTIVE, AllocationRuleAction.END): AllocationRuleState.ENDED,
}
"""All allowed transitions of an allocation rule."""


@dataclass(frozen=True, slots=True)
class SplitTarget:
    """A department that gets a share of a cost."""

    department_id: UUID
    percent_bp: int = 0
    """For FIXED_PERCENT."""
    weight: Decimal | None = None
    """For PROPORTIONAL by GIVEN; None: not set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTerms:
    """How a cost is split: the targets, and what decides their shares."""

    rule_type: RuleType
    basis: RuleBasis | None
    """For PROPORTIONAL only."""
    usage_unit: str
    """For USAGE only."""
    usage_category: str
    """Empty: usage of any category."""
    targets: tuple[SplitTarget, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleScope:
    """Which costs a rule applies to."""

    source_department_id: UUID | None
    """None: costs of any department."""
    category: str
    """Empty: costs of any category."""
    effective_from: date
    effective_to: date | None
    """First day after the period; None: no end."""

    def overlaps(self, other: "RuleScope") -> bool:
        """Return true if both apply to some day and category, regardless of the source department."""
        return (
            (not self.category or not other.category or self.category == other.category)
            and (other.effective_to is None or self.effective_from < other.effective_to)
            and (self.effective_to is None or other.effective_from < self.effective_to)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationRuleDraft:
    """Input for an allocation rule."""

    name: str
    rule_type: RuleType
    basis: RuleBasis | None
    usage_unit: str
    usage_category: str
    targets: tuple[SplitTarget, ...]
    source_department_id: UUID | None
    category: str
    effective_from: date
    effective_to: date | None

    @property
    def terms(self) -> SplitTerms:
        """How the rule splits costs."""
        return SplitTerms(
            rule_type=self.rule_type,
            basis=self.basis,
            usage_unit=self.usage_unit,
            usage_category=self.usage_category,
            targets=self.targets,
        )

    @property
    def scope(self) -> RuleScope:
        """Which costs the rule applies to."""
        return RuleScope(
            source_department_id=self.source_department_id,
            category=self.category,
            effective_from=self.effective_from,
            effective_to=self.effective_to,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationRuleFilter:
    """Filters of a list of allocation rules; None or empty text does not filter."""

    state: AllocationRuleState | None = None
    rule_type: RuleType | None = None
    target_department_id: UUID | None = None
    source_department_id: UUID | None = None
    category: str = ""
    effective_on: date | None = None


@dataclass(frozen=True, slots=True)
class RuleLink:
    """A rule as a link from its source department to its targets."""

    rule_id: UUID | None
    """None: a split without a rule, or a rule that is being created."""
    scope: RuleScope
    targets: tuple[UUID, ...]


def advance(rule_id: UUID, state: AllocationRuleState, action: AllocationRuleAction) -> AllocationRuleState:
    """Return the state after `action`. Raises AllocationRuleStateForbids naming the states in which it is allowed."""
    return resources.advance(ALLOCATION_RULE_TRANSITIONS, rule_id, state, action, AllocationRuleStateForbids)


def terms_violations(terms: SplitTerms) -> Iterator[FieldViolation]:
    """Yield all inconsistencies. Paths are relative to the message that has `rule_type` and `targets`."""
    if terms.rule_type is RuleType.PROPORTIONAL and terms.basis is None:
        yield FieldViolation("basis", "is required with PROPORTIONAL", "rule.basis")
    if terms.rule_type is not RuleType.PROPORTIONAL and terms.basis is not None:
        yield FieldViolation("basis", "is allowed with PROPORTIONAL only", "rule.basis")
    if terms.basis is RuleBasis.USAGE and not terms.usage_unit:
        yield FieldViolation("usage_unit", "is required with USAGE", "rule.usage")
    for field in ("usage_unit", "usage_category"):
        if terms.basis is not RuleBasis.USAGE and getattr(terms, field):
            yield FieldViolation(field, "is allowed with USAGE only", "rule.usage")
    yield from _target_violations(terms)


def _target_violations(terms: SplitTerms) -> Iterator[FieldViolation]:
    indexes: dict[UUID, int] = {}
    for index, target in enumerate(terms.targets):
        path, first = f"targets[{index}]", indexes.setdefault(target.department_id, index)
        if first != index:
            yield FieldViolation(f"{path}.department_id", f"is the same as in targets[{first}]", "target.once")
        if target.percent_bp and terms.rule_type is not RuleType.FIXED_PERCENT:
            yield FieldViolation(f"{path}.percent_bp", "is allowed with FIXED_PERCENT only", "target.percent")
        if target.weight is None and terms.basis is RuleBasis.GIVEN:
            yield FieldViolation(f"{path}.weight", "is required with GIVEN", "target.weight")
        if target.weight is not None and terms.basis is not RuleBasis.GIVEN:
            yield FieldViolation(f"{path}.weight", "is allowed with PROPORTIONAL by GIVEN only", "target.weight")
    percent_bp = sum(target.percent_bp for target in terms.targets)
    if terms.rule_type is RuleType.FIXED_PERCENT and percent_bp != BP:
        text = f"have percentages that sum to {percent_bp} basis points; they must sum to {BP}"
        yield FieldViolation("targets", text, "rule.whole")
    weights = [target.weight for target in terms.targets if target.weight is not None]
    if terms.basis is RuleBasis.GIVEN and len(weights) == len(terms.targets) and not any(weights):
        yield FieldViolation("targets", "have weights that are all zero", "rule.whole")


def scope_violations(scope: RuleScope, targets: Iterable[SplitTarget]) -> Iterator[FieldViolation]:
    """Yield all inconsistencies of the scope, and between the scope and the targets of a rule."""
    if scope.effective_to is not None and scope.effective_to <= scope.effective_from:
        text = f"must be after effective_from_date, {scope.effective_from}"
        yield FieldViolation("effective_to_date", text, "rule.effective")
    yield from source_violations(scope.source_department_id, targets)


def source_violations(source_department_id: UUID | None, targets: Iterable[SplitTarget]) -> Iterator[FieldViolation]:
    """Yield a violation for each target that is the source department of the cost."""
    for index, target in enumerate(targets):
        if target.department_id == source_department_id:
            field = f"targets[{index}].department_id"
            yield FieldViolation(field, "is the source, whose costs are split", "target.source")


def check_applies(
    rule_id: UUID, scope: RuleScope, *, day: date, category: str, source_department_id: UUID | None
) -> None:
    """Raise AllocationRuleNotEffective or AllocationRuleMismatch if the rule does not apply to such a cost.

    A cost without a category or a source department matches every rule.
    """
    if day < scope.effective_from or (scope.effective_to is not None and day >= scope.effective_to):
        raise AllocationRuleNotEffective(rule_id, day, scope.effective_from, scope.effective_to)
    if scope.category and category and scope.category != category:
        raise AllocationRuleMismatch(rule_id, "category", expected=scope.category, actual=category)
    expected, actual = scope.source_department_id, source_department_id
    if expected is not None and actual is not None and expected != actual:
        raise AllocationRuleMismatch(rule_id, "source_department_id", expected=expected, actual=actual)


def find_chain(link: RuleLink, others: Iterable[RuleLink]) -> tuple[RuleLink, tuple[UUID, ...]] | None:
    """Return the first of the others that forms a chain with `link`, and the path of a cost through both.

    Two rules form a chain if they overlap and a target of one is the source of the other, so that a share would be
    split again. The path has three departments: the source, the middle and a target, if possible the source itself
    (a cycle). Rules without a source department are never part of a chain.
    """
    for other in others:
        if other.rule_id == link.rule_id or not link.scope.overlaps(other.scope):
            continue
        for first, second in ((link, other), (other, link)):
            source, middle = first.scope.source_department_id, second.scope.source_department_id
            if source is not None and middle is not None and middle in first.targets:
                end = source if source in second.targets else second.targets[0]
                return other, (source, middle, end)
    return None
