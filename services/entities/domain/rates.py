"""Exchange rates: input types, and the rate between two currencies on a day."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Final, TypeAlias

RATE_AGE_DAYS_MAX: Final = 35
"""Days that a rate stays effective after its date: bridges the time between monthly rates."""
RATE_DIGITS: Final = 18
"""Significant digits of a derived rate: enough for the largest amount in Money to be exact to the cent."""
_DIVISION: Final = Context(prec=RATE_DIGITS, rounding=ROUND_HALF_EVEN)
_PREFERRED_VIAS: Final = ("EUR", "USD")
"""Currencies that are tried before all others as the intermediate currency of a cross rate."""


class Derivation(StrEnum):
    """ConversionRate.Derivation."""

    SAME = "SAME"
    DIRECT = "DIRECT"
    INVERSE = "INVERSE"
    CROSS = "CROSS"
    MISSING = "MISSING"


Pair: TypeAlias = tuple[str, str]
"""Base and quote currency: a rate is the price of one unit of the base in the quote currency."""


@dataclass(frozen=True, slots=True)
class Quote:
    """A stored rate of a pair."""

    rate: Decimal
    effective_date: date


@dataclass(frozen=True, slots=True, kw_only=True)
class RateDraft:
    """Input for an exchange rate."""

    base_currency: str
    quote_currency: str
    effective_date: date
    rate: Decimal
    source: str


@dataclass(frozen=True, slots=True)
class DerivedRate:
    """The rate between two currencies on a day, and how it was derived."""

    derivation: Derivation
    rate: Decimal
    effective_date: date
    via: str = ""
    """The currency that a cross rate goes through; empty otherwise."""


@dataclass(frozen=True, slots=True)
class RateFilter:
    """Filters of a list of exchange rates; None or empty text does not filter."""

    base_currency: str = ""
    quote_currency: str = ""
    start: date | None = None
    end: date | None = None
    """First day after the period."""


@dataclass(frozen=True, slots=True)
class RateCounts:
    """How many rates of a request were created, replaced, or already stored."""

    created: int
    replaced: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class Conversion:
    """A conversion between two currencies on a day."""

    source: str
    target: str
    day: date


def derive(conversion: Conversion, quotes: Mapping[Pair, Quote]) -> DerivedRate | None:
    """Return the rate of a conversion from the quotes that are effective on its day; None if there is none.

    In order of preference: the same currency, the pair, its inverse, a cross rate through EUR, through USD, or through
    the alphabetically first currency. Derived rates are exact and rounded once, half to even, to RATE_DIGITS.
    """
    source, target = conversion.source, conversion.target
    if source == target:
        return DerivedRate(Derivation.SAME, Decimal(1), conversion.day)
    if (source, target) in quotes:
        quote = quotes[source, target]
        return DerivedRate(Derivation.DIRECT, quote.rate, quote.effective_date)
    inverse = _leg(source, target, quotes)
    if inverse:
        return DerivedRate(Derivation.INVERSE, _rounded(inverse[0]), inverse[1])
    for via in _vias(quotes):
        first, second = _leg(source, via, quotes), _leg(via, target, quotes)
        if first and second:
            rate, since = _rounded(first[0] * second[0]), max(first[1], second[1])
            return DerivedRate(Derivation.CROSS, rate, since, via)
    return None


def _leg(source: str, target: str, quotes: Mapping[Pair, Quote]) -> tuple[Fraction, date] | None:
    """Return the exact rate of a pair, or of its inverse, and its date."""
    direct, inverse = quotes.get((source, target)), quotes.get((target, source))
    if direct:
        return Fraction(direct.rate), direct.effective_date
    return (1 / Fraction(inverse.rate), inverse.effective_date) if inverse else None


def _vias(quotes: Mapping[Pair, Quote]) -> Iterator[str]:
    """Yield the currencies that a cross rate can go through, in order of preference."""
    yield from _PREFERRED_VIAS
    yield from sorted({currency for pair in quotes for currency in pair}.difference(_PREFERRED_VIAS))


def _rounded(rate: Fraction) -> Decimal:
    return _DIVISION.divide(Decimal(rate.numerator), Decimal(rate.denominator))
