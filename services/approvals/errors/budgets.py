"""Errors about budgets, which the budgets service owns."""

from kit import ids
from kit.resources import ResourceNotFound


class BudgetNotFound(ResourceNotFound):
    kind = ids.BUDGET
    reason = "BUDGET_NOT_FOUND"
