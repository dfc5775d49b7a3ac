"""Builders of the events about entities, departments, exchange rates and allocations."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from billing.entities.v1.events_pb2 import (
    AllocationCredited,
    AllocationReversed,
    CostAllocated,
    DepartmentManagerChanged,
    DepartmentMoved,
    EntityCreated,
    EntityDeactivated,
    EntityMoved,
    ExchangeRatesChanged,
)
from billing.entities.v1.exchange_rate_pb2 import CurrencyPair

from contract.values import money_to_proto
from kit import ids
from services.entities.models.allocations import AllocationRow
from services.entities.models.entities import DepartmentRow, EntityRow
from services.entities.models.rates import ExchangeRateRow


def entity_created(entity: EntityRow) -> EntityCreated:
    """Return the event that an entity was created."""
    return EntityCreated(
        entity_id=ids.ENTITY.format(entity.id),
        parent_id=ids.ENTITY.format_optional(entity.parent_id),
        code=entity.code,
        currency_code=entity.currency_code,
    )


def entity_deactivated(entity: EntityRow) -> EntityDeactivated:
    """Return the event that an entity was deactivated."""
    return EntityDeactivated(entity_id=ids.ENTITY.format(entity.id))


def entity_moved(entity: EntityRow, old_parent_id: UUID | None) -> EntityMoved:
    """Return the event that an entity has another parent, or became a root."""
    return EntityMoved(
        entity_id=ids.ENTITY.format(entity.id),
        old_parent_id=ids.ENTITY.format_optional(old_parent_id),
        new_parent_id=ids.ENTITY.format_optional(entity.parent_id),
    )


def department_moved(department: DepartmentRow, old_parent_id: UUID | None, since: date) -> DepartmentMoved:
    """Return the event that a department has another parent in the current tree."""
    return DepartmentMoved(
        department_id=ids.DEPARTMENT.format(department.id),
        entity_id=ids.ENTITY.format(department.entity_id),
        old_parent_id=ids.DEPARTMENT.format_optional(old_parent_id),
        new_parent_id=ids.DEPARTMENT.format_optional(department.parent_id),
        effective_date=since.isoformat(),
    )


def department_manager_changed(department: DepartmentRow, old_manager_user_id: str) -> DepartmentManagerChanged:
    """Return the event that a department has another manager, or none."""
    return DepartmentManagerChanged(
        department_id=ids.DEPARTMENT.format(department.id),
        entity_id=ids.ENTITY.format(department.entity_id),
        old_manager_user_id=old_manager_user_id,
        new_manager_user_id=department.manager_user_id,
    )


def exchange_rates_changed(changed: Sequence[ExchangeRateRow]) -> ExchangeRatesChanged:
    """Return the event that these exchange rates, one or more, were created or replaced."""
    pairs = sorted({(row.base_currency, row.quote_currency) for row in changed})
    return ExchangeRatesChanged(
        pairs=[CurrencyPair(base_currency=base, quote_currency=quote) for base, quote in pairs],
        earliest_date=min(row.effective_date for row in changed).isoformat(),
    )


def cost_allocated(row: AllocationRow, entity_path: Sequence[UUID]) -> CostAllocated:
    """Return the event that a cost was allocated; `entity_path` leads from the root down to its entity."""
    return CostAllocated(
        allocation_id=ids.ALLOCATION.format(row.id),
        entity_id=ids.ENTITY.format(row.entity_id),
        department_id=ids.DEPARTMENT.format_optional(row.department_id),
        department_path=map(ids.DEPARTMENT.format, row.department_path),
        entity_path=map(ids.ENTITY.format, entity_path),
        category=row.category,
        gl_code=row.gl_code,
        amount=money_to_proto(row.money),
        allocation_date=row.allocation_date.isoformat(),
        source=row.source,
        source_ref=row.source_ref,
        description=row.description,
    )


def allocation_reversed(reversal: AllocationRow, reversed_row: AllocationRow) -> AllocationReversed:
    """Return the event that an allocation was reversed."""
    return AllocationReversed(
        allocation_id=ids.ALLOCATION.format(reversal.id),
        reversed_allocation_id=ids.ALLOCATION.format(reversed_row.id),
        entity_id=ids.ENTITY.format(reversed_row.entity_id),
        department_id=ids.DEPARTMENT.format_optional(reversed_row.department_id),
        amount=money_to_proto(-reversal.money),
        allocation_date=reversal.allocation_date.isoformat(),
        reason=reversal.description,
    )


def allocation_credited(credit: AllocationRow, credited_row: AllocationRow) -> AllocationCredited:
    """Return the event that a part of an allocation was credited."""
    return AllocationCredited(
        allocation_id=ids.ALLOCATION.format(credit.id),
        credited_allocation_id=ids.ALLOCATION.format(credited_row.id),
        entity_id=ids.ENTITY.format(credit.entity_id),
        department_id=ids.DEPARTMENT.format_optional(credit.department_id),
        amount=money_to_proto(-credit.money),
        allocation_date=credit.allocation_date.isoformat(),
        source_ref=credit.source_ref,
        reason=credit.description,
    )
