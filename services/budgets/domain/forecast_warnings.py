"""What a forecast means for a budget: whether somebody should be warned, and how it reads. Pure."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Final

from services.budgets.domain.balances import LARGEST, ZERO, Balance
from services.budgets.domain.forecast import Forecast, ForecastInput, Method

WARNS_AFTER_DAYS: Final = 7
"""With less than a week of days the weekdays are not known, and one invoice would warn of a year full of them."""

_WAYS: Final = {
    Method.PLAN: "No spend is known yet, so this is what there is to use.",
    Method.RUN_RATE: "It goes on as it did so far.",
    Method.LEVEL: "It goes on as on the usual days of late.",
    Method.TREND: "It goes on as on the usual days of late, changing as it did, ever less.",
    Method.LEVEL_AND_MONTH_DAYS: (
        "It goes on as on the usual days of late, with large amounts on the same days of the month as before."
    ),
    Method.TREND_AND_MONTH_DAYS: (
        "It goes on as on the usual days of late, changing as it did, ever less, with large amounts on the same days of"
        " the month as before."
    ),
    Method.MONTH_DAYS: "It goes on as on the same days of earlier months.",
}


def expected(forecast: Forecast) -> Decimal:
    """What will be spent, at most what a balance can hold."""
    return min(forecast.expected, LARGEST)


def warns(balance: Balance, forecast: Forecast) -> bool:
    """Whether the budget is expected to be overspent when its period ends, and enough days say so."""
    return forecast.days_observed >= WARNS_AFTER_DAYS and forecast.expected > max(balance.total, ZERO)


def explain(balance: Balance, course: ForecastInput, forecast: Forecast) -> str:
    """The forecast in words."""
    total, spent = balance.money(balance.total), balance.money(expected(forecast))
    last = course.end - timedelta(days=1)
    share = f", {Decimal(balance.share_bp(spent.amount)) / 100:f} % of {total}" if balance.total > 0 else ""
    if forecast.method is Method.ACTUAL:
        return f"{spent} were spent until {last}{share}."
    low, high = balance.money(min(forecast.low, LARGEST)), balance.money(min(forecast.high, LARGEST))
    sentences = [
        f"{spent} are expected to be spent until {last}{share}; in four cases of five it is {low} to {high}.",
        _runs_out(course, forecast),
        _WAYS[forecast.method],
    ]
    return " ".join(sentences)


def _runs_out(course: ForecastInput, forecast: Forecast) -> str:
    day = forecast.runs_out_on
    if day is None:
        return "The budget suffices."
    return f"The budget runs out on {day}." if day >= course.today else f"The budget has been overspent since {day}."


@dataclass(frozen=True, slots=True)
class ForecastResult:
    """A budget, and what will become of it."""

    balance: Balance
    course: ForecastInput
    forecast: Forecast
