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
    if error.metadata.get("budget_id") in {None, ids.BUDGET.format(budget_id)}:
        return error
    concealed = FailedPrecondition("A budget above refuses the amount.")
    concealed.reason = error.reason
    concealed.metadata = {key: value for key, value in error.metadata.items() if key in {"requested", "currency_code"}}
    return concealed
