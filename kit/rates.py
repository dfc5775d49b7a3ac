"""Exchange rates: conversion of amounts, and its errors, for every service that converts amounts."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Final

from kit.errors import FailedPrecondition
from kit.money import DIGITS_MAX, Money

RATE_AGE_DAYS_MAX: Final = 35
"""Days that a rate stays effective after its date: bridges the time between monthly rates."""


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
            f" currencies; set one and try again. A rate is effective for at most {RATE_AGE_DAYS_MAX} days after its"
            " date.",
            from_currency_code=currency,
            to_currency_code=to,
            rate_date=on,
        )


class AmountTooLarge(FailedPrecondition):
    """The converted amount has more digits than Money may have."""

    reason = "AMOUNT_TOO_LARGE"

    def __init__(self, amount: Money, currency: str, rate: Rate) -> None:
        super().__init__(
            f"Converted to {currency} at the rate {rate.rate.normalize():f} of {rate.rate_date}, {amount} has more than"
            f" {DIGITS_MAX} digits before the decimal point; check the rate.",
            amount=amount.text(),
            from_currency_code=amount.currency,
            to_currency_code=currency,
            rate_date=rate.rate_date,
        )


def convert(amount: Money, currency: str, rate: Rate) -> Money:
    """Return the amount in another currency, rounded half to even to its unit; may be zero. Raises AmountTooLarge."""
    converted = amount.at_rate(rate.rate, currency)
    check_size(amount, converted, rate)
    return converted


def check_size(amount: Money, converted: Money, rate: Rate) -> None:
    """Raise AmountTooLarge if the converted amount has more digits than Money may have."""
    if converted.amount.adjusted() >= DIGITS_MAX:
        raise AmountTooLarge(amount, converted.currency, rate)
