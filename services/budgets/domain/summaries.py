"""How budgets are added up. Pure."""

from enum import StrEnum


class GroupBy(StrEnum):
    """BudgetSummary.GroupBy."""

    ENTITY = "ENTITY"
    DEPARTMENT = "DEPARTMENT"
    CATEGORY = "CATEGORY"
    CURRENCY = "CURRENCY"
