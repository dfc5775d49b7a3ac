"""What the budgets service says, and what it does about what others say."""

from typing import Final

from billing.budgets.v1.events_pb2 import BudgetAlertRaised, BudgetClosed, BudgetExhausted
from billing.entities.v1.events_pb2 import EntityDeactivated

from eventing.consumer import Handler, on
from kit import ids
from kit.db import WriteSession
from services.budgets import convert, service
from services.budgets.models import AlertRow, BudgetRow


def budget_alert_raised(budget: BudgetRow, alert: AlertRow) -> BudgetAlertRaised:
    """A budget passed a mark."""
    return BudgetAlertRaised(
        alert=convert.alert_to_proto(alert),
        entity_id=ids.ENTITY.format(budget.entity_id),
        department_id=ids.DEPARTMENT.format_optional(budget.department_id),
    )


def budget_exhausted(budget: BudgetRow) -> BudgetExhausted:
    """A budget has nothing left."""
    return BudgetExhausted(
        budget_id=ids.BUDGET.format(budget.id),
        entity_id=ids.ENTITY.format(budget.entity_id),
        department_id=ids.DEPARTMENT.format_optional(budget.department_id),
    )


def budget_closed(budget: BudgetRow) -> BudgetClosed:
    """A budget takes no charge any more."""
    return BudgetClosed(
        budget_id=ids.BUDGET.format(budget.id),
        entity_id=ids.ENTITY.format(budget.entity_id),
        department_id=ids.DEPARTMENT.format_optional(budget.department_id),
    )


@on(EntityDeactivated)
async def close_budgets_of_entity(tx: WriteSession, event: EntityDeactivated) -> None:
    """An entity that is out of business spends nothing more."""
    await service.close_budgets_of_entity(tx, ids.ENTITY.parse(event.entity_id, "entity_id"))


HANDLERS: Final[tuple[Handler, ...]] = (close_budgets_of_entity,)
