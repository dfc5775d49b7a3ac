"""Conversion of usage records."""

from decimal import Decimal

from outside.usage.v1.usage_pb2 import UsageRecorded

from contract.values import money_from_proto, time_from_proto
from kit import ids
from kit.errors import InvalidFields, Violation
from services.entities.domain.usage import UsageRecord


def record_from_proto(event: UsageRecorded) -> UsageRecord:
    """Convert a validated UsageRecorded event. Raises InvalidFields if the amount is not above zero."""
    amount = money_from_proto(event.amount)
    if amount.amount <= 0:
        raise InvalidFields([Violation("amount", "must be above zero", "amount.positive")])
    return UsageRecord(
        record_id=event.record_id,
        entity_id=ids.ENTITY.parse_optional(event.entity_id, "entity_id"),
        entity_code=event.entity_code,
        department_id=ids.DEPARTMENT.parse_optional(event.department_id, "department_id"),
        department_code=event.department_code,
        category=event.category,
        quantity=Decimal(event.quantity) if event.quantity else None,
        unit=event.unit,
        amount=amount,
        usage_time=time_from_proto(event.usage_time),
        description=event.description,
        contract_id=ids.CONTRACT.parse_optional(event.contract_id, "contract_id"),
    )
