"""Conversion of allocated costs, from events and for the preview of their budget."""

from collections.abc import Sequence
from datetime import date, datetime

from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import CostBudgetMatch, CostBudgetPreview
from billing.entities.v1.events_pb2 import AllocationCredited, AllocationReversed, CostAllocated

from contract.values import date_from_text
from kit import ids
from kit.dates import date_in
from kit.errors import InvalidFields, Violation
from kit.money import Money
from services.budgets import convert
from services.budgets.domain.allocated_costs import Cost, CostAttributes, Credit, Reversal
from services.budgets.domain.owners import CostOwner
from services.budgets.models.budgets import BudgetRow


def cost_from_proto(event: CostAllocated) -> Cost:
    """Return the allocated cost. Raises InvalidFields or ValueError if it is invalid."""
    department_id = ids.DEPARTMENT.parse_optional(event.department_id, "department_id")
    path = [ids.DEPARTMENT.parse(id, "department_path") for id in event.department_path][::-1]
    entities = [ids.ENTITY.parse(id, "entity_path") for id in event.entity_path][::-1]
    return Cost(
        allocation_id=ids.ALLOCATION.parse(event.allocation_id, "allocation_id"),
        entity_id=ids.ENTITY.parse(event.entity_id, "entity_id"),
        department_path=path or ([department_id] if department_id else []),
        entities_above=entities[1:],
        category=event.category,
        gl_code=event.gl_code,
        amount=_positive_amount(event),
        day=date.fromisoformat(event.allocation_date),
        description=event.description,
    )


def reversal_from_proto(event: AllocationReversed) -> Reversal:
    """Return the reversal of an allocation. Raises InvalidFields or ValueError if it is invalid."""
    return Reversal(
        allocation_id=ids.ALLOCATION.parse(event.allocation_id, "allocation_id"),
        reversed_id=ids.ALLOCATION.parse(event.reversed_allocation_id, "reversed_allocation_id"),
        reason=event.reason,
    )


def credit_from_proto(event: AllocationCredited) -> Credit:
    """Return the credit of an allocation. Raises InvalidFields or ValueError if it is invalid."""
    return Credit(
        allocation_id=ids.ALLOCATION.parse(event.allocation_id, "allocation_id"),
        credited_id=ids.ALLOCATION.parse(event.credited_allocation_id, "credited_allocation_id"),
        amount=_positive_amount(event),
        reason=event.reason,
    )


def _positive_amount(event: CostAllocated | AllocationCredited) -> Money:
    amount = Money.parse(event.amount.amount, event.amount.currency_code)
    if amount.amount <= 0:
        raise InvalidFields([Violation("amount", "must be above zero", "amount.positive")])
    return amount


def attributes_from_proto(request: pb.PreviewCostBudgetRequest, owner: CostOwner, now: datetime) -> CostAttributes:
    """Return the attributes of the cost in PreviewCostBudgetRequest."""
    return CostAttributes(
        entity_id=ids.ENTITY.parse(request.entity_id, "entity_id"),
        department_path=owner.department_path,
        entities_above=owner.entities_above,
        category=request.category,
        gl_code=request.gl_code,
        day=date_from_text(request.allocation_date) or date_in(owner.time_zone, now),
    )


def preview_to_proto(
    budget: BudgetRow | None, explanation: str, matches: Sequence[tuple[BudgetRow, str]]
) -> CostBudgetPreview:
    """Convert the budget that a cost would be charged to, and all that fit it, each with its explanation."""
    return CostBudgetPreview(
        budget=convert.budgets.to_proto(budget) if budget else None,
        explanation=explanation,
        matches=[_match_to_proto(row, text) for row, text in matches],
    )


def _match_to_proto(budget: BudgetRow, explanation: str) -> CostBudgetMatch:
    return CostBudgetMatch(
        budget_id=ids.BUDGET.format(budget.id),
        name=budget.name,
        entity_id=ids.ENTITY.format(budget.entity_id),
        department_id=ids.DEPARTMENT.format_optional(budget.department_id),
        category=budget.category,
        gl_code=budget.gl_code,
        explanation=explanation,
    )
