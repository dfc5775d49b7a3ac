"""What other services refuse, passed on as they say it: with their text, their numbers and their fields."""

from collections.abc import Mapping
from typing import Final

from kit.errors import BillingError, FailedPrecondition, NotFound


class EntityNotFound(NotFound):
    reason = "ENTITY_NOT_FOUND"


class DepartmentNotFound(NotFound):
    reason = "DEPARTMENT_NOT_FOUND"


class RateMissing(FailedPrecondition):
    reason = "RATE_MISSING"


class BudgetNotFound(NotFound):
    reason = "BUDGET_NOT_FOUND"


class BudgetStateForbids(FailedPrecondition):
    reason = "BUDGET_STATE"


class BudgetExceeded(FailedPrecondition):
    reason = "BUDGET_EXCEEDED"


class OutsidePeriod(FailedPrecondition):
    reason = "OUTSIDE_PERIOD"


class ApprovalRequired(FailedPrecondition):
    reason = "APPROVAL_REQUIRED"


class AmountTooSmall(FailedPrecondition):
    reason = "AMOUNT_TOO_SMALL"


class CurrencyMismatch(FailedPrecondition):
    reason = "CURRENCY_MISMATCH"


FORWARDED: Final[Mapping[str, type[BillingError]]] = {
    refusal.reason: refusal
    for refusal in (
        EntityNotFound, DepartmentNotFound, RateMissing, BudgetNotFound, BudgetStateForbids, BudgetExceeded,
        OutsidePeriod, ApprovalRequired, AmountTooSmall, CurrencyMismatch,
    )
}  # fmt: skip
"""By the reason that the other service gave."""
