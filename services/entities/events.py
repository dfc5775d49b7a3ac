"""What the entities service says; it reacts to nobody."""

from collections.abc import Sequence
from typing import Final

from billing.entities.v1.events_pb2 import (
    DepartmentManagerChanged,
    EntityCreated,
    EntityDeactivated,
    ExchangeRatesChanged,
)
from billing.entities.v1.exchange_rate_pb2 import CurrencyPair

from eventing.consumer import Handler
from kit import ids
from services.entities.models.entities import DepartmentRow, EntityRow
from services.entities.models.rates import ExchangeRateRow


def entity_created(entity: EntityRow) -> EntityCreated:
    """There is a new entity."""
    return EntityCreated(
        entity_id=ids.ENTITY.format(entity.id),
        parent_id=ids.ENTITY.format_optional(entity.parent_id),
        code=entity.code,
        currency_code=entity.currency_code,
    )


def entity_deactivated(entity: EntityRow) -> EntityDeactivated:
    """An entity went out of business."""
    return EntityDeactivated(entity_id=ids.ENTITY.format(entity.id))


def department_manager_changed(department: DepartmentRow, old_manager_user_id: str) -> DepartmentManagerChanged:
    """Another user answers for a department."""
    return DepartmentManagerChanged(
        department_id=ids.DEPARTMENT.format(department.id),
        entity_id=ids.ENTITY.format(department.entity_id),
        old_manager_user_id=old_manager_user_id,
        new_manager_user_id=department.manager_user_id,
    )


def exchange_rates_changed(changed: Sequence[ExchangeRateRow]) -> ExchangeRatesChanged:
    """Exchange rates are new or have been replaced; there is one at least."""
    pairs = sorted({(row.base_currency, row.quote_currency) for row in changed})
    return ExchangeRatesChanged(
        pairs=[CurrencyPair(base_currency=base, quote_currency=quote) for base, quote in pairs],
        earliest_date=min(row.effective_date for row in changed).isoformat(),
    )


HANDLERS: Final[tuple[Handler, ...]] = ()
