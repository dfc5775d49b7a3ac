"""Refusals for callers who may not see the budget that refuses."""

from collections.abc import Callable
from uuid import UUID

from kit.errors import BillingError
from services.budgets.errors.budgets import BudgetRefusal
from services.budgets.errors.charges import BatchRefused


def conceal(error: BillingError, is_visible: Callable[[UUID], bool]) -> BillingError:
    """Return the error, or one without name, id and numbers of the budget if the caller may not see it."""
    if isinstance(error, BatchRefused):
        return BatchRefused(error.index, conceal(error.refusal, is_visible))
    if isinstance(error, BudgetRefusal) and not is_visible(error.id):
        return error.concealed()
    return error
