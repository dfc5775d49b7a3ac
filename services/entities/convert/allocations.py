"""Conversion of cost allocations."""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Final
from uuid import UUID

from billing.entities.v1 import allocation_service_pb2 as pb
from billing.entities.v1.allocation_pb2 import Allocation

from contract.values import (
    date_from_text,
    date_text,
    decimal_text,
    enum_or_none,
    money_from_proto,
    money_to_proto,
    time_to_proto,
)
from kit import ids
from kit.errors import BillingError, InvalidFields, Violation
from kit.money import Money
from services.entities.domain.allocations import (
    AllocationDraft,
    AllocationPosition,
    AllocationQuery,
    AllocationSource,
    CreditDraft,
)
from services.entities.models.allocations import AllocationOutcome, AllocationRow, Corrections

_ID_BYTES: Final = 16


def to_proto(row: AllocationRow, corrections: Corrections | None = None, *, dry_run: bool = False) -> Allocation:
    """Convert an allocation with its corrections, if there may be any; that of a dry run has no id."""
    corrections = corrections or Corrections()
    credited = Money(corrections.credited, row.currency_code)
    return Allocation(
        id="" if dry_run else ids.ALLOCATION.format(row.id),
        entity_id=ids.ENTITY.format(row.entity_id),
        department_id=ids.DEPARTMENT.format_optional(row.department_id),
        department_path=map(ids.DEPARTMENT.format, row.department_path),
        category=row.category,
        source=Allocation.Source.Value(row.source),
        source_ref=row.source_ref,
        amount=money_to_proto(row.money),
        entity_amount=money_to_proto(row.entity_money),
        rate=decimal_text(row.rate),
        rate_date=date_text(row.rate_date),
        quantity=decimal_text(row.quantity),
        unit=row.unit,
        gl_code=row.gl_code,
        counterparty_entity_id=ids.ENTITY.format_optional(row.counterparty_entity_id),
        allocation_date=row.allocation_date.isoformat(),
        description=row.description,
        reversal_of_id=ids.ALLOCATION.format_optional(row.reversal_of),
        reversed_by_id=ids.ALLOCATION.format_optional(corrections.reversed_by),
        credit_of_id=ids.ALLOCATION.format_optional(row.credit_of),
        credited_amount=money_to_proto(credited) if credited.amount else None,
        actor=row.actor,
        create_time=None if dry_run else time_to_proto(row.create_time),
        contract_id=ids.CONTRACT.format_optional(row.contract_id),
    )


def draft_from_proto(request: pb.AllocateCostRequest) -> AllocationDraft:
    """Parse AllocateCostRequest."""
    return _draft(request, entity_id=None, department_id=ids.DEPARTMENT.parse(request.id))


def drafts_from_proto(request: pb.BatchAllocateCostsRequest) -> list[AllocationDraft]:
    """Parse BatchAllocateCostsRequest. Raises InvalidFields for lines without an entity and a department."""
    violations = [
        Violation(f"allocations[{index}]", "must name a department or an entity", "bearer.required")
        for index, line in enumerate(request.allocations)
        if not line.entity_id and not line.department_id
    ]
    if violations:
        raise InvalidFields(violations)
    return [
        _draft(
            line,
            entity_id=ids.ENTITY.parse_optional(line.entity_id, "entity_id"),
            department_id=ids.DEPARTMENT.parse_optional(line.department_id, "department_id"),
        )
        for line in request.allocations
    ]


def _draft(
    cost: pb.AllocateCostRequest | pb.CostLine, *, entity_id: UUID | None, department_id: UUID | None
) -> AllocationDraft:
    return AllocationDraft(
        entity_id=entity_id,
        department_id=department_id,
        category=cost.category,
        source=AllocationSource(Allocation.Source.Name(cost.source or Allocation.MANUAL)),
        source_ref=cost.source_ref,
        amount=money_from_proto(cost.amount),
        quantity=Decimal(cost.quantity) if cost.quantity else None,
        unit=cost.unit,
        gl_code=cost.gl_code,
        counterparty_entity_id=ids.ENTITY.parse_optional(cost.counterparty_entity_id, "counterparty_entity_id"),
        contract_id=ids.CONTRACT.parse_optional(cost.contract_id, "contract_id"),
        allocation_date=date.fromisoformat(cost.allocation_date),
        description=cost.description,
    )


def credit_from_proto(request: pb.CreditAllocationRequest) -> CreditDraft:
    """Parse CreditAllocationRequest."""
    return CreditDraft(
        allocation_id=ids.ALLOCATION.parse(request.id),
        amount=money_from_proto(request.amount),
        source_ref=request.source_ref,
        day=date_from_text(request.allocation_date),
        reason=request.reason,
    )


def outcomes_to_proto(
    outcomes: Sequence[AllocationOutcome], corrections: Mapping[UUID, Corrections]
) -> pb.BatchAllocateCostsResponse:
    """Convert the outcomes of a batch."""
    results = [_outcome_to_proto(outcome, corrections) for outcome in outcomes]
    refused = sum(isinstance(outcome, BillingError) for outcome in outcomes)
    return pb.BatchAllocateCostsResponse(results=results, allocated_count=len(results) - refused, refused_count=refused)


def _outcome_to_proto(outcome: AllocationOutcome, corrections: Mapping[UUID, Corrections]) -> pb.AllocationResult:
    if isinstance(outcome, BillingError):
        refusal = pb.AllocationRefusal(
            code=outcome.code.name, reason=outcome.reason, message=outcome.message, metadata=outcome.metadata
        )
        return pb.AllocationResult(refusal=refusal)
    row = outcome.allocation
    return pb.AllocationResult(allocation=to_proto(row, corrections.get(row.id)), replayed=outcome.replayed)


def query_from_proto(request: pb.ListAllocationsRequest, position: bytes, limit: int) -> AllocationQuery:
    """Parse ListAllocationsRequest. `position` is that of `position_of` for the last row of the previous page."""
    after = None
    if position:
        day = date.fromisoformat(position[_ID_BYTES:].decode())
        after = AllocationPosition(day, UUID(bytes=position[:_ID_BYTES]))
    return AllocationQuery(
        department_id=ids.DEPARTMENT.parse(request.id),
        include_descendants=request.include_descendants,
        start=date_from_text(request.start_date),
        end=date_from_text(request.end_date),
        category=request.category,
        source=enum_or_none(AllocationSource, Allocation.Source, request.source),
        after=after,
        limit=limit,
    )


def position_of(row: AllocationRow) -> bytes:
    """Return the position of a row in the list, for a page token."""
    return row.id.bytes + row.allocation_date.isoformat().encode()
