"""Conversion of allocated costs and their reversals."""

from datetime import date

from billing.entities.v1.events_pb2 import AllocationReversed, CostAllocated

from kit import ids
from kit.errors import InvalidFields, Violation
from kit.money import Money
from services.budgets.domain.allocated_costs import Cost, Reversal


def cost_from_proto(event: CostAllocated) -> Cost:
    """Return the allocated cost. Raises InvalidFields or ValueError if it is invalid."""
    amount = Money.parse(event.amount.amount, event.amount.currency_code)
    if amount.amount <= 0:
        raise InvalidFields([Violation("amount", "must be above zero", "amount.positive")])
    return Cost(
        allocation_id=ids.ALLOCATION.parse(event.allocation_id, "allocation_id"),
        entity_id=ids.ENTITY.parse(event.entity_id, "entity_id"),
        department_id=ids.DEPARTMENT.parse_optional(event.department_id, "department_id"),
        category=event.category,
        gl_code=event.gl_code,
        amount=amount,
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
