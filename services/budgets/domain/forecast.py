"""Forecast of the spend of a budget at the end of its period, with a prediction interval and the day of exhaustion.

Several forecasting methods are backtested on the history. The method with the smallest mean error is used, and its
errors determine the width of the prediction interval. docs/forecast.md explains why and how accurate it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from enum import StrEnum
from itertools import accumulate, pairwise
from statistics import median
from typing import Final

from kit.money import round_to

HISTORY_DAYS_MAX: Final = 800
"""Spend before these days is ignored."""

_ZERO: Final = Decimal(0)
_ONE: Final = Decimal(1)
_DAY: Final = timedelta(days=1)
_WEEK: Final = 7

_BACKTEST_DAYS_MIN: Final = 8 * _WEEK
"""With fewer days of history, methods are not backtested."""
_TREND_DAYS_MIN: Final = 12 * _WEEK
_MONTH: Final = 28
_LEVEL_DAYS: Final = range(2 * _WEEK, 26 * _WEEK + 1)
"""Fewest and most days whose mean is the level."""
_MONTHS_AVERAGED: Final = 3
"""Earlier months that determine the spend on a day of the month."""
_BACKTESTS_MAX: Final = 13

_OUTLIER_FACTOR: Final = 4
"""A day with more than this many usual days of spend is an outlier, as is a refund of that size."""
_INVOICE_SHARE: Final = Decimal("0.5")
"""Spend consists of invoices if the three largest days of a short history have this share of it."""
_CHANGE_THRESHOLD: Final = Decimal("2.5")
"""The level has changed if the means of two intervals differ by this many standard errors."""
_DAMPING: Final = Decimal("0.995")
"""Factor by which a trend weakens per day: it is halved after 138 days."""
_MONTH_DAYS_MARGIN: Final = Decimal("1.3")
"""How much better MONTH_DAYS must be than the others, because it is the best by chance more often."""

_HALF_WIDTH_IN_MEAN_ERRORS: Final = Decimal("1.6")
"""Half of an 80 % interval in mean absolute errors of a normal distribution: 1.2816 / 0.7979."""
_HALF_WIDTH_IN_DEVIATIONS: Final = Decimal("1.4")
"""The same in standard deviations, slightly wider because these are estimated."""
_ERROR_GROWTH: Final = Decimal("0.8")
"""Errors grow with this power of the forecast horizon: between chance (0.5) and a wrong level (1)."""
_DEVIATION_PER_DIFFERENCE: Final = Decimal("0.886")
"""A standard deviation in mean absolute differences of neighbours."""


class Method(StrEnum):
    """Forecast.Method."""

    ACTUAL = "ACTUAL"
    """Actual spend: the period is over."""
    PLAN = "PLAN"
    """There is no spend yet: the amount of the budget."""
    RUN_RATE = "RUN_RATE"
    """The average so far, by weekday after two weeks. For short histories."""
    LEVEL = "LEVEL"
    """The usual daily spend of recent weeks, by weekday."""
    TREND = "TREND"
    """LEVEL with a damped trend."""
    LEVEL_AND_MONTH_DAYS = "LEVEL_AND_MONTH_DAYS"
    """LEVEL, and outliers on the same days of the month as before."""
    TREND_AND_MONTH_DAYS = "TREND_AND_MONTH_DAYS"
    """TREND, and outliers on the same days of the month as before."""
    MONTH_DAYS = "MONTH_DAYS"
    """The spend on the same days of earlier months."""


_BACKTESTED: Final = (
    Method.LEVEL,
    Method.TREND,
    Method.LEVEL_AND_MONTH_DAYS,
    Method.TREND_AND_MONTH_DAYS,
    Method.MONTH_DAYS,
)


@dataclass(frozen=True, slots=True)
class ForecastInput:
    """A budget on the day `today`. Amounts are in its currency."""

    start: date
    end: date
    """The day after the last one."""
    today: date
    limit: Decimal
    currency: str
    committed: Decimal = _ZERO
    """Committed, but not spent yet."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Spend of the whole period, rounded to the currency; between `low` and `high` with a probability of 80 %."""

    expected: Decimal
    low: Decimal
    high: Decimal
    runs_out_on: date | None
    """The day, past or future, on which the spend exceeds the limit; None if the limit is sufficient."""
    method: Method
    days_observed: int
    """Number of whole days of history."""


