"""How much of a purchase order the fees of a contract have used."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final

from kit.money import BP, Money, exponent
from services.entities import domain
from services.entities.domain.fees import FeePlan

NEAR_BP: Final = 8_000
"""From so much of the limit on, the end of the purchase order is near."""
THRESHOLDS_BP: Final = (NEAR_BP, BP)


class PurchaseOrderState(StrEnum):
    """PurchaseOrderUse.State."""

    OK = "OK"
    NEAR = "NEAR"
    EXCEEDED = "EXCEEDED"


@dataclass(frozen=True, slots=True)
class PurchaseOrderUse:
    """How a purchase order stands on a day."""

    used: Money
    """The fees that have fallen due, those of the day included."""
    remaining: Money
    """Below zero where the fees go beyond the limit."""
    state: PurchaseOrderState
    exceed_date: date | None
    """The day on which the fees go beyond the limit; None: they never do."""


def use_of(plan: FeePlan, limit: Money, today: date) -> PurchaseOrderUse:
    """How a purchase order with this limit stands."""
    used = domain.fees.sum_fees(plan, today + timedelta(days=1))
    state = PurchaseOrderState.OK
    if limit < used:
        state = PurchaseOrderState.EXCEEDED
    elif _needed(limit, NEAR_BP) <= used:
        state = PurchaseOrderState.NEAR
    return PurchaseOrderUse(used, limit - used, state, domain.fees.day_reaching(plan, _needed(limit, BP)))


def days_of_thresholds(plan: FeePlan, limit: Money) -> Mapping[int, date]:
    """The day on which the fees come to each threshold; those that they never come to are left out."""
    days = {
        threshold_bp: domain.fees.day_reaching(plan, _needed(limit, threshold_bp)) for threshold_bp in THRESHOLDS_BP
    }
    return {threshold_bp: day for threshold_bp, day in days.items() if day}


def _needed(limit: Money, threshold_bp: int) -> Money:
    """From which amount on a threshold is passed: the whole only by what goes beyond it."""
    if threshold_bp == BP:
        return Money(limit.amount + Decimal(1).scaleb(-(exponent(limit.currency) or 0)), limit.currency)
    return Money(limit.amount * threshold_bp / BP, limit.currency)
