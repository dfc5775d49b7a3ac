"""Cost allocations: requests to drafts, rows to messages."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Final
from uuid import UUID

from billing.entities.v1 import allocation_service_pb2 as pb
from billing.entities.v1.allocation_pb2 import Allocation

from contract.values import date_from_text, money_from_proto, money_to_proto, time_to_proto
from kit import ids
from kit.errors import BillingError, InvalidFields, Violation
from services.entities import convert
from services.entities.domain.allocations import AllocationDraft, AllocationSource
from services.entities.models.allocations import AllocationRow
from services.entities.service.allocations import Outcome
from services.entities.store.allocations import AllocationAsk, Place
from serving.pages import SIZE_DEFAULT

_ID_BYTES: Final = 16


def to_proto(row: AllocationRow, reversed_by: UUID | None = None) -> Allocation:
    """An allocation, and which one takes it back."""
    return Allocation(
        id=ids.ALLOCATION.format(row.id),
        entity_id=ids.ENTITY.format(row.entity_id),
        department_id=ids.DEPARTMENT.format_optional(row.department_id),
        department_path=map(ids.DEPARTMENT.format, row.department_path),
        category=row.category,
        source=Allocation.Source.Value(row.source),
        source_ref=row.source_ref,
        amount=money_to_proto(row.money),
        entity_amount=money_to_proto(row.entity_money),
        rate=convert.numbers.decimal_text(row.rate) if row.rate else "",
        rate_date=row.rate_date.isoformat() if row.rate_date else "",
        quantity="" if row.quantity is None else convert.numbers.decimal_text(row.quantity),
        unit=row.unit,
        gl_code=row.gl_code,
        counterparty_entity_id=ids.ENTITY.format_optional(row.counterparty_entity_id),
        allocation_date=row.allocation_date.isoformat(),
        description=row.description,
        reversal_of_id=ids.ALLOCATION.format_optional(row.reversal_of),
        reversed_by_id=ids.ALLOCATION.format_optional(reversed_by),
        actor=row.actor,
        create_time=time_to_proto(row.create_time),
    )


def allocations_to_proto(rows: Iterable[AllocationRow], reversals: Mapping[UUID, UUID]) -> list[Allocation]:
    """Allocations; `reversals` says which ones take back which of them."""
    return [to_proto(row, reversals.get(row.id)) for row in rows]


def draft_from_proto(request: pb.AllocateCostRequest) -> AllocationDraft:
    """What AllocateCost asks for."""
    return _draft(request, entity_id=None, department_id=ids.DEPARTMENT.parse(request.id))


def drafts_from_proto(request: pb.BatchAllocateCostsRequest) -> list[AllocationDraft]:
    """What BatchAllocateCosts asks for; raises InvalidFields where a line does not say who bears the cost."""
    homeless = [
        Violation(f"allocations[{place}]", "must name a department or an entity", "bearer.required")
        for place, line in enumerate(request.allocations)
        if not line.entity_id and not line.department_id
    ]
    if homeless:
        raise InvalidFields(homeless)
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
        allocation_date=date.fromisoformat(cost.allocation_date),
        description=cost.description,
    )


def results_to_proto(outcomes: Sequence[Outcome], reversals: Mapping[UUID, UUID]) -> pb.BatchAllocateCostsResponse:
    """What came of the lines of a batch."""
    results = [_result(outcome, reversals) for outcome in outcomes]
    refused = sum(isinstance(outcome, BillingError) for outcome in outcomes)
    return pb.BatchAllocateCostsResponse(results=results, allocated_count=len(results) - refused, refused_count=refused)


def _result(outcome: Outcome, reversals: Mapping[UUID, UUID]) -> pb.AllocationResult:
    if isinstance(outcome, BillingError):
        refusal = pb.AllocationRefusal(
            code=outcome.code.name, reason=outcome.reason, message=outcome.message, metadata=outcome.metadata
        )
        return pb.AllocationResult(refusal=refusal)
    row = outcome.allocation
    return pb.AllocationResult(allocation=to_proto(row, reversals.get(row.id)), replayed=outcome.replayed)


def ask_from_proto(request: pb.ListAllocationsRequest, place: bytes) -> AllocationAsk:
    """What ListAllocations asks for after a place, and one more to see whether another page follows."""
    return AllocationAsk(
        department_id=ids.DEPARTMENT.parse(request.id),
        include_descendants=request.include_descendants,
        start=date_from_text(request.start_date),
        end=date_from_text(request.end_date),
        category=request.category,
        source=AllocationSource(Allocation.Source.Name(request.source)) if request.source else None,
        after=Place(date.fromisoformat(place[_ID_BYTES:].decode()), UUID(bytes=place[:_ID_BYTES])) if place else None,
        count=(request.page_size or SIZE_DEFAULT) + 1,
    )


def place_of(row: AllocationRow) -> bytes:
    """Where a row stands in the list, as ask_from_proto takes it."""
    return row.id.bytes + row.allocation_date.isoformat().encode()
