"""Errors about budgets, which the budgets service owns."""

from uuid import UUID

from kit import ids
from kit.errors import BillingError, FailedPrecondition
from kit.resources import ResourceNotFound


class BudgetNotFound(ResourceNotFound):
    kind = ids.BUDGET
    reason = "BUDGET_NOT_FOUND"


def conceal_above(error: BillingError, budget_id: UUID) -> BillingError:
    """Return the error; without name, id and numbers of the budget that refuses if it is one above `budget_id`."""
    is_visible = error.metadata.get("budget_id") in {None, ids.BUDGET.format(budget_id)}
    if is_visible or not isinstance(error, FailedPrecondition):
        return error
    return error.reduced("A budget above refuses the amount.", {"requested", "currency_code"})
