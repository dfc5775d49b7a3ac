"""Proration by days with exact rounding: the parts of a fee always sum to the whole fee."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from math import floor

from kit.money import BP, Money, unit


@dataclass(frozen=True, slots=True)
class DateRange:
    """The half-open range [start, end) of days; empty if `end` is not after `start`."""

    start: date
    end: date

    @property
    def days(self) -> int:
        """The number of days in the range."""
        return max((self.end - self.start).days, 0)

    def before(self, day: date) -> "DateRange":
        """Return the part of the range before `day`."""
        return DateRange(self.start, min(self.end, day))

    def intersection(self, other: "DateRange") -> "DateRange":
        """Return the days that are in both ranges."""
        return DateRange(max(self.start, other.start), min(self.end, other.end))


@dataclass(frozen=True, slots=True)
class FeeInterval:
    """Days of a billing period on which one fee applies; `fee` is that of the full period."""

    dates: DateRange
    fee: Decimal


def round_exact(exact: Fraction, currency: str) -> Money:
    """Round to the smallest unit of the currency, half to even."""
    smallest = unit(currency)
    return Money(round(exact / Fraction(smallest)) * smallest, currency)


def round_down(exact: Fraction, currency: str) -> Money:
    """Round towards negative infinity to the smallest unit of the currency."""
    smallest = unit(currency)
    return Money(floor(exact / Fraction(smallest)) * smallest, currency)


def accrued(intervals: Iterable[FeeInterval], full_period: DateRange, until: date, currency: str) -> Money:
    """Return the fees of a billing period that are earned before `until`, rounded once.

    The running total is rounded and not each part: the amount for days in between is the difference of two running
    totals. So the parts sum to the whole fee, however the period is divided.
    """
    by_days = (Fraction(interval.fee) * interval.dates.before(until).days for interval in intervals)
    return round_exact(sum(by_days, Fraction(0)) / full_period.days, currency)


def uplift(fee: Money, uplift_bp: int) -> Money:
    """Return the fee raised by `uplift_bp` basis points (lowered if negative), rounded half to even."""
    return round_exact(Fraction(fee.amount) * (BP + uplift_bp) / BP, fee.currency)
