"""The calendar of budgets: which days a period has, and between which moments it lies."""

from calendar import monthrange
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Final
from zoneinfo import ZoneInfo

from services.budgets.domain.budgets import PeriodType

_MONTHS: Final[Mapping[PeriodType, int]] = {PeriodType.MONTHLY: 1, PeriodType.QUARTERLY: 3, PeriodType.ANNUAL: 12}


@dataclass(frozen=True, slots=True)
class Period:
    """The days from `start` up to, and without, `end`; `number` counts from the anchor, the first being 0."""

    number: int
    start: date
    end: date


def period_of(period_type: PeriodType, anchor: date, number: int) -> Period:
    """The period with this number; those before the anchor have numbers below 0.

    Both ends are the anchor's day of their month, or that month's last day where it is shorter: an anchor of 31 January
    gives 28 February and then 31 March again. Raises ValueError for CUSTOM, which repeats nothing, and after year 9999.
    """
    months = _months(period_type)
    return Period(number, _months_later(anchor, number * months), _months_later(anchor, (number + 1) * months))


def period_containing(period_type: PeriodType, anchor: date, day: date) -> Period:
    """The period in which `day` is; raises as `period_of`."""
    months = _months(period_type)
    number = ((day.year - anchor.year) * 12 + day.month - anchor.month) // months
    starts_later_that_month = _months_later(anchor, number * months) > day
    return period_of(period_type, anchor, number - 1 if starts_later_that_month else number)


def fiscal_start(period_type: PeriodType, fiscal_year_start_month: int, day: date) -> date:
    """The first day of the month, or of the fiscal quarter or year, in which `day` is; raises ValueError for CUSTOM."""
    into = (day.month - fiscal_year_start_month) % _months(period_type)
    return _months_later(day.replace(day=1), -into)


def bounds(period: Period, time_zone: str) -> tuple[datetime, datetime]:
    """The moments between which the period lies in the zone, UTC: from the first up to, and without, the second.

    A day begins at its first midnight; where a change of clocks skips midnight, or the whole day, at the change.
    Raises ZoneInfoNotFoundError for an unknown zone.
    """
    return _day_start(period.start, time_zone), _day_start(period.end, time_zone)


def _day_start(day: date, time_zone: str) -> datetime:
    return datetime.combine(day, time.min, ZoneInfo(time_zone)).astimezone(UTC)


def _months(period_type: PeriodType) -> int:
    if period_type not in _MONTHS:
        raise ValueError(f"a {period_type} period has no length of its own")
    return _MONTHS[period_type]


def _months_later(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return day.replace(year=year, month=month + 1, day=min(day.day, monthrange(year, month + 1)[1]))
