"""Exchange rate and its error, for every service that converts amounts."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from kit.errors import FailedPrecondition


@dataclass(frozen=True, slots=True)
class Rate:
    """The price of one unit of a currency in another currency."""

    rate: Decimal
    rate_date: date
    """The day from which the rate is effective."""


class RateMissing(FailedPrecondition):
    """No rate between the currencies is stored, or derived through up to two other currencies, for the day."""

    reason = "RATE_MISSING"

    def __init__(self, currency: str, *, to: str, on: date) -> None:
        super().__init__(
            f"No exchange rate from {currency} to {to} for {on} is stored, or can be derived through one or two other"
            " currencies; set one and try again.",
            from_currency_code=currency,
            to_currency_code=to,
            rate_date=on,
        )
