"""Exchange rates: input types, and the rate between two currencies on a day."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import StrEnum
from fractions import Fraction
from itertools import pairwise, product
from typing import Final, TypeAlias

RATE_DIGITS: Final = 18
"""Significant digits of a derived rate: enough for the largest amount in Money to be exact to the cent."""
_DIVISION: Final = Context(prec=RATE_DIGITS, rounding=ROUND_HALF_EVEN)
_PREFERRED_VIAS: Final = ("EUR", "USD")
"""Intermediate currencies of a cross rate that are tried after the tenant's base currency and before all others."""


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

    @property
    def pair(self) -> Pair:
        """Base and quote currency."""
        return self.base_currency, self.quote_currency

    @property
    def opposite_pair(self) -> Pair:
        """Quote and base currency."""
        return self.quote_currency, self.base_currency


@dataclass(frozen=True, slots=True)
class DerivedRate:
    """The rate between two currencies on a day, and how it was derived."""

    derivation: Derivation
    rate: Decimal
    effective_date: date
    via: tuple[str, ...] = ()
    """The currencies that a cross rate goes through, in order from the source to the target; empty otherwise."""


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


def derive(conversion: Conversion, quotes: Mapping[Pair, Quote], base: str = "") -> DerivedRate | None:
    """Return the rate of a conversion from the quotes that are effective on its day; None if there is none.

    In order of preference: the same currency, the pair, its inverse, a cross rate through one currency. A cross rate
    goes through `base`, the base currency of the tenant, through EUR, through USD, or through the alphabetically first
    currency. Derived rates are exact and rounded once, half to even, to RATE_DIGITS.
    """
    source, target = conversion.source, conversion.target
    if source == target:
        return DerivedRate(Derivation.SAME, Decimal(1), conversion.day)
    if (source, target) in quotes:
        quote = quotes[source, target]
        return DerivedRate(Derivation.DIRECT, quote.rate, quote.effective_date)
    inverse = _leg(source, target, quotes)
    if inverse:
        return DerivedRate(Derivation.INVERSE, round_rate(inverse[0]), inverse[1])
    rates = (_cross(conversion, (via,), quotes) for via in _vias(quotes, base))
    return next((rate for rate in rates if rate), None)


def derive_through_two(conversion: Conversion, quotes: Mapping[Pair, Quote], base: str = "") -> DerivedRate | None:
    """Return the cross rate of a conversion through two currencies; None if there is none.

    For conversions without a rate by `derive`; `quotes` has all pairs. Of several paths, the one with the most
    preferred currency is used, in the order of `derive`; the opposite conversion takes the same path.
    """
    neighbours: dict[str, set[str]] = {}
    for one, other in quotes:
        neighbours.setdefault(one, set()).add(other)
        neighbours.setdefault(other, set()).add(one)
    ranks = {currency: rank for rank, currency in enumerate(_vias(quotes, base))}
    paths = product(neighbours.get(conversion.source, ()), neighbours.get(conversion.target, ()))

    def preference(path: tuple[str, ...]) -> tuple[Sequence[int], int]:
        low_end = 0 if conversion.source < conversion.target else -1
        return sorted(ranks[via] for via in path), ranks[path[low_end]]

    rates = (_cross(conversion, path, quotes) for path in sorted(paths, key=preference))
    return next((rate for rate in rates if rate), None)


def _cross(conversion: Conversion, via: tuple[str, ...], quotes: Mapping[Pair, Quote]) -> DerivedRate | None:
    """Return the product of the rates along a path of currencies; None if one is missing."""
    rate, since = Fraction(1), date.min
    for source, target in pairwise((conversion.source, *via, conversion.target)):
        leg = _leg(source, target, quotes)
        if leg is None:
            return None
        rate, since = rate * leg[0], max(since, leg[1])
    return DerivedRate(Derivation.CROSS, round_rate(rate), since, via)


def _leg(source: str, target: str, quotes: Mapping[Pair, Quote]) -> tuple[Fraction, date] | None:
    """Return the exact rate of a pair, or of its inverse, and its date."""
    direct, inverse = quotes.get((source, target)), quotes.get((target, source))
    if direct:
        return Fraction(direct.rate), direct.effective_date
    return (1 / Fraction(inverse.rate), inverse.effective_date) if inverse else None


def _vias(quotes: Mapping[Pair, Quote], base: str) -> Iterator[str]:
    """Yield the currencies that a cross rate can go through, in order of preference."""
    preferred = dict.fromkeys((*filter(None, [base]), *_PREFERRED_VIAS))
    yield from preferred
    yield from sorted({currency for pair in quotes for currency in pair}.difference(preferred))


def round_rate(rate: Fraction) -> Decimal:
    """Round half to even to RATE_DIGITS."""
    return _DIVISION.divide(Decimal(rate.numerator), Decimal(rate.denominator))
