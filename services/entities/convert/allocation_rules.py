"""Allocation rules, and costs that are split."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final

from billing.entities.v1 import allocation_rule_service_pb2 as pb
from billing.entities.v1.allocation_rule_pb2 import AllocationRule, AllocationTarget, CostShare, CostSplit
from billing.type.v1.money_pb2 import Money as MoneyMessage

from contract.values import date_from_text, money_from_proto, money_to_proto, time_to_proto
from kit import ids
from kit.errors import InvalidFields, Violation
from services.entities import convert
from services.entities.domain.allocation_rules import RuleBasis, RuleType, Target, Terms
from services.entities.models.allocation_rules import AllocationRuleRow, AllocationTargetRow, CostSplitRow, ShareRecord
from services.entities.service.allocation_rules import RuleDraft
from services.entities.service.splits import Cost, Period, SplitAsk


def to_proto(row: AllocationRuleRow, targets: Sequence[AllocationTargetRow]) -> AllocationRule:
    """A rule with its targets."""
    return AllocationRule(
        id=ids.ALLOCATION_RULE.format(row.id),
        name=row.name,
        rule_type=AllocationRule.Type.Value(row.rule_type),
        basis=AllocationRule.Basis.Value(row.basis) if row.basis else AllocationRule.BASIS_UNSPECIFIED,
        usage_unit=row.usage_unit,
        usage_category=row.usage_category,
        targets=map(_target_to_proto, targets),
        source_department_id=ids.DEPARTMENT.format_optional(row.source_department_id),
        category=row.category,
        effective_from_date=row.effective_from.isoformat(),
        effective_to_date=_day_text(row.effective_to),
        state=AllocationRule.State.Value(row.state),
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def _target_to_proto(row: AllocationTargetRow) -> AllocationTarget:
    return AllocationTarget(
        department_id=ids.DEPARTMENT.format(row.department_id),
        percent_bp=row.percent_bp,
        weight="" if row.weight is None else convert.numbers.decimal_text(row.weight),
    )


def _day_text(day: date | None) -> str:
    return day.isoformat() if day else ""


def draft_from_proto(request: pb.CreateAllocationRuleRequest) -> RuleDraft:
    """What CreateAllocationRule asks for."""
    return RuleDraft(
        name=request.name,
        rule_type=_rule_type(request.rule_type),
        basis=_basis(request.basis),
        usage_unit=request.usage_unit,
        usage_category=request.usage_category,
        targets=_targets(request.targets),
        source_department_id=ids.DEPARTMENT.parse_optional(request.source_department_id, "source_department_id"),
        category=request.category,
        effective_from=date.fromisoformat(request.effective_from_date),
        effective_to=date_from_text(request.effective_to_date),
    )


def _rule_type(value: AllocationRule.Type.ValueType) -> RuleType:
    return RuleType(AllocationRule.Type.Name(value))


def _basis(value: AllocationRule.Basis.ValueType) -> RuleBasis | None:
    return RuleBasis(AllocationRule.Basis.Name(value)) if value else None


def _targets(given: Sequence[AllocationTarget]) -> tuple[Target, ...]:
    return tuple(
        Target(
            ids.DEPARTMENT.parse(target.department_id, "department_id"),
            target.percent_bp,
            Decimal(target.weight) if target.weight else None,
        )
        for target in given
    )


_RULE_CLEARED: Final[Mapping[str, Any]] = {
    "basis": None,
    "usage_unit": "",
    "usage_category": "",
    "source_department_id": "",
    "category": "",
    "effective_to_date": "",
}
"""What each field of a rule is when it is cleared; those that are not here can't be."""


def changes_from_proto(request: pb.UpdateAllocationRuleRequest) -> Mapping[str, Any]:
    """What UpdateAllocationRule changes of the draft that the rule is; raises InvalidFields."""
    changes = convert.changes.changed_columns(request, _RULE_CLEARED)
    if "rule_type" in changes:
        changes["rule_type"] = _rule_type(request.rule_type)
    if "basis" in changes:
        changes["basis"] = _basis(request.basis)
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


