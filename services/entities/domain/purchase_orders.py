"""Purchase orders: how much of the limit the fees of a contract have used, and when thresholds are reached."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import Final

from kit.money import BP, Money, unit
from services.entities import domain
from services.entities.domain.fees import FeePlan

THRESHOLD_TIMER: Final = "purchase-order"
"""Kind of the timers of contracts with a purchase order limit, due on the day that the next threshold is reached."""

NEAR_BP: Final = 8_000
"""Share of the limit from which on the purchase order is NEAR."""
THRESHOLDS_BP: Final = (NEAR_BP, BP)


class PurchaseOrderState(StrEnum):
    """PurchaseOrderUse.State."""

    OK = "OK"
    NEAR = "NEAR"
    EXCEEDED = "EXCEEDED"


@dataclass(frozen=True, slots=True)
class PurchaseOrderUse:
    """How much of a purchase order is used on a day."""

    used: Money
    """The fees that have fallen due, including those of the day."""
    remaining: Money
    """Below zero if the fees exceed the limit."""
    state: PurchaseOrderState
    exceed_date: date | None
    """The day on which the fees exceed the limit; None: never."""


def compute_use(plan: FeePlan, limit: Money, today: date) -> PurchaseOrderUse:
    """Return how much of a purchase order with this limit is used today."""
    used = domain.fees.total_due(plan, today + timedelta(days=1))
    state = PurchaseOrderState.OK
    if limit < used:
        state = PurchaseOrderState.EXCEEDED
    elif _threshold_amount(limit, NEAR_BP) <= used:
        state = PurchaseOrderState.NEAR
    exceed_date = domain.fees.date_reached(plan, _threshold_amount(limit, BP))
    return PurchaseOrderUse(used, limit - used, state, exceed_date)


def threshold_dates(plan: FeePlan, limit: Money) -> Mapping[int, date]:
    """Return the day on which the fees reach each threshold, in basis points; without those never reached."""
    dates = {bp: domain.fees.date_reached(plan, _threshold_amount(limit, bp)) for bp in THRESHOLDS_BP}
    return {bp: day for bp, day in dates.items() if day}


def _threshold_amount(limit: Money, threshold_bp: int) -> Money:
    """Return the smallest amount that reaches a threshold; the limit itself must be exceeded."""
    if threshold_bp == BP:
        return Money(limit.amount + unit(limit.currency), limit.currency)
    return Money(limit.amount * threshold_bp / BP, limit.currency)
