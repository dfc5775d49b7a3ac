"""Allocated costs out of events, and unbudgeted spend to messages."""

from datetime import date
from uuid import UUID

from billing.budgets.v1.charge_pb2 import Charge
from billing.budgets.v1.unbudgeted_pb2 import UnbudgetedSpend
from billing.entities.v1.events_pb2 import AllocationReversed, CostAllocated

from contract.values import money_to_proto, time_to_proto
from kit import ids
from kit.errors import InvalidFields, Violation
from kit.money import Money
from services.budgets.domain.usage import Cost, Reversal
from services.budgets.models.unbudgeted import UnbudgetedRow


def cost_from_proto(event: CostAllocated) -> Cost:
    """A cost that was allocated; raises InvalidFields or ValueError for one that can't be."""
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
    """An allocation that takes back another; raises InvalidFields or ValueError for one that can't be."""
    return Reversal(
        allocation_id=ids.ALLOCATION.parse(event.allocation_id, "allocation_id"),
        reversed_id=ids.ALLOCATION.parse(event.reversed_allocation_id, "reversed_allocation_id"),
        reason=event.reason,
    )


def charge_from_reply(reply: bytes) -> tuple[UUID, UUID]:
    """The budget and the entry of a charge, out of the answer that was kept."""
    charge = Charge.FromString(reply)
    return ids.BUDGET.parse(charge.budget_id), ids.ENTRY.parse(charge.id)


def unbudgeted_to_proto(row: UnbudgetedRow) -> UnbudgetedSpend:
    """A cost that no budget took."""
    return UnbudgetedSpend(
        allocation_id=ids.ALLOCATION.format(row.allocation_id),
        reversed_allocation_id=ids.ALLOCATION.format_optional(row.reversed_allocation_id),
        entity_id=ids.ENTITY.format(row.entity_id),
        department_id=ids.DEPARTMENT.format_optional(row.department_id),
        category=row.category,
        gl_code=row.gl_code,
        amount=money_to_proto(Money(row.amount, row.currency_code)),
        allocation_date=row.allocation_date.isoformat(),
        reason=row.reason,
        detail=row.detail,
        budget_id=ids.BUDGET.format_optional(row.budget_id),
        create_time=time_to_proto(row.create_time),
    )
