"""Parts of a fee by days, exact to the smallest unit of the currency: the parts of a whole always sum to the whole."""

from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from math import floor

from kit.money import BP, Money, exponent


@dataclass(frozen=True, slots=True)
class Days:
    """The days from `start` up to, and without, `end`; none where `end` is not after `start`."""

    start: date
    end: date

    @property
    def count(self) -> int:
        """How many days they are."""
        return max((self.end - self.start).days, 0)

    def before(self, day: date) -> "Days":
        """Those of the days that lie before `day`."""
        return Days(self.start, min(self.end, day))

    def shared(self, other: "Days") -> "Days":
        """The days that both have."""
        return Days(max(self.start, other.start), min(self.end, other.end))


@dataclass(frozen=True, slots=True)
class Stretch:
    """Days on which a fee holds, as it is for the whole of a period."""

    days: Days
    fee: Decimal


def months_later(day: date, months: int) -> date:
    """The same day of the month so many months later, or that month's last day where it is shorter."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return day.replace(year=year, month=month + 1, day=min(day.day, monthrange(year, month + 1)[1]))


def rounded(exact: Fraction, currency: str) -> Money:
    """The amount to the smallest unit of the currency, half to even."""
    places = exponent(currency) or 0
    return Money(Decimal(round(exact * 10**places)).scaleb(-places), currency)


def rounded_down(exact: Fraction, currency: str) -> Money:
    """The amount to the smallest unit of the currency, towards the smaller."""
    places = exponent(currency) or 0
    return Money(Decimal(floor(exact * 10**places)).scaleb(-places), currency)


def accrued(stretches: Iterable[Stretch], whole: Days, until: date, currency: str) -> Money:
    """What the days before `until` make of fees that are each for `whole`, rounded once.

    Amounts up to one day and up to another differ by what is for the days between them. So it is the running total
    that is rounded and no part by itself: wherever a period is cut, its parts sum to the whole.
    """
    of_days = (Fraction(stretch.fee) * stretch.days.before(until).count for stretch in stretches)
    return rounded(sum(of_days, Fraction(0)) / whole.count, currency)


def prorate(fee: Money, part: Days, whole: Days) -> Money:
    """What of the fee for `whole` is for those of its days that `part` has."""
    stretches, shared = [Stretch(whole, fee.amount)], part.shared(whole)
    if not shared.count:
        return Money.zero(fee.currency)
    until_end, until_start = (accrued(stretches, whole, day, fee.currency) for day in (shared.end, shared.start))
    return until_end - until_start


def uplifted(fee: Money, uplift_bp: int) -> Money:
    """The fee with so many basis points on top, or off where they are below 0; rounded half to even."""
    return rounded(Fraction(fee.amount) * (BP + uplift_bp) / BP, fee.currency)