def split_ask_from_proto(request: pb.SplitCostRequest) -> SplitAsk:
    """What SplitCost asks for; raises InvalidFields with all that is missing or does not go together."""
    violations = [*_split_violations(request), *_usage_violations(request)]
    if violations:
        raise InvalidFields(violations)
    return SplitAsk(
        rule_id=ids.ALLOCATION_RULE.parse_optional(request.rule_id, "rule_id"),
        terms=_terms(request.terms) if request.HasField("terms") else None,
        cost=_cost(request) if request.HasField("amount") else None,
        allocation_id=ids.ALLOCATION.parse_optional(request.allocation_id, "allocation_id"),
        description=request.description,
        usage=_usage(request),
    )


_OF_THE_ALLOCATION: Final = ("allocation_date", "category", "gl_code", "source_ref", "source_department_id")
"""What an allocation that is split has already."""
_OF_AN_AMOUNT: Final = ("allocation_date", "source_ref")
"""What has to be said of an amount that is split."""


def _split_violations(request: pb.SplitCostRequest) -> Iterator[Violation]:
    if bool(request.rule_id) == request.HasField("terms"):
        yield Violation("rule_id", "is required, or else terms; not both", "split.rule")
    if bool(request.allocation_id) == request.HasField("amount"):
        yield Violation("amount", "is required, or else allocation_id; not both", "split.cost")
    elif request.allocation_id:
        for field in _OF_THE_ALLOCATION:
            if getattr(request, field):
                yield Violation(field, "is that of the allocation, and can't be given as well", "split.cost")
    else:
        for field in _OF_AN_AMOUNT:
            if not getattr(request, field):
                yield Violation(field, "is required with amount", "required")


def _usage_violations(request: pb.SplitCostRequest) -> Iterator[Violation]:
    start, end = request.usage_start_date, request.usage_end_date
    if bool(start) != bool(end):
        yield Violation("usage_end_date" if start else "usage_start_date", "is required with the other", "split.usage")
    elif start and end <= start:
        yield Violation("usage_end_date", f"must be after usage_start_date, {start}", "split.usage")


def _terms(message: pb.SplitTerms) -> Terms:
    return Terms(
        rule_type=_rule_type(message.rule_type),
        basis=_basis(message.basis),
        usage_unit=message.usage_unit,
        usage_category=message.usage_category,
        targets=_targets(message.targets),
    )


def _cost(request: pb.SplitCostRequest) -> Cost:
    return Cost(
        amount=money_from_proto(request.amount),
        allocation_date=date.fromisoformat(request.allocation_date),
        category=request.category,
        gl_code=request.gl_code,
        description=request.description,
        source_ref=request.source_ref,
        source_department_id=ids.DEPARTMENT.parse_optional(request.source_department_id, "source_department_id"),
    )


def _usage(request: pb.SplitCostRequest) -> Period | None:
    if not request.usage_start_date:
        return None
    return Period(date.fromisoformat(request.usage_start_date), date.fromisoformat(request.usage_end_date))


def cost_split_to_proto(row: CostSplitRow, *, tried: bool = False) -> CostSplit:
    """A cost that was split; one that was only tried has no allocations."""
    return CostSplit(
        source_ref=row.source_ref,
        rule_id=ids.ALLOCATION_RULE.format_optional(row.rule_id),
        rule_etag="" if row.rule_version is None else str(row.rule_version),
        rule_type=AllocationRule.Type.Value(row.rule_type),
        basis=AllocationRule.Basis.Value(row.basis) if row.basis else AllocationRule.BASIS_UNSPECIFIED,
        amount=money_to_proto(row.money),
        allocation_date=row.allocation_date.isoformat(),
        category=row.category,
        gl_code=row.gl_code,
        description=row.description,
        source_department_id=ids.DEPARTMENT.format_optional(row.source_department_id),
        split_allocation_id=ids.ALLOCATION.format_optional(row.split_allocation_id),
        usage_start_date=_day_text(row.usage_start),
        usage_end_date=_day_text(row.usage_end),
        shares=[_share_to_proto(share, row.currency_code, tried=tried) for share in row.shares],
        validate_only=tried,
        create_time=None if tried else time_to_proto(row.create_time),
    )


def _share_to_proto(share: ShareRecord, currency: str, *, tried: bool) -> CostShare:
    return CostShare(
        department_id=share["department_id"],
        entity_id=share["entity_id"],
        weight=share["weight"],
        fraction=share["fraction"],
        amount=MoneyMessage(currency_code=currency, amount=share["amount"]),
        allocation_id="" if tried else share["allocation_id"],
    )
