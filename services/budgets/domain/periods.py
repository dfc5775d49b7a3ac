"""The calendar of budgets: days of a period, the current period, and whether a period recurs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from kit.dates import date_in, months_later
from services.budgets.domain.budgets import BudgetDraft, PeriodType
from services.budgets.errors.fields import InvalidField

_MONTHS: Final[Mapping[PeriodType, int]] = {PeriodType.MONTHLY: 1, PeriodType.QUARTERLY: 3, PeriodType.ANNUAL: 12}


@dataclass(frozen=True, slots=True)
class Period:
    """The days in [start, end)."""

    number: int
    """Counted from the anchor date of the series, whose period has number 0."""
    start: date
    end: date


def period_of(period_type: PeriodType, anchor: date, number: int) -> Period:
    """Return the period with this number; periods before the anchor have negative numbers.

    Both ends are the anchor's day of their month, or that month's last day if it is shorter: an anchor of 31 January
    gives 28 February and then 31 March. Raises ValueError for CUSTOM, which has no length, and after the year 9999.
    """
    months = _months(period_type)
    return Period(number, months_later(anchor, number * months), months_later(anchor, (number + 1) * months))


def fiscal_start(period_type: PeriodType, fiscal_year_start_month: int, day: date) -> date:
    """Return the first day of the month, fiscal quarter or fiscal year that contains `day`.

    Raises ValueError for CUSTOM.
    """
    months_since_start = (day.month - fiscal_year_start_month) % _months(period_type)
    return months_later(day.replace(day=1), -months_since_start)


def resolve(draft: BudgetDraft, *, fiscal_year_start_month: int, now: datetime) -> tuple[Period, bool]:
    """Return the period of a new budget and whether it recurs, with defaults for what the draft leaves open.

    Both depend on today, a day in the time zone of the budget. By default a budget is for the current period, and it
    recurs unless its period is over (it is created to record past costs) or CUSTOM. Raises InvalidField.
    """
    today = date_in(draft.time_zone, now)
    period = _first_period(draft, fiscal_year_start_month, today)
    if draft.recurring is None:
        return period, draft.period_type is not PeriodType.CUSTOM and today < period.end
    check_recurring(draft.period_type, recurring=draft.recurring)
    return period, draft.recurring


def _first_period(draft: BudgetDraft, fiscal_year_start_month: int, today: date) -> Period:
    kind, start, end = draft.period_type, draft.period_start, draft.period_end
    if kind is PeriodType.CUSTOM:
        if start is None:
            raise InvalidField("period_start_date", "is required for CUSTOM", "required")
        if end is None or end <= start:
            raise InvalidField(
                "period_end_date", "is required for CUSTOM and must be after period_start_date", "period.end"
            )
        return Period(0, start, end)
    period = period_of(kind, start or fiscal_start(kind, fiscal_year_start_month, today), 0)
    if end not in {None, period.end}:
        raise InvalidField(
            "period_end_date", f"must be {period.end}, the end of the {kind} period from {period.start}", "period.end"
        )
    return period


def check_recurring(period_type: PeriodType, *, recurring: bool) -> None:
    """Raise InvalidField for a recurring CUSTOM budget."""
    if recurring and period_type is PeriodType.CUSTOM:
        raise InvalidField("recurring", "a CUSTOM period has no next period", "recurring.custom")


def _months(period_type: PeriodType) -> int:
    if period_type not in _MONTHS:
        raise ValueError(f"a {period_type} period has no fixed length")
    return _MONTHS[period_type]