def forecast(
    forecast_input: ForecastInput, spend: Iterable[tuple[date, Decimal]], *, since: date | None = None
) -> Forecast:
    """Return the forecast of the spend at the end of the period.

    `spend` contains amounts by day of this period and earlier ones. Refunds are negative, missing days have no spend,
    and several amounts of a day are added. It is complete from the day `since` on; by default from its first day or
    from the start of the period, whichever is earlier.
    """
    by_day: dict[date, Decimal] = {}
    for day, amount in spend:
        by_day[day] = by_day.get(day, _ZERO) + amount
    in_period = {day: amount for day, amount in by_day.items() if forecast_input.start <= day < forecast_input.end}
    if forecast_input.today >= forecast_input.end:
        return _actual(forecast_input, in_period)
    history = _history(forecast_input, by_day, since)
    if not history.days:
        return _planned(forecast_input, in_period)
    return _predicted(forecast_input, in_period, history)


def _actual(forecast_input: ForecastInput, in_period: dict[date, Decimal]) -> Forecast:
    spent = _rounded(sum(in_period.values(), _ZERO), forecast_input.currency)
    out = _exhaustion_day(forecast_input, in_period)
    return Forecast(spent, spent, spent, out, Method.ACTUAL, (forecast_input.end - forecast_input.start).days)


def _planned(forecast_input: ForecastInput, in_period: dict[date, Decimal]) -> Forecast:
    at_least = sum(in_period.values(), _ZERO) + forecast_input.committed
    at_most = max(forecast_input.limit, at_least)
    out = forecast_input.start if at_least > forecast_input.limit else None
    low, high = (_rounded(amount, forecast_input.currency) for amount in (at_least, at_most))
    return Forecast(high, low, high, out, Method.PLAN, 0)


def _predicted(forecast_input: ForecastInput, in_period: dict[date, Decimal], history: "_History") -> Forecast:
    start, end = max(history.days, history.index(forecast_input.start)), history.index(forecast_input.end)
    choice = _choose_method(history, start, end)
    remaining: dict[date, Decimal] = {}
    for index in range(start, end):
        day = history.day(index)
        usual = choice.model.sum(choice.method, index, index + 1) or _ZERO
        recorded = max(in_period.get(day, _ZERO), _ZERO)
        remaining[day] = max(usual - recorded, min(usual, _ZERO))
    rest = sum(remaining.values(), _ZERO)
    least = rest - choice.half_width
    least = max(least, _ZERO) if history.only_grows else least
    most = rest + choice.half_width
    if forecast_input.committed:
        # Past spend was committed before it was spent, too, so commitments are part of the usual rest, at most they add
        # to it. What exceeds the rest counts from today on, since it is not available for anything else.
        first = max(forecast_input.today, forecast_input.start)
        remaining[first] = remaining.get(first, _ZERO) + max(forecast_input.committed - rest, _ZERO)
        least = max(least, forecast_input.committed)
        most = max(most, max(rest, _ZERO) + forecast_input.committed)
    spent = sum(in_period.values(), _ZERO)
    path = {day: in_period.get(day, _ZERO) + remaining.get(day, _ZERO) for day in in_period.keys() | remaining.keys()}
    return Forecast(
        expected=_rounded(sum(path.values(), _ZERO), forecast_input.currency),
        low=_rounded(spent + least, forecast_input.currency, ROUND_FLOOR),
        high=_rounded(spent + most, forecast_input.currency, ROUND_CEILING),
        runs_out_on=_exhaustion_day(forecast_input, path),
        method=choice.method,
        days_observed=history.days,
    )


def _exhaustion_day(forecast_input: ForecastInput, path: dict[date, Decimal]) -> date | None:
    """Return the day on which the spend exceeds the limit; for the past, the day since which it has done so."""
    out: date | None = None
    spent = _ZERO
    for day in sorted(path):
        spent += path[day]
        if _rounded(spent, forecast_input.currency) <= forecast_input.limit:
            out = None
        elif out is None:
            out = day
            if day >= forecast_input.today:
                break
    return out


def _rounded(amount: Decimal, currency: str, rounding: str = ROUND_HALF_UP) -> Decimal:
    return round_to(amount, currency, rounding)


