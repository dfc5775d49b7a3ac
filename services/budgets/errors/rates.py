"""Errors of currency conversion."""

from kit.errors import FailedPrecondition
from kit.money import DIGITS_MAX, Money
from kit.rates import Rate


class AmountTooLarge(FailedPrecondition):
    reason = "AMOUNT_TOO_LARGE"

    def __init__(self, amount: Money, currency: str, rate: Rate) -> None:
        super().__init__(
            f"Converted to {currency} at the rate {rate.rate:f} of {rate.rate_date}, {amount} has more than"
            f" {DIGITS_MAX} digits before the decimal point; check the rate.",
            amount=amount.text(),
            from_currency_code=amount.currency,
            to_currency_code=currency,
            rate_date=rate.rate_date,
        )


class AmountTooSmall(FailedPrecondition):
    reason = "AMOUNT_TOO_SMALL"

    def __init__(self, amount: Money, currency: str) -> None:
        super().__init__(
            f"Converted to {currency}, {amount} is less than the smallest unit.",
            amount=amount.text(),
            given=amount.currency,
            currency_code=currency,
        )
