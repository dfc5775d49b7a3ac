"""When an alert is due: the marks that a budget passes, and passes again on its way back. Pure."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from kit.money import BP
from services.budgets.domain.alerts import AlertType
from services.budgets.domain.balances import LARGEST, Balance

THRESHOLDS_DEFAULT_BP: Final = (5000, 8000, 9000, 10000)


@dataclass(frozen=True, slots=True)
class Mark:
    """A point that a budget can pass: one of its thresholds, or its total."""

    type: AlertType
    threshold_bp: int


FORECAST: Final = Mark(AlertType.FORECAST, BP)
"""The total, as what is expected to be spent when the period ends can pass it."""
PASSED_BY_USE: Final = frozenset({AlertType.THRESHOLD, AlertType.OVERSPEND})
"""The types of the marks that what is used passes."""


def marks_passed(balance: Balance) -> set[Mark]:
    """Every mark that the budget is at or past; each is to have an alert, once."""
    used = balance.used
    if used <= 0:
        return set()
    total, used_bp = balance.total, used * BP
    passed = {Mark(AlertType.THRESHOLD, bp) for bp in balance.terms.thresholds_bp if used_bp >= total * bp}
    return passed | {Mark(AlertType.OVERSPEND, BP)} if balance.overspent else passed


def span(balance: Balance) -> tuple[Decimal, Decimal]:
    """From which use on and until below which one the budget has passed the same marks as now.

    It saves comparing all marks for every charge of a budget that is charged thousands of times a second.
    """
    total, used = balance.total, balance.used
    if total <= 0:
        return used, used
    points = [total * bp / BP for bp in balance.terms.thresholds_bp]
    low = max((point for point in points if point <= used), default=-LARGEST)
    high = min((point for point in points if point > used), default=LARGEST)
    # What is overspent is past the total, not at it: no span reaches over that.
    return (low, min(high, total)) if used <= total else (used, high)
