"""Errors about resources of other services that this service raises itself."""

from kit.errors import NotFound


class EntityNotFound(NotFound):
    reason = "ENTITY_NOT_FOUND"


class DepartmentNotFound(NotFound):
    reason = "DEPARTMENT_NOT_FOUND"


class BudgetNotFound(NotFound):
    reason = "BUDGET_NOT_FOUND"