def _history(forecast_input: ForecastInput, by_day: dict[date, Decimal], since: date | None) -> "_History":
    first = since or min([forecast_input.start, *by_day])
    until = forecast_input.today
    if first >= until and forecast_input.start <= forecast_input.today and forecast_input.today in by_day:
        until = forecast_input.today + _DAY  # the first day: part of a day is better than no history
    first = max(first, until - HISTORY_DAYS_MAX * _DAY)
    days = max((until - first).days, 0)
    return _History(first, [by_day.get(first + number * _DAY, _ZERO) for number in range(days)])


class _History:
    """Spend by day as prefix sums, so that the spend of any interval is one subtraction.

    Days are indexed from the first one. The spend of an outlier is split into a usual day (its base) and the rest (its
    excess).
    """

    def __init__(self, first: date, amounts: Sequence[Decimal]) -> None:
        self.first = first
        self.amounts = amounts
        self.days = len(amounts)
        self.only_grows = min(amounts, default=_ZERO) >= 0
        spending = [amount for amount in amounts if amount]
        usual = median(spending) if spending else _ZERO
        most = median(map(abs, spending)) * _OUTLIER_FACTOR if spending else _ZERO
        base = [amount if abs(amount) <= most else usual for amount in amounts]
        self.all = [_ZERO, *accumulate(amounts)]
        self.base = [_ZERO, *accumulate(base)]
        self.excess = [whole - usual for whole, usual in zip(self.all, self.base, strict=True)]
        self.by_weekday = [_ZERO] * _WEEK  # at 7 + index: sum of the base of this day and all earlier same weekdays
        for index, amount in enumerate(base):
            self.by_weekday.append(self.by_weekday[index] + amount)
        self.base_deviation = _weekly_deviation(self.base)
        self._month_zero = first.year * 12 + first.month - 1
        self._month_starts: list[int] = []

    def index(self, day: date) -> int:
        return (day - self.first).days

    def day(self, index: int) -> date:
        return self.first + index * _DAY

    def recent_mean(self, origin: int) -> Decimal:
        """Return the mean day of the twelve weeks before `origin`, including outliers."""
        window = min(origin, 12 * _WEEK)
        return (self.all[origin] - self.all[origin - window]) / window

    def month_day(self, index: int) -> tuple[int, int]:
        """Return the month, counted from the first one of the history, and the day of the month."""
        day = self.day(index)
        return day.year * 12 + day.month - 1 - self._month_zero, day.day

    def index_of_month_day(self, month: int, day: int) -> int:
        """Return the index of a day of a month, or of the last day of a shorter month."""
        while len(self._month_starts) <= month + 1:
            year, of_year = divmod(self._month_zero + len(self._month_starts), 12)
            self._month_starts.append(self.index(date(year, of_year + 1, 1)))
        start = self._month_starts[month]
        return start + min(day, self._month_starts[month + 1] - start) - 1


def _weekly_deviation(sums: Sequence[Decimal]) -> Decimal:
    """Return the standard deviation of a week, from differences of consecutive weeks: trends and steps hardly count."""
    weeks = [sums[index] - sums[index - _WEEK] for index in range(len(sums) - 1, _WEEK - 1, -_WEEK)]
    steps = [abs(later - earlier) for later, earlier in pairwise(weeks)]
    return sum(steps, _ZERO) / len(steps) * _DEVIATION_PER_DIFFERENCE if steps else _ZERO


