"""Money: an exact decimal amount in one currency."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from functools import lru_cache
from math import floor

import iso4217

DIGITS_MAX = 13
"""Maximum digits before the point. NUMERIC(20,6) has one more, so that sums of amounts still fit."""

_PLAIN = re.compile(r"-?[0-9]+(\.[0-9]+)?")  # Decimal also accepts 1e3, 1_000, NaN and the digits of all scripts

_UNITS = [Decimal(1).scaleb(-places) for places in range(7)]
_EXACT = Context(prec=80, rounding=ROUND_HALF_EVEN)
"""Precise enough for the product of two amounts, divided by a third one, to be rounded correctly."""
BP = 10_000
"""Basis points of the whole: 10,000 bp = 100 %."""


@lru_cache(maxsize=512)
def exponent(currency: str) -> int | None:
    """Return the decimal places of the currency by ISO 4217 (EUR 2, JPY 0, BHD 3); None for an unknown code."""
    try:
        return iso4217.Currency(currency).exponent
    except ValueError:
        return None


@lru_cache(maxsize=512)
def unit(currency: str) -> Decimal:
    """Return the smallest amount of the currency: 0.01 for EUR, 1 for JPY; 1 for an unknown code."""
    return _UNITS[exponent(currency) or 0]


def round_to(amount: Decimal, currency: str, rounding: str = ROUND_HALF_EVEN) -> Decimal:
    """Round `amount` to the smallest unit of the currency. Never returns a negative zero."""
    return _EXACT.add(amount.quantize(unit(currency), rounding, _EXACT), 0)  # adding 0 turns -0 into 0


def apportion(exact: Sequence[Fraction]) -> list[int]:
    """Round numbers to integers that sum to their rounded sum, by the largest-remainder method.

    The sum is rounded half to even. Each number is rounded down; the remaining units go one each to the numbers with
    the largest remainders, the first ones if equal. So each differs by less than one from the exact number, and
    integers stay as they are.
    """
    integers = [floor(number) for number in exact]
    rest = round(sum(exact, Fraction(0))) - sum(integers)
    by_remainder = sorted(range(len(exact)), key=lambda index: integers[index] - exact[index]) if rest else []
    for index in by_remainder[:rest]:
        integers[index] += 1
    return integers


def round_together(amounts: Sequence[Fraction], currency: str) -> list[Decimal]:
    """Round exact amounts to the unit of the currency so that they sum to their rounded total; see `apportion`."""
    step = unit(currency)
    return [_EXACT.multiply(Decimal(units), step) for units in apportion([each / Fraction(step) for each in amounts])]


def amount_text(amount: Decimal, currency: str) -> str:
    """Return the amount with the decimal places of its currency, "1250.00"; with more if it has more."""
    exact = round_to(amount, currency)
    return str(exact) if exact == amount else f"{amount.normalize():f}"


@lru_cache(maxsize=4096)
def plain_text(amount: str, currency: str) -> str:
    """Return the text that all equal amounts have: "10.00" for "10.0" and "010"; an invalid amount unchanged."""
    return amount if invalid_reason(amount, currency) else amount_text(Decimal(amount), currency)


@lru_cache(maxsize=4096)
def plain_number(text: str) -> str:
    """Return the text that all equal decimal numbers have: "1.1" for "01.10"; an invalid number unchanged."""
    return f"{Decimal(text).normalize():f}" if _PLAIN.fullmatch(text) else text


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in one currency. Arithmetic and comparison with another currency raise ValueError."""

    amount: Decimal
    currency: str

    @classmethod
    def parse(cls, amount: str, currency: str) -> "Money":
        """Parse amount and currency code. Raises ValueError with the reason if one is invalid."""
        invalid = invalid_reason(amount, currency)
        if invalid:
            raise ValueError(invalid[1])
        return cls(Decimal(amount), currency)

    @classmethod
    def zero(cls, currency: str) -> "Money":
        """Return zero in `currency`."""
        return cls(Decimal(0), currency)

    def text(self) -> str:
        """Format the amount with the decimal places of its currency, "1250.00"; with more if it has more."""
        return amount_text(self.amount, self.currency)

    def share(self, bp: int) -> "Money":
        """Return `bp` basis points of the amount, rounded down to the smallest unit of the currency."""
        return Money(round_to(self.amount * bp / BP, self.currency, ROUND_FLOOR), self.currency)

    def pro_rata(self, part: Decimal, of: Decimal) -> "Money":
        """Return the same proportion of this amount as `part` is of `of`, rounded half to even to the unit."""
        return _rounded(_EXACT.divide(_EXACT.multiply(self.amount, part), of), self.currency)

    def at_rate(self, rate: Decimal, currency: str) -> "Money":
        """Return this amount in another currency at a rate of any size, rounded once: half to even, to the unit."""
        return _rounded(_EXACT.multiply(self.amount, rate), currency)

    def __add__(self, other: "Money") -> "Money":
        self._check_currency(other)
        return Money(self.amount + other.amount, self.currency)

    def __sub__(self, other: "Money") -> "Money":
        self._check_currency(other)
        return Money(self.amount - other.amount, self.currency)

    def __neg__(self) -> "Money":
        return Money(-self.amount, self.currency)

    def __lt__(self, other: "Money") -> bool:
        self._check_currency(other)
        return self.amount < other.amount

    def __le__(self, other: "Money") -> bool:
        self._check_currency(other)
        return self.amount <= other.amount

    def __str__(self) -> str:
        return f"{self.text()} {self.currency}"

    def _check_currency(self, other: "Money") -> None:
        if self.currency != other.currency:
            raise ValueError(f"{self.currency} and {other.currency} are different currencies")


def _rounded(exact: Decimal, currency: str) -> Money:
    return Money(exact.quantize(unit(currency), ROUND_HALF_EVEN, _EXACT) + 0, currency)


def invalid_reason(amount: str, currency: str) -> tuple[str, str] | None:
    """Return the invalid field (`amount` or `currency_code`) and the reason; None if both are valid."""
    places = exponent(currency)
    if places is None:
        return "currency_code", f"must be an ISO 4217 currency code such as EUR, not {currency!r}"
    if not _PLAIN.fullmatch(amount):
        return "amount", f'must be a decimal number as a string, such as "1250.00", not {amount!r}'
    decimals = len(amount.partition(".")[2])
    if decimals > places:
        return "amount", f"has {decimals} decimal places; {currency} has {places}"
    if Decimal(amount).adjusted() >= DIGITS_MAX:
        return "amount", f"may have at most {DIGITS_MAX} digits before the point"
    return None
