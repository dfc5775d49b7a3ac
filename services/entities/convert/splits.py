"""Conversion of splits."""

from collections.abc import Iterator
from datetime import date
from typing import Final

from billing.entities.v1 import allocation_rule_service_pb2 as pb
from billing.entities.v1.allocation_rule_pb2 import AllocationRule, CostShare, CostSplit, CostSplitReversal
from billing.type.v1.money_pb2 import Money as MoneyMessage

from contract.values import date_from_text, date_text, money_from_proto, money_to_proto, time_to_proto
from kit import ids
from kit.errors import InvalidFields, Violation
from services.entities import convert
from services.entities.domain.splits import CostToSplit, SplitDraft, SplitFilter, UsagePeriod
from services.entities.models.splits import CostSplitReversalRow, CostSplitRow, ShareRecord

_FROM_ALLOCATION: Final = ("allocation_date", "category", "gl_code", "source_ref", "source_department_id")
"""Fields that have the values of the allocation if an allocation is split."""
_REQUIRED_WITH_AMOUNT: Final = ("allocation_date", "source_ref")


def draft_from_proto(request: pb.SplitCostRequest) -> SplitDraft:
    """Parse SplitCostRequest. Raises InvalidFields with all fields that are missing or exclude each other."""
    violations = [*_split_violations(request), *_usage_violations(request)]
    if violations:
        raise InvalidFields(violations)
    allocation_id = ids.ALLOCATION.parse_optional(request.allocation_id, "allocation_id")
    return SplitDraft(
        rule_id=ids.ALLOCATION_RULE.parse_optional(request.rule_id, "rule_id"),
        terms=convert.allocation_rules.terms_from_proto(request.terms) if request.HasField("terms") else None,
        cost=_cost(request) if request.HasField("amount") else None,
        allocation_id=allocation_id,
        source_ref=request.source_ref or ids.ALLOCATION.format_optional(allocation_id),
        description=request.description,
        usage=_usage(request),
    )


def _split_violations(request: pb.SplitCostRequest) -> Iterator[Violation]:
    if bool(request.rule_id) == request.HasField("terms"):
        yield Violation("rule_id", "is required unless terms is set, and not allowed otherwise", "split.rule")
    if bool(request.allocation_id) == request.HasField("amount"):
        yield Violation("amount", "is required unless allocation_id is set, and not allowed otherwise", "split.cost")
    elif request.allocation_id:
        for field in _FROM_ALLOCATION:
            if getattr(request, field):
                yield Violation(field, "is taken from the allocation, so it can't be set", "split.cost")
    else:
        for field in _REQUIRED_WITH_AMOUNT:
            if not getattr(request, field):
                yield Violation(field, "is required with amount", "required")


def _usage_violations(request: pb.SplitCostRequest) -> Iterator[Violation]:
    start, end = request.usage_start_date, request.usage_end_date
    if bool(start) != bool(end):
        missing, other = ("usage_end_date", "usage_start_date") if start else ("usage_start_date", "usage_end_date")
        yield Violation(missing, f"is required with {other}", "split.usage")
    elif start and end <= start:
        yield Violation("usage_end_date", f"must be after usage_start_date, {start}", "split.usage")


def _cost(request: pb.SplitCostRequest) -> CostToSplit:
    return CostToSplit(
        amount=money_from_proto(request.amount),
        allocation_date=date.fromisoformat(request.allocation_date),
        category=request.category,
        gl_code=request.gl_code,
        description=request.description,
        source_ref=request.source_ref,
        source_department_id=ids.DEPARTMENT.parse_optional(request.source_department_id, "source_department_id"),
    )


def _usage(request: pb.SplitCostRequest) -> UsagePeriod | None:
    if not request.usage_start_date:
        return None
    return UsagePeriod(date.fromisoformat(request.usage_start_date), date.fromisoformat(request.usage_end_date))


def filter_from_proto(request: pb.ListCostSplitsRequest) -> SplitFilter:
    """Return the filters of ListCostSplitsRequest."""
    return SplitFilter(
        rule_id=ids.ALLOCATION_RULE.parse_optional(request.rule_id, "rule_id"),
        source_ref=request.source_ref,
        start=date_from_text(request.start_date),
        end=date_from_text(request.end_date),
    )


def to_proto(row: CostSplitRow, reversal: CostSplitReversalRow | None = None, *, dry_run: bool = False) -> CostSplit:
    """Convert a split; that of a dry run has no id and no allocations."""
    return CostSplit(
        id="" if dry_run else ids.COST_SPLIT.format(row.id),
        source_ref=row.source_ref,
        rule_id=ids.ALLOCATION_RULE.format_optional(row.rule_id),
        rule_etag="" if row.rule_version is None else str(row.rule_version),
        rule_type=AllocationRule.Type.Value(row.rule_type),
        basis=convert.allocation_rules.basis_to_proto(row.basis),
        amount=money_to_proto(row.money),
        allocation_date=row.allocation_date.isoformat(),
        category=row.category,
        gl_code=row.gl_code,
        description=row.description,
        source_department_id=ids.DEPARTMENT.format_optional(row.source_department_id),
        split_allocation_id=ids.ALLOCATION.format_optional(row.split_allocation_id),
        usage_start_date=date_text(row.usage_start),
        usage_end_date=date_text(row.usage_end),
        shares=[_share_to_proto(share, row.currency_code, dry_run=dry_run) for share in row.shares],
        validate_only=dry_run,
        create_time=None if dry_run else time_to_proto(row.create_time),
        reversal=_reversal_to_proto(reversal) if reversal else None,
    )


def reversed_to_proto(row: CostSplitRow, reversal: CostSplitReversalRow | None, *, dry_run: bool) -> CostSplit:
    """Convert a split with its reversal; that of a dry run has no time and restores no allocation."""
    message = to_proto(row, reversal)
    if dry_run:
        message.validate_only = True
        for field in ("restored_allocation_id", "create_time"):
            message.reversal.ClearField(field)
    return message


def _reversal_to_proto(row: CostSplitReversalRow) -> CostSplitReversal:
    return CostSplitReversal(
        reason=row.reason,
        allocation_date=row.allocation_date.isoformat(),
        restored_allocation_id=ids.ALLOCATION.format_optional(row.restored_allocation_id),
        actor=row.actor,
        create_time=time_to_proto(row.create_time),
    )


def _share_to_proto(share: ShareRecord, currency: str, *, dry_run: bool) -> CostShare:
    return CostShare(
        department_id=share["department_id"],
        entity_id=share["entity_id"],
        weight=share["weight"],
        fraction=share["fraction"],
        amount=MoneyMessage(currency_code=currency, amount=share["amount"]),
        entity_amount=_entity_amount(share),
        allocation_id="" if dry_run else share["allocation_id"],
    )


def _entity_amount(share: ShareRecord) -> MoneyMessage | None:
    if "entity_amount" not in share:
        return None
    return MoneyMessage(currency_code=share["entity_currency_code"], amount=share["entity_amount"])
