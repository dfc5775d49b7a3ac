"""Errors of currency conversion."""

from kit.errors import FailedPrecondition
from kit.money import Money


class AmountTooSmall(FailedPrecondition):
    reason = "AMOUNT_TOO_SMALL"

    def __init__(self, amount: Money, currency: str) -> None:
        super().__init__(
            f"Converted to {currency}, {amount} is less than the smallest unit.",
            amount=amount.text(),
            given=amount.currency,
            currency_code=currency,
        )
