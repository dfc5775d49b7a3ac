"""Forecast warnings: when a forecast raises an alert, and the explanation of a forecast in words."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Final

from services.budgets.domain.balances import LARGEST, ZERO, Balance
from services.budgets.domain.forecast import Forecast, ForecastInput, Method

WARNING_DAYS_MIN: Final = 7
"""Fewest observed days for a warning. With fewer, a single invoice would count as the spend of every day."""

_METHOD_TEXTS: Final = {
    Method.PLAN: "There is no spend yet, so this is the budget itself.",
    Method.RUN_RATE: "It assumes the same spend as so far.",
    Method.LEVEL: "It assumes the usual daily spend of recent weeks.",
    Method.TREND: "It assumes the usual daily spend of recent weeks and a slowing trend.",
    Method.LEVEL_AND_MONTH_DAYS: (
        "It assumes the usual daily spend of recent weeks, and large amounts on the same days of the month as before."
    ),
    Method.TREND_AND_MONTH_DAYS: (
        "It assumes the usual daily spend of recent weeks, a slowing trend, and large amounts on the same days of the"
        " month as before."
    ),
    Method.MONTH_DAYS: "It assumes the same spend as on the same days of earlier months.",
}


@dataclass(frozen=True, slots=True)
class ForecastResult:
    """The forecast of a budget, with the balance and the input that it was computed from."""

    balance: Balance
    input: ForecastInput
    forecast: Forecast


def expected(forecast: Forecast) -> Decimal:
    """Return the expected spend, at most the largest amount that can be stored."""
    return min(forecast.expected, LARGEST)


def warns(balance: Balance, forecast: Forecast) -> bool:
    """True if more than the budget is expected to be spent by the end of the period, based on enough days."""
    return forecast.days_observed >= WARNING_DAYS_MIN and forecast.expected > max(balance.total, ZERO)


def explain(result: ForecastResult) -> str:
    """Return the forecast in words."""
    balance, forecast = result.balance, result.forecast
    total, spend = balance.money(balance.total), balance.money(expected(forecast))
    last_day = result.input.end - timedelta(days=1)
    share = f", {Decimal(balance.share_bp(spend.amount)) / 100:f} % of {total}" if balance.total > 0 else ""
    if forecast.method is Method.ACTUAL:
        return f"{spend} were spent until {last_day}{share}."
    low, high = balance.money(min(forecast.low, LARGEST)), balance.money(min(forecast.high, LARGEST))
    sentences = [
        f"{spend} are expected to be spent until {last_day}{share}.",
        f"With a probability of 80 % it is between {low} and {high}.",
        _exhaustion(result.input, forecast),
        _METHOD_TEXTS[forecast.method],
    ]
    return " ".join(sentences)


def _exhaustion(forecast_input: ForecastInput, forecast: Forecast) -> str:
    day = forecast.runs_out_on
    if day is None:
        return "The budget is sufficient."
    if day < forecast_input.today:
        return f"The budget has been overspent since {day}."
    return f"The budget will be exhausted on {day}."
