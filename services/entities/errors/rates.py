"""Errors of exchange rates."""

from datetime import date
from decimal import Decimal
from typing import Protocol

from kit.errors import FailedPrecondition


class _Rate(Protocol):
    """A rate of a pair that is effective from a day on."""

    @property
    def rate(self) -> Decimal: ...
    @property
    def effective_date(self) -> date: ...


class RateChangeTooLarge(FailedPrecondition):
    reason = "RATE_CHANGE_TOO_LARGE"

    def __init__(self, pair: tuple[str, str], rate: _Rate, last: _Rate, limit: int) -> None:
        """`last` is the rate that `rate` is compared with."""
        base, quote = pair
        side = f"more than {limit} times" if rate.rate > last.rate else f"less than 1/{limit} of"
        super().__init__(
            f"The rate {base}/{quote} {_text(rate)} is {side} the rate {_text(last)}. Correct it, or set"
            " confirm_large_change to true to store it.",
            base_currency=base,
            quote_currency=quote,
            effective_date=rate.effective_date,
            rate=_digits(rate.rate),
            last_effective_date=last.effective_date,
            last_rate=_digits(last.rate),
        )


class RatesContradict(FailedPrecondition):
    reason = "RATES_CONTRADICT"

    def __init__(self, pair: tuple[str, str], rate: _Rate, opposite: _Rate, percent: int) -> None:
        base, quote = pair
        super().__init__(
            f"The rates {base}/{quote} {_text(rate)} and {quote}/{base} {_text(opposite)} contradict each other: their"
            f" product must be 1, with a tolerance of {percent} %. Set both rates in one request, or only one of them;"
            " the opposite rate is derived.",
            base_currency=base,
            quote_currency=quote,
            effective_date=rate.effective_date,
            rate=_digits(rate.rate),
            opposite_effective_date=opposite.effective_date,
            opposite_rate=_digits(opposite.rate),
        )


def _text(rate: _Rate) -> str:
    return f"{_digits(rate.rate)} of {rate.effective_date}"


def _digits(rate: Decimal) -> str:
    """Return the rate without trailing zeros."""
    return f"{rate.normalize():f}"