class _Model:
    """The parameters of all methods, estimated from the history before the day `origin`."""

    def __init__(self, history: _History, origin: int) -> None:
        self.history = history
        self.origin = origin
        self.level_days = self._steady_days()
        self.level = self._mean(origin, self.level_days)
        self.weekdays = self._weekday_factors()
        excess_days = min(origin, _LEVEL_DAYS[-1])
        self.excess_rate = (history.excess[origin] - history.excess[origin - excess_days]) / excess_days
        self.has_trend = origin >= _TREND_DAYS_MIN
        if self.has_trend:
            half = min(_LEVEL_DAYS[-1], origin // 2 // _WEEK * _WEEK)
            later = self._mean(origin, half)
            self.slope = (later - self._mean(origin - half, half)) / half
            self.level_of_trend = later + self.slope * half / 2

    def sum(self, method: Method, start: int, end: int) -> Decimal | None:
        """Return the spend that `method` expects in [start, end); None if the history is too short for it."""
        if method is Method.MONTH_DAYS:
            return self._same_days(self.history.all, start, end)
        trend = method in {Method.TREND, Method.TREND_AND_MONTH_DAYS}
        if trend and not self.has_trend:
            return None
        base = self._trend_sum(start, end) if trend else self.level * (end - start)
        base *= self._mean_weekday_factor(start, end)
        if method in {Method.LEVEL, Method.TREND, Method.RUN_RATE}:
            return base + self.excess_rate * (end - start)
        excess = self._same_days(self.history.excess, start, end) if self.history.excess[self.origin] else None
        return None if excess is None else base + excess

    def _mean(self, until: int, days: int) -> Decimal:
        return (self.history.base[until] - self.history.base[until - days]) / days

    def _steady_days(self) -> int:
        """Return the number of recent days with the same level: doubled while the days before have the same mean."""
        days = min(_LEVEL_DAYS[0], self.origin // _WEEK * _WEEK) or self.origin
        while 2 * days in _LEVEL_DAYS and 2 * days <= self.origin:
            change = abs(self._mean(self.origin, days) - self._mean(self.origin - days, days)) * _WEEK
            if change > _CHANGE_THRESHOLD * self.history.base_deviation * (Decimal(2 * _WEEK) / days).sqrt():
                break
            days *= 2
        return days

    def _weekday_factors(self) -> list[Decimal]:
        """Return the spend of each weekday in usual days, by index modulo 7; smoothed by one week of equal days."""
        weeks = min(self.origin, _LEVEL_DAYS[-1]) // _WEEK
        sums = self.history.by_weekday
        last = range(self.origin - _WEEK, self.origin)
        spent = (
            {day % _WEEK: sums[day + _WEEK] - sums[day + _WEEK - weeks * _WEEK] for day in last} if weeks > 1 else {}
        )
        usual = sum(spent.values(), _ZERO) / _WEEK
        if usual <= 0:
            return [_ONE] * _WEEK
        return [(spent[day] + usual / weeks) / (usual + usual / weeks) for day in range(_WEEK)]

    def _mean_weekday_factor(self, start: int, end: int) -> Decimal:
        weeks, rest = divmod(end - start, _WEEK)
        days = sum((self.weekdays[day % _WEEK] for day in range(end - rest, end)), Decimal(weeks * _WEEK))
        return days / (end - start)

    def _trend_sum(self, start: int, end: int) -> Decimal:
        days = self.level_of_trend * (end - start)
        days += self.slope * (_damped(end - self.origin) - _damped(start - self.origin))
        return max(days, _ZERO) if self.level >= 0 else days

    def _same_days(self, sums: Sequence[Decimal], start: int, end: int) -> Decimal | None:
        """Return the mean spend on the same days of earlier months, summed month by month."""
        position, last = self.history.month_day(start), self.history.month_day(end)
        total = _ZERO
        while position < last:
            following = min((position[0] + 1, position[1]), last)
            earlier = self._earlier_months(sums, position, following)
            if not earlier:
                return None
            total += sum(earlier, _ZERO) / len(earlier)
            position = following
        return total

    def _earlier_months(self, sums: Sequence[Decimal], start: tuple[int, int], end: tuple[int, int]) -> list[Decimal]:
        """Return the spend between two days of the month in the latest months that are completely known."""
        amounts: list[Decimal] = []
        nearest = max(1, end[0] - self.history.month_day(self.origin)[0])
        for back in range(nearest, start[0] + 1):
            first = self.history.index_of_month_day(start[0] - back, start[1])
            until = self.history.index_of_month_day(end[0] - back, end[1])
            if first < 0 or len(amounts) == _MONTHS_AVERAGED:
                break
            if until <= self.origin:
                amounts.append(sums[until] - sums[first])
        return amounts


def _damped(days: int) -> Decimal:
    """Return the sum of a damped trend over `days` days, in units of the slope."""
    ratio = _DAMPING / (1 - _DAMPING)
    return ratio * (days - ratio * (1 - _DAMPING**days))


@dataclass(frozen=True, slots=True)
class _Choice:
    """The method that is used, and half the width of its prediction interval."""

    method: Method
    model: _Model
    half_width: Decimal


def _choose_method(history: _History, start: int, end: int) -> _Choice:
    model = _Model(history, history.days)
    if history.days < _BACKTEST_DAYS_MIN:
        return _choose_without_backtests(model, start, end)
    tests = _Backtests(history, ahead=end - start, gap=start - history.days)
    errors = {method: tests.errors(method) for method in _BACKTESTED if model.sum(method, start, end) is not None}
    means = {method: sum(map(abs, missed), _ZERO) / len(missed) for method, missed in errors.items() if missed}
    best = min(means, key=lambda method: means[method] * (_MONTH_DAYS_MARGIN if method is Method.MONTH_DAYS else _ONE))
    half_width = means[best] * tests.widening(end - start)
    return _Choice(best, model, max(half_width, _least_half_width(model, best, end - start)))


def _choose_without_backtests(model: _Model, start: int, end: int) -> _Choice:
    """Choose for a short history: RUN_RATE, or MONTH_DAYS if the spend consists of a few large amounts."""
    history, ahead = model.history, end - start
    days, spent = history.days, history.all[-1]
    method = Method.RUN_RATE
    invoices = days >= _MONTH and sum(sorted(history.amounts)[-3:], _ZERO) > spent * _INVOICE_SHARE
    if invoices and model.sum(Method.MONTH_DAYS, start, end) is not None:
        method = Method.MONTH_DAYS
    mean = spent / days
    # As if three more days had missed the mean completely: a few days that happen to be equal are no certainty.
    variance = (sum(((amount - mean) ** 2 for amount in history.amounts), _ZERO) + 3 * mean**2) / (days + 2)
    half_width = _HALF_WIDTH_IN_DEVIATIONS * (variance * (ahead + Decimal(ahead**2) / days)).sqrt()
    return _Choice(method, model, half_width)


def _least_half_width(model: _Model, method: Method, ahead: int) -> Decimal:
    """Return the minimum, from the deviation of weeks and the number of days that determine the level."""
    if method is Method.MONTH_DAYS:
        return _ZERO
    history = model.history
    deviation = _weekly_deviation(history.all) if method in {Method.LEVEL, Method.TREND} else history.base_deviation
    weeks = Decimal(ahead) / _WEEK
    return _HALF_WIDTH_IN_DEVIATIONS * deviation * (weeks + weeks**2 * _WEEK / model.level_days).sqrt()


class _Backtests:
    """Backtests: on several past days, what each method would have forecast for the days that followed."""

    def __init__(self, history: _History, *, ahead: int, gap: int) -> None:
        self.history = history
        self.gap = min(gap, history.days // 4)
        earliest = max(_MONTH, min(history.days // 3, _TREND_DAYS_MIN))
        spare = history.days - earliest - self.gap
        self.ahead = min(ahead, spare * 2 // 3)
        self.runs = Decimal(spare) / self.ahead
        last = history.days - self.gap - self.ahead
        step = max(1, (last - earliest) // (_BACKTESTS_MAX - 1))
        self.models = [_Model(history, origin) for origin in range(last, earliest - 1, -step)][:_BACKTESTS_MAX]

    def errors(self, method: Method) -> list[Decimal]:
        """Return actual minus forecast spend of each test, scaled to today's level; empty if too few were possible."""
        errors = []
        for model in self.models:
            start = model.origin + self.gap
            expected = model.sum(method, start, start + self.ahead)
            if expected is not None:
                spent = self.history.all[start + self.ahead] - self.history.all[start]
                errors.append((spent - expected) * self._growth_since(model.origin))
        return errors if 2 * len(errors) >= len(self.models) else []

    def widening(self, ahead: int) -> Decimal:
        """Return half the interval in mean errors: wider for few tests and for short ones."""
        factor = _HALF_WIDTH_IN_MEAN_ERRORS * (1 + 1 / (2 * self.runs))
        return factor * (Decimal(ahead) / self.ahead) ** _ERROR_GROWTH

    def _growth_since(self, origin: int) -> Decimal:
        then, now = self.history.recent_mean(origin), self.history.recent_mean(self.history.days)
        return min(max(now / then, Decimal("0.5")), Decimal(2)) if then > 0 else _ONE
