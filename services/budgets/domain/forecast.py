"""What a budget will have spent when its period ends, how sure that is, and when it runs out.

Several ways of looking at the past are tried on the past itself; the one that would have erred least is used, and how
much it would have erred is the band. docs/forecast.md says why, and how well it does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from enum import StrEnum
from itertools import accumulate, pairwise
from statistics import median
from typing import Final

from kit.money import exponent

HISTORY_DAYS_MAX: Final = 800
"""Older spend says nothing about this period."""

_ZERO: Final = Decimal(0)
_ONE: Final = Decimal(1)
_DAY: Final = timedelta(days=1)
_WEEK: Final = 7

_TRIAL_DAYS_MIN: Final = 8 * _WEEK
"""With less history the ways can't be tried on it."""
_TREND_DAYS_MIN: Final = 12 * _WEEK
_MONTH: Final = 28
_LEVEL_DAYS: Final = range(2 * _WEEK, 26 * _WEEK + 1)
"""Least and most days of which a level is the mean."""
_SAME_MONTHS: Final = 3
"""So many earlier months say what is spent on a day of the month."""
_TRIALS: Final = 13

_LUMP: Final = 4
"""What a day has above so many usual days is a lump, and looked at apart; refunds likewise."""
_CONCENTRATED: Final = Decimal("0.5")
"""Spend is invoices where the three largest days of a short history hold this share of it."""
_CHANGED: Final = Decimal("2.5")
"""The level has changed where two stretches differ by so many standard errors."""
_DAMPING: Final = Decimal("0.995")
"""What is left of a trend from one day to the next: half after 138 days."""
_RESERVE: Final = Decimal("1.3")
"""MONTH_DAYS must be better by so much: it is right by chance more often than the others."""

_HALF_BAND: Final = Decimal("1.6")
"""Half of an 80 % band in mean absolute errors of a normal distribution: 1.2816 / 0.7979."""
_HALF_BAND_SD: Final = Decimal("1.4")
"""The same in standard deviations, a little wider since these are estimated."""
_GROWTH: Final = Decimal("0.8")
"""Errors grow with this power of the days ahead: between chance (0.5) and a wrong level (1)."""
_SD_OF_STEP: Final = Decimal("0.886")
"""A standard deviation in mean absolute differences of neighbours."""


class Method(StrEnum):
    """Forecast.Method."""

    ACTUAL = "ACTUAL"
    """The period is over; this is what was spent."""
    PLAN = "PLAN"
    """No spend is known yet; the amount of the budget, no more."""
    RUN_RATE = "RUN_RATE"
    """Days are few: on as before, by weekday after two weeks."""
    LEVEL = "LEVEL"
    """The usual day of late, by weekday."""
    TREND = "TREND"
    """The same, rising or falling as it did, ever less."""
    LEVEL_AND_MONTH_DAYS = "LEVEL_AND_MONTH_DAYS"
    """The usual day, and large amounts on the same days of the month as before."""
    TREND_AND_MONTH_DAYS = "TREND_AND_MONTH_DAYS"
    """The trend, and large amounts on the same days of the month as before."""
    MONTH_DAYS = "MONTH_DAYS"
    """What was spent on the same days of earlier months."""


_TRIED: Final = (
    Method.LEVEL,
    Method.TREND,
    Method.LEVEL_AND_MONTH_DAYS,
    Method.TREND_AND_MONTH_DAYS,
    Method.MONTH_DAYS,
)


@dataclass(frozen=True, slots=True)
class ForecastInput:
    """A budget at the beginning of the day `today`, or some hours into it. Amounts are in its currency."""

    start: date
    end: date
    """The day after the last one."""
    today: date
    limit: Decimal
    currency: str
    committed: Decimal = _ZERO
    """Promised to others, not spent yet."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Spend of the whole period; between `low` and `high` in four cases of five. Amounts have the currency's digits."""

    expected: Decimal
    low: Decimal
    high: Decimal
    runs_out_on: date | None
    """The day after which more is spent than the limit, of the past or to come; None where the limit suffices."""
    method: Method
    days_observed: int
    """Whole days it rests on, those of earlier periods included."""


