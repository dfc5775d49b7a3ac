"""Which exchange rate holds between two currencies on a day."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Final, TypeAlias

RATE_AGE_DAYS_MAX: Final = 35
"""On so many days after its date a rate is still effective: a month's rate until the next, with a few days to spare."""
RATE_DIGITS: Final = 18
"""Significant digits of a rate that is worked out: enough that no cent of the largest amount in Money moves."""
_DIVISION: Final = Context(prec=RATE_DIGITS, rounding=ROUND_HALF_EVEN)
_VIAS_FIRST: Final = ("EUR", "USD")
"""Over which currency a rate is worked out rather than over others."""


class Derivation(StrEnum):
    """ConversionRate.Derivation."""

    SAME = "SAME"
    DIRECT = "DIRECT"
    INVERSE = "INVERSE"
    CROSS = "CROSS"
    MISSING = "MISSING"


Pair: TypeAlias = tuple[str, str]
"""Base and quote currency: what one unit of the first costs in the second."""


@dataclass(frozen=True, slots=True)
class Quote:
    """A rate as it is recorded for a pair."""

    rate: Decimal
    effective_date: date


@dataclass(frozen=True, slots=True, kw_only=True)
class RateDraft:
    """An exchange rate as it is to be recorded."""

    base_currency: str
    quote_currency: str
    effective_date: date
    rate: Decimal
    source: str


@dataclass(frozen=True, slots=True)
class DerivedRate:
    """The rate that holds between two currencies on a day."""

    derivation: Derivation
    rate: Decimal
    effective_date: date
    via: str = ""
    """The currency between the two; empty where it is not a cross rate."""


def derive(source: str, target: str, day: date, quotes: Mapping[Pair, Quote]) -> DerivedRate | None:
    """What one unit of `source` is in `target`, out of the quotes that are effective on `day`; None: not to be had.

    The same currency, else the pair itself, else its inverse, else a cross rate over one currency: EUR, else USD, else
    the first in the alphabet. What is worked out is exact until it is rounded once, half to even, to RATE_DIGITS.
    """
    if source == target:
        return DerivedRate(Derivation.SAME, Decimal(1), day)
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
    """The exact rate and its day, by the pair itself or its inverse."""
    direct, inverse = quotes.get((source, target)), quotes.get((target, source))
    if direct:
        return Fraction(direct.rate), direct.effective_date
    return (1 / Fraction(inverse.rate), inverse.effective_date) if inverse else None


def _vias(quotes: Mapping[Pair, Quote]) -> Iterator[str]:
    """Every currency over which a rate may go, in the order in which they are tried."""
    yield from _VIAS_FIRST
    yield from sorted({currency for pair in quotes for currency in pair}.difference(_VIAS_FIRST))


def _rounded(rate: Fraction) -> Decimal:
    return _DIVISION.divide(Decimal(rate.numerator), Decimal(rate.denominator))
