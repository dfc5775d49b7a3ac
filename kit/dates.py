"""Calendar arithmetic on days and time zones. Pure: nothing here reads the clock."""

from calendar import monthrange
from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo


def months_later(day: date, months: int, anchor_day: int | None = None) -> date:
    """Return the same day of the month `months` later (earlier if negative), or that month's last day if shorter.

    With `anchor_day` it is that day of the month: 30 November with the anchor day 31 is followed by 31 December.
    Raises ValueError outside the years 1 to 9999.
    """
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return on_anchor_day(date(year, month + 1, 1), anchor_day or day.day)


def on_anchor_day(day: date, anchor_day: int) -> date:
    """Return `anchor_day` of the month of `day`, or that month's last day if it is shorter."""
    return day.replace(day=min(anchor_day, monthrange(day.year, day.month)[1]))


def day_start(day: date, time_zone: str) -> datetime:
    """Return the moment at which `day` begins in the time zone, in UTC.

    That is its first midnight; if a clock change skips midnight or the whole day, the moment of that change.
    Raises ZoneInfoNotFoundError for an unknown zone.
    """
    return moment_of(day, time.min, time_zone)


def moment_of(day: date, time_of_day: time, time_zone: str) -> datetime:
    """Return the moment of a time of day in the time zone, in UTC.

    If a clock change skips this time, it is as much later; if the time occurs twice, it is the first one. Raises
    ZoneInfoNotFoundError for an unknown zone.
    """
    return datetime.combine(day, time_of_day, ZoneInfo(time_zone)).astimezone(UTC)


def date_in(time_zone: str, moment: datetime) -> date:
    """Return the calendar day of `moment` in the time zone."""
    return moment.astimezone(ZoneInfo(time_zone)).date()
