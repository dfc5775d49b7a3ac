"""Conversion of allocation rules and the terms of splits."""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final

from billing.entities.v1 import allocation_rule_service_pb2 as pb
from billing.entities.v1.allocation_rule_pb2 import AllocationRule, AllocationTarget

from contract.values import date_from_text, date_text, decimal_text, enum_or_none, time_to_proto
from kit import ids
from services.entities import convert
from services.entities.domain.allocation_rules import (
    AllocationRuleDraft,
    AllocationRuleFilter,
    AllocationRuleState,
    RuleBasis,
    RuleType,
    SplitTarget,
    SplitTerms,
)
from services.entities.models.allocation_rules import AllocationRuleRow, AllocationTargetRow


def to_proto(row: AllocationRuleRow, targets: Sequence[AllocationTargetRow]) -> AllocationRule:
    """Convert a rule with its targets."""
    return AllocationRule(
        id=ids.ALLOCATION_RULE.format(row.id),
        name=row.name,
        rule_type=AllocationRule.Type.Value(row.rule_type),
        basis=basis_to_proto(row.basis),
        usage_unit=row.usage_unit,
        usage_category=row.usage_category,
        targets=map(_target_to_proto, targets),
        source_department_id=ids.DEPARTMENT.format_optional(row.source_department_id),
        category=row.category,
        effective_from_date=row.effective_from.isoformat(),
        effective_to_date=date_text(row.effective_to),
        state=AllocationRule.State.Value(row.state),
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def _target_to_proto(row: AllocationTargetRow) -> AllocationTarget:
    return AllocationTarget(
        department_id=ids.DEPARTMENT.format(row.department_id),
        percent_bp=row.percent_bp,
        weight=decimal_text(row.weight),
    )


def basis_to_proto(basis: RuleBasis | None) -> AllocationRule.Basis.ValueType:
    """Convert a basis; None becomes BASIS_UNSPECIFIED."""
    return AllocationRule.Basis.Value(basis) if basis else AllocationRule.BASIS_UNSPECIFIED


def draft_from_proto(request: pb.CreateAllocationRuleRequest) -> AllocationRuleDraft:
    """Parse CreateAllocationRuleRequest."""
    return AllocationRuleDraft(
        name=request.name,
        rule_type=_rule_type(request.rule_type),
        basis=enum_or_none(RuleBasis, AllocationRule.Basis, request.basis),
        usage_unit=request.usage_unit,
        usage_category=request.usage_category,
        targets=_targets(request.targets),
        source_department_id=ids.DEPARTMENT.parse_optional(request.source_department_id, "source_department_id"),
        category=request.category,
        effective_from=date.fromisoformat(request.effective_from_date),
        effective_to=date_from_text(request.effective_to_date),
    )


def terms_from_proto(message: pb.SplitTerms) -> SplitTerms:
    """Convert the terms of a split without a rule."""
    return SplitTerms(
        rule_type=_rule_type(message.rule_type),
        basis=enum_or_none(RuleBasis, AllocationRule.Basis, message.basis),
        usage_unit=message.usage_unit,
        usage_category=message.usage_category,
        targets=_targets(message.targets),
    )


def _rule_type(value: AllocationRule.Type.ValueType) -> RuleType:
    return RuleType(AllocationRule.Type.Name(value))


def _targets(messages: Sequence[AllocationTarget]) -> tuple[SplitTarget, ...]:
    return tuple(
        SplitTarget(
            ids.DEPARTMENT.parse(target.department_id, "department_id"),
            target.percent_bp,
            Decimal(target.weight) if target.weight else None,
        )
        for target in messages
    )


def filter_from_proto(request: pb.ListAllocationRulesRequest) -> AllocationRuleFilter:
    """Return the filters of ListAllocationRulesRequest."""
    return AllocationRuleFilter(
        state=enum_or_none(AllocationRuleState, AllocationRule.State, request.state),
        rule_type=enum_or_none(RuleType, AllocationRule.Type, request.rule_type),
        target_department_id=ids.DEPARTMENT.parse_optional(request.target_department_id, "target_department_id"),
        source_department_id=ids.DEPARTMENT.parse_optional(request.source_department_id, "source_department_id"),
        category=request.category,
        effective_on=date_from_text(request.effective_on_date),
    )


_RULE_CLEARED: Final[Mapping[str, Any]] = {
    "basis": None,
    "usage_unit": "",
    "usage_category": "",
    "source_department_id": "",
    "category": "",
    "effective_to_date": "",
}
"""Value of each optional field after it is cleared; the others can't be cleared."""


def changes_from_proto(request: pb.UpdateAllocationRuleRequest) -> Mapping[str, Any]:
    """Return the fields of AllocationRuleDraft that UpdateAllocationRuleRequest changes. Raises InvalidFields."""
    changes = convert.changes.changed_columns(request, _RULE_CLEARED)
    if "rule_type" in changes:
        changes["rule_type"] = _rule_type(request.rule_type)
    if "basis" in changes:
        changes["basis"] = enum_or_none(RuleBasis, AllocationRule.Basis, request.basis)
    if "targets" in changes:
        changes["targets"] = _targets(request.targets)
    if "source_department_id" in changes:
        source = changes["source_department_id"]
        changes["source_department_id"] = ids.DEPARTMENT.parse_optional(source, "source_department_id")
    if "effective_from_date" in changes:
        changes["effective_from"] = date.fromisoformat(changes.pop("effective_from_date"))
    if "effective_to_date" in changes:
        changes["effective_to"] = date_from_text(changes.pop("effective_to_date"))
    return changes