def forecast(course: ForecastInput, spends: Iterable[tuple[date, Decimal]], *, since: date | None = None) -> Forecast:
    """The spend at the end of the period.

    `spends` are amounts per day, of this period and of earlier ones; refunds are below zero, a day that is missing is
    one without spend, a day that comes twice counts with both. They are complete from `since` on; where it isn't given,
    from the first of them or from the start of the period, whichever is earlier.
    """
    known: dict[date, Decimal] = {}
    for day, amount in spends:
        known[day] = known.get(day, _ZERO) + amount
    in_period = {day: amount for day, amount in known.items() if course.start <= day < course.end}
    if course.today >= course.end:
        return _actual(course, in_period)
    history = _history(course, known, since)
    if not history.days:
        return _planned(course, in_period)
    return _expected(course, in_period, history)


def _actual(course: ForecastInput, in_period: dict[date, Decimal]) -> Forecast:
    spent = _rounded(sum(in_period.values(), _ZERO), course.currency)
    out = _runs_out(course, in_period)
    return Forecast(spent, spent, spent, out, Method.ACTUAL, (course.end - course.start).days)


def _planned(course: ForecastInput, in_period: dict[date, Decimal]) -> Forecast:
    at_least = sum(in_period.values(), _ZERO) + course.committed
    most = max(course.limit, at_least)
    out = course.start if at_least > course.limit else None
    low, high = (_rounded(amount, course.currency) for amount in (at_least, most))
    return Forecast(high, low, high, out, Method.PLAN, 0)


def _expected(course: ForecastInput, in_period: dict[date, Decimal], history: "_History") -> Forecast:
    ahead = max(history.days, history.index(course.start)), history.index(course.end)
    view = _view(history, *ahead)
    to_come: dict[date, Decimal] = {}
    for index in range(*ahead):
        day = history.day(index)
        usual = view.outlook.sum(view.method, index, index + 1) or _ZERO
        booked = max(in_period.get(day, _ZERO), _ZERO)
        to_come[day] = max(usual - booked, min(usual, _ZERO))
    rest = sum(to_come.values(), _ZERO)
    least = rest - view.half_band
    least = max(least, _ZERO) if history.only_grows else least
    most = rest + view.half_band
    if course.committed:
        # Past spend was promised before, too: promises are a part of the usual rest, or more than it. At most they
        # come on top of it. What they are beyond it is gone from today on, since nobody else can have it.
        first = max(course.today, course.start)
        to_come[first] = to_come.get(first, _ZERO) + max(course.committed - rest, _ZERO)
        least, most = max(least, course.committed), max(most, max(rest, _ZERO) + course.committed)
    spent = sum(in_period.values(), _ZERO)
    path = {day: in_period.get(day, _ZERO) + to_come.get(day, _ZERO) for day in in_period.keys() | to_come.keys()}
    return Forecast(
        expected=_rounded(sum(path.values(), _ZERO), course.currency),
        low=_rounded(spent + least, course.currency, ROUND_FLOOR),
        high=_rounded(spent + most, course.currency, ROUND_CEILING),
        runs_out_on=_runs_out(course, path),
        method=view.method,
        days_observed=history.days,
    )


def _runs_out(course: ForecastInput, path: dict[date, Decimal]) -> date | None:
    """The day on which the sum passes the limit; in the past, the one since which it has been above."""
    out: date | None = None
    spent = _ZERO
    for day in sorted(path):
        spent += path[day]
        if _rounded(spent, course.currency) <= course.limit:
            out = None
        elif out is None:
            out = day
            if day >= course.today:
                break
    return out


