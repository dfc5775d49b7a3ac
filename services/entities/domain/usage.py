"""Usage records: metered usage that becomes allocations."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from kit import dates
from kit.money import Money
from services.entities.domain.allocations import AllocationDraft, AllocationSource


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """Usage with its cost. The entity and the department are identified by id or by code."""

    record_id: str
    """Unique within the tenant."""
    entity_id: UUID | None
    entity_code: str
    department_id: UUID | None
    department_code: str
    """If this and `department_id` are empty, the cost belongs to the entity as a whole."""
    category: str
    quantity: Decimal | None
    unit: str
    amount: Money
    """Above zero."""
    usage_time: datetime
    description: str
    contract_id: UUID | None
    """None: not linked to a contract."""


def to_allocation(record: UsageRecord, entity_id: UUID, department_id: UUID | None, time_zone: str) -> AllocationDraft:
    """Return the allocation of a record, dated by the day of the usage in the entity's time zone."""
    return AllocationDraft(
        entity_id=entity_id,
        department_id=department_id,
        category=record.category,
        source=AllocationSource.USAGE,
        source_ref=record.record_id,
        amount=record.amount,
        quantity=record.quantity,
        unit=record.unit,
        gl_code="",
        counterparty_entity_id=None,
        contract_id=record.contract_id,
        allocation_date=dates.date_in(time_zone, record.usage_time),
        description=record.description,
    )