def _rounded(amount: Decimal, currency: str, rounding: str = ROUND_HALF_UP) -> Decimal:
    return amount.quantize(_ONE.scaleb(-(exponent(currency) or 0)), rounding) + 0  # which makes 0 of -0


def _history(course: ForecastInput, known: dict[date, Decimal], since: date | None) -> "_History":
    first = since or min([course.start, *known])
    until = course.today
    if first >= until and course.start <= course.today and course.today in known:
        until = course.today + _DAY  # the very first day: part of one is better than none
    first = max(first, until - HISTORY_DAYS_MAX * _DAY)
    days = max((until - first).days, 0)
    return _History(first, [known.get(first + number * _DAY, _ZERO) for number in range(days)])


class _History:
    """Spend by day, as sums that answer in one subtraction what was spent between two days.

    A day is its index from the first. What it has above a few usual days is a lump, the rest of it is its base.
    """

    def __init__(self, first: date, amounts: Sequence[Decimal]) -> None:
        self.first = first
        self.amounts = amounts
        self.days = len(amounts)
        self.only_grows = min(amounts, default=_ZERO) >= 0
        spending = [amount for amount in amounts if amount]
        usual = median(spending) if spending else _ZERO
        most = median(map(abs, spending)) * _LUMP if spending else _ZERO
        base = [amount if abs(amount) <= most else usual for amount in amounts]
        self.all = [_ZERO, *accumulate(amounts)]
        self.base = [_ZERO, *accumulate(base)]
        self.lumps = [whole - usual for whole, usual in zip(self.all, self.base, strict=True)]
        self.by_weekday = [_ZERO] * _WEEK  # at 7 + index: the base of this day and of all before on its weekday
        for index, amount in enumerate(base):
            self.by_weekday.append(self.by_weekday[index] + amount)
        self.base_spread = _weekly_spread(self.base)
        self._month_zero = first.year * 12 + first.month - 1
        self._month_starts: list[int] = []

    def index(self, day: date) -> int:
        return (day - self.first).days

    def day(self, index: int) -> date:
        return self.first + index * _DAY

    def recent(self, origin: int) -> Decimal:
        """A usual day of the twelve weeks before `origin`, lumps included."""
        window = min(origin, 12 * _WEEK)
        return (self.all[origin] - self.all[origin - window]) / window

    def place(self, index: int) -> tuple[int, int]:
        """The month, counted from the first one of history, and the day of the month."""
        day = self.day(index)
        return day.year * 12 + day.month - 1 - self._month_zero, day.day

    def index_in(self, month: int, day: int) -> int:
        """Where that day of a month is; where the month is shorter, its last."""
        while len(self._month_starts) <= month + 1:
            year, of_year = divmod(self._month_zero + len(self._month_starts), 12)
            self._month_starts.append(self.index(date(year, of_year + 1, 1)))
        start = self._month_starts[month]
        return start + min(day, self._month_starts[month + 1] - start) - 1


def _weekly_spread(sums: Sequence[Decimal]) -> Decimal:
    """The standard deviation of a week, from what neighbours differ by: a trend or a step hardly counts."""
    weeks = [sums[index] - sums[index - _WEEK] for index in range(len(sums) - 1, _WEEK - 1, -_WEEK)]
    steps = [abs(later - earlier) for later, earlier in pairwise(weeks)]
    return sum(steps, _ZERO) / len(steps) * _SD_OF_STEP if steps else _ZERO


class _Outlook:
    """What could be known about later days at the beginning of the day `origin`."""

    def __init__(self, history: _History, origin: int) -> None:
        self.history = history
        self.origin = origin
        self.level_days = self._steady_days()
        self.level = self._mean(origin, self.level_days)
        self.weekdays = self._weekdays()
        lump_days = min(origin, _LEVEL_DAYS[-1])
        self.lump_rate = (history.lumps[origin] - history.lumps[origin - lump_days]) / lump_days
        self.has_trend = origin >= _TREND_DAYS_MIN
        if self.has_trend:
            half = min(_LEVEL_DAYS[-1], origin // 2 // _WEEK * _WEEK)
            later = self._mean(origin, half)
            self.slope = (later - self._mean(origin - half, half)) / half
            self.level_of_trend = later + self.slope * half / 2

    def sum(self, method: Method, start: int, end: int) -> Decimal | None:
        """The spend that `method` expects from the day `start` to before `end`; None where it can't say."""
        if method is Method.MONTH_DAYS:
            return self._same_days(self.history.all, start, end)
        trend = method in {Method.TREND, Method.TREND_AND_MONTH_DAYS}
        if trend and not self.has_trend:
            return None
        base = self._trend_sum(start, end) if trend else self.level * (end - start)
        base *= self._rhythm(start, end)
        if method in {Method.LEVEL, Method.TREND, Method.RUN_RATE}:
            return base + self.lump_rate * (end - start)
        lumps = self._same_days(self.history.lumps, start, end) if self.history.lumps[self.origin] else None
        return None if lumps is None else base + lumps

    def _mean(self, until: int, days: int) -> Decimal:
        return (self.history.base[until] - self.history.base[until - days]) / days

    def _steady_days(self) -> int:
        """How many days back the level is the same: doubled while the days before are like those after."""
        days = min(_LEVEL_DAYS[0], self.origin // _WEEK * _WEEK) or self.origin
        while 2 * days in _LEVEL_DAYS and 2 * days <= self.origin:
            change = abs(self._mean(self.origin, days) - self._mean(self.origin - days, days)) * _WEEK
            if change > _CHANGED * self.history.base_spread * (Decimal(2 * _WEEK) / days).sqrt():
                break
            days *= 2
        return days

    def _weekdays(self) -> list[Decimal]:
        """What a day is in usual days, by index modulo 7; drawn to 1 as by one more week in which all are alike."""
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

    def _rhythm(self, start: int, end: int) -> Decimal:
        """The mean of the weekdays between two days."""
        weeks, rest = divmod(end - start, _WEEK)
        days = sum((self.weekdays[day % _WEEK] for day in range(end - rest, end)), Decimal(weeks * _WEEK))
        return days / (end - start)

    def _trend_sum(self, start: int, end: int) -> Decimal:
        days = self.level_of_trend * (end - start)
        days += self.slope * (_damped(end - self.origin) - _damped(start - self.origin))
        return max(days, _ZERO) if self.level >= 0 else days

    def _same_days(self, sums: Sequence[Decimal], start: int, end: int) -> Decimal | None:
        """The mean of earlier months from the same day of the month to before the same day, month by month."""
        place, last = self.history.place(start), self.history.place(end)
        total = _ZERO
        while place < last:
            following = min((place[0] + 1, place[1]), last)
            found = self._earlier(sums, place, following)
            if not found:
                return None
            total += sum(found, _ZERO) / len(found)
            place = following
        return total

    def _earlier(self, sums: Sequence[Decimal], start: tuple[int, int], end: tuple[int, int]) -> list[Decimal]:
        """What was spent between two days of a month in the latest months that are known whole."""
        found: list[Decimal] = []
        nearest = max(1, end[0] - self.history.place(self.origin)[0])
        for back in range(nearest, start[0] + 1):
            first = self.history.index_in(start[0] - back, start[1])
            until = self.history.index_in(end[0] - back, end[1])
            if first < 0 or len(found) == _SAME_MONTHS:
                break
            if until <= self.origin:
                found.append(sums[until] - sums[first])
        return found


def _damped(days: int) -> Decimal:
    """By how many slopes so many days of a damped trend add up to more than those of a level."""
    ratio = _DAMPING / (1 - _DAMPING)
    return ratio * (days - ratio * (1 - _DAMPING**days))


@dataclass(frozen=True, slots=True)
class _View:
    """The way that is used."""

    method: Method
    outlook: _Outlook
    half_band: Decimal


def _view(history: _History, start: int, end: int) -> _View:
    outlook = _Outlook(history, history.days)
    if history.days < _TRIAL_DAYS_MIN:
        return _untried(outlook, start, end)
    trials = _Trials(history, ahead=end - start, gap=start - history.days)
    errors = {method: trials.errors(method) for method in _TRIED if outlook.sum(method, start, end) is not None}
    means = {method: sum(map(abs, missed), _ZERO) / len(missed) for method, missed in errors.items() if missed}
    best = min(means, key=lambda method: means[method] * (_RESERVE if method is Method.MONTH_DAYS else _ONE))
    half = means[best] * trials.widening(end - start)
    return _View(best, outlook, max(half, _noise(outlook, best, end - start)))


def _untried(outlook: _Outlook, start: int, end: int) -> _View:
    """Of a short history: on as before, or the same days of the month where it is a few large amounts."""
    history, ahead = outlook.history, end - start
    days, spent = history.days, history.all[-1]
    method = Method.RUN_RATE
    invoices = days >= _MONTH and sum(sorted(history.amounts)[-3:], _ZERO) > spent * _CONCENTRATED
    if invoices and outlook.sum(Method.MONTH_DAYS, start, end) is not None:
        method = Method.MONTH_DAYS
    mean = spent / days
    # Three more days that miss the mean by all of it: a few days that happen to be alike are no certainty.
    variance = (sum(((amount - mean) ** 2 for amount in history.amounts), _ZERO) + 3 * mean**2) / (days + 2)
    return _View(method, outlook, _HALF_BAND_SD * (variance * (ahead + Decimal(ahead**2) / days)).sqrt())


def _noise(outlook: _Outlook, method: Method, ahead: int) -> Decimal:
    """Half a band from what weeks differ by, and from how few of them the level is known; the least a band can be."""
    if method is Method.MONTH_DAYS:
        return _ZERO
    history = outlook.history
    spread = _weekly_spread(history.all) if method in {Method.LEVEL, Method.TREND} else history.base_spread
    weeks = Decimal(ahead) / _WEEK
    return _HALF_BAND_SD * spread * (weeks + weeks**2 * _WEEK / outlook.level_days).sqrt()


class _Trials:
    """The ways, tried on the past: at some days of it, what each would have said of the days that followed."""

    def __init__(self, history: _History, *, ahead: int, gap: int) -> None:
        self.history = history
        self.gap = min(gap, history.days // 4)
        earliest = max(_MONTH, min(history.days // 3, _TREND_DAYS_MIN))
        spare = history.days - earliest - self.gap
        self.ahead = min(ahead, spare * 2 // 3)
        self.runs = Decimal(spare) / self.ahead
        last = history.days - self.gap - self.ahead
        step = max(1, (last - earliest) // (_TRIALS - 1))
        self.outlooks = [_Outlook(history, origin) for origin in range(last, earliest - 1, -step)][:_TRIALS]

    def errors(self, method: Method) -> list[Decimal]:
        """What was spent beyond what was expected, in money of today's level; none where it can't be tried enough."""
        errors = []
        for outlook in self.outlooks:
            start = outlook.origin + self.gap
            expected = outlook.sum(method, start, start + self.ahead)
            if expected is not None:
                spent = self.history.all[start + self.ahead] - self.history.all[start]
                errors.append((spent - expected) * self._growth_since(outlook.origin))
        return errors if 2 * len(errors) >= len(self.outlooks) else []

    def widening(self, ahead: int) -> Decimal:
        """Half a band in mean errors of the trials: wider the fewer they are, and the shorter they looked."""
        return _HALF_BAND * (1 + 1 / (2 * self.runs)) * (Decimal(ahead) / self.ahead) ** _GROWTH

    def _growth_since(self, origin: int) -> Decimal:
        then, now = self.history.recent(origin), self.history.recent(self.history.days)
        return min(max(now / then, Decimal("0.5")), Decimal(2)) if then > 0 else _ONE
