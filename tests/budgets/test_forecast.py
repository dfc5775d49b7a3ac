"""Forecasts: accurate for many patterns of spend, with an interval that holds, and sensible for short histories."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from random import Random
from statistics import mean
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.budgets.domain.budgets import PeriodType
from services.budgets.domain.forecast import Forecast, ForecastInput, Method, forecast
from services.budgets.domain.periods import Period, period_of

DAY = timedelta(days=1)
SERIES = 360
CUTS = (10, 50, 90)
"""Percentages of the period that are over when the forecast is made."""


@dataclass
class Pattern:
    """How one series of spend is generated; amounts are multiples of a usual day."""

    noise: float
    usual: float = 1
    week: tuple[float, ...] = (1,) * 7
    growth: float = 0
    month_end: float = 0
    invoices: Mapping[int, float] = field(default_factory=dict)
    outliers: float = 0
    step: float = 1


def working_week(rng: Random) -> tuple[float, ...]:
    return (*(rng.uniform(0.7, 1.3) for _ in range(5)), *(rng.uniform(0, 0.3) for _ in range(2)))


def any_week(rng: Random) -> tuple[float, ...]:
    return rng.choice([(1,) * 7, working_week(rng)])


def noise(rng: Random) -> float:
    return rng.uniform(0.15, 0.6)


def invoices(rng: Random) -> Pattern:
    days = {rng.randint(1, 28): rng.uniform(5, 30) for _ in range(rng.randint(1, 3))}
    return Pattern(rng.uniform(0.05, 0.2), usual=rng.choice([0, 0, 0.3]), invoices=days)


def mixed(rng: Random) -> Pattern:
    days = {rng.randint(1, 28): rng.uniform(3, 10)}
    return Pattern(noise(rng), week=working_week(rng), invoices=days, growth=rng.uniform(-0.04, 0.06), outliers=0.03)


FAMILIES: Mapping[str, Callable[[Random], Pattern]] = {
    "flat": lambda rng: Pattern(rng.uniform(0.4, 0.9)),
    "weekdays": lambda rng: Pattern(noise(rng), week=working_week(rng)),
    "month ends": lambda rng: Pattern(noise(rng), week=any_week(rng), month_end=rng.uniform(4, 12)),
    "rising": lambda rng: Pattern(noise(rng), week=any_week(rng), growth=rng.uniform(0.03, 0.1)),
    "falling": lambda rng: Pattern(noise(rng), week=any_week(rng), growth=-rng.uniform(0.03, 0.1)),
    "invoices": invoices,
    "outliers": lambda rng: Pattern(noise(rng), usual=rng.choice([0, 0.1]), outliers=rng.uniform(0.06, 0.3)),
    "step": lambda rng: Pattern(noise(rng), week=any_week(rng), step=rng.choice([0.4, 0.6, 1.6, 2.2])),
    "mixed": mixed,
}
SHAPES = [
    (PeriodType.MONTHLY, 1), (PeriodType.MONTHLY, 3), (PeriodType.MONTHLY, 6), (PeriodType.MONTHLY, 11),
    (PeriodType.QUARTERLY, 1), (PeriodType.QUARTERLY, 3), (PeriodType.ANNUAL, 1), (PeriodType.ANNUAL, 2),
]  # fmt: skip
"""The type of the period and the number of earlier periods."""


def spend(rng: Random, pattern: Pattern, days: list[date], changes_on: date) -> Iterator[tuple[date, Decimal]]:
    """Generate a series: usual days by weekday with noise and growth, plus invoices, month ends and outliers."""
    size = math.exp(rng.uniform(3, 9))
    for day in days:
        level = size * math.exp(pattern.growth * (day - days[0]).days / 30.4)
        level *= pattern.step if day >= changes_on else 1
        amount = (
            pattern.usual * pattern.week[day.weekday()] * rng.lognormvariate(-(pattern.noise**2) / 2, pattern.noise)
        )
        amount += pattern.invoices.get(day.day, 0) * rng.lognormvariate(0, pattern.noise)
        if (day + DAY).day == 1:
            amount += pattern.month_end * rng.lognormvariate(0, 0.2)
        if rng.random() < pattern.outliers:
            amount += 6 * rng.lognormvariate(0, 0.8)
        if amount:
            yield day, Decimal(round(amount * level * 100)).scaleb(-2)


@dataclass(frozen=True)
class Series:
    family: str
    periods: list[Period]
    spends: list[tuple[date, Decimal]]

    @classmethod
    def make(cls, seed: int) -> "Series":
        """Take families and shapes in turn; a step falls between the last period and the middle of this one."""
        rng = Random(seed)  # noqa: S311 - the series must be repeatable
        family = list(FAMILIES)[seed % len(FAMILIES)]
        period_type, earlier = SHAPES[seed // len(FAMILIES) % len(SHAPES)]
        anchor_day = rng.choice([1, 1, 1, 15, 31]) if period_type is PeriodType.MONTHLY else 1
        anchor = date(2024, rng.choice([1, 3, 5, 7, 8, 10, 12]), anchor_day)
        periods = [period_of(period_type, anchor, number) for number in range(earlier + 1)]
        start, end = periods[0].start, periods[-1].end
        length = (end - periods[-1].start).days
        changes_on = periods[-1].start + rng.randint(-length, length // 2) * DAY
        days = [start + number * DAY for number in range((end - start).days)]
        return cls(family, periods, list(spend(rng, FAMILIES[family](rng), days, changes_on)))

    def total(self, period: Period) -> Decimal:
        return sum((amount for day, amount in self.spends if period.start <= day < period.end), Decimal(0))

    def at(self, cut: int) -> Forecast:
        period = self.periods[-1]
        today = period.start + (period.end - period.start) * cut // 100
        request = ForecastInput(period.start, period.end, today, limit=Decimal(1_000_000), currency="EUR")
        known = [(day, amount) for day, amount in self.spends if day < today]
        return forecast(request, known, since=self.periods[0].start)


@dataclass(frozen=True)
class Outcome:
    covered: bool
    error: float
    """Error of the forecast, relative to the mean spend of a period."""
    error_of_last: float
    """The same for a forecast that repeats the last period."""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[Outcome]]:
    """Return the outcomes of all forecasts, by family and by cut."""
    outcomes = defaultdict(list)
    for seed in range(SERIES):
        series = Series.make(seed)
        total, last = series.total(series.periods[-1]), series.total(series.periods[-2])
        usual = sum(map(series.total, series.periods), Decimal(0)) / len(series.periods)
        for cut in CUTS:
            result = series.at(cut)
            covered = result.low <= total <= result.high
            outcome = Outcome(covered, float(abs(result.expected - total) / usual), float(abs(last - total) / usual))
            for key in (series.family, str(cut), "all"):
                outcomes[key].append(outcome)
    return outcomes


class TestGeneratedSpend:
    def test_interval_holds_in_80_percent_of_cases(self, outcomes: dict[str, list[Outcome]]) -> None:
        assert len(outcomes["all"]) == SERIES * len(CUTS)
        for key in ("all", *map(str, CUTS)):
            assert 0.7 <= mean(outcome.covered for outcome in outcomes[key]) <= 0.9, key

    @pytest.mark.parametrize("family", FAMILIES)
    def test_interval_holds_for_every_pattern(self, outcomes: dict[str, list[Outcome]], family: str) -> None:
        assert mean(outcome.covered for outcome in outcomes[family]) >= 0.65

    @pytest.mark.parametrize("key", ["all", "10", "50", "90", *FAMILIES])
    def test_error_is_smaller_than_that_of_the_last_period(self, outcomes: dict[str, list[Outcome]], key: str) -> None:
        error = mean(outcome.error for outcome in outcomes[key])
        assert error < mean(outcome.error_of_last for outcome in outcomes[key])

    def test_mean_error_is_half_of_that_of_the_last_period(self, outcomes: dict[str, list[Outcome]]) -> None:
        error = mean(outcome.error for outcome in outcomes["all"])
        assert error < 0.55 * mean(outcome.error_of_last for outcome in outcomes["all"])

    def test_error_decreases_during_the_period(self, outcomes: dict[str, list[Outcome]]) -> None:
        early, middle, late = (mean(outcome.error for outcome in outcomes[str(cut)]) for cut in CUTS)
        assert early > middle > late

    def test_forecast_is_deterministic(self) -> None:
        assert Series.make(5).at(50) == Series.make(5).at(50)

    def test_two_years_of_history_are_fast(self) -> None:
        series = Series.make(SHAPES.index((PeriodType.ANNUAL, 2)) * len(FAMILIES) + list(FAMILIES).index("month ends"))
        durations = []
        for _ in range(7):
            began = process_time()
            assert series.at(10).days_observed > 730
            durations.append(process_time() - began)
        assert min(durations) < 0.02


JUNE = ForecastInput(date(2027, 6, 1), date(2027, 7, 1), date(2027, 6, 16), limit=Decimal(400), currency="EUR")
"""The middle of a month of 30 days; 1 June 2027 is a Tuesday."""


def by_day(
    start: date, end: date, amount: Callable[[date], int | Decimal] = lambda _: 10
) -> list[tuple[date, Decimal]]:
    """Return the amount of each day from `start` to before `end`."""
    days = (start + number * DAY for number in range((end - start).days))
    return [(day, Decimal(amount(day))) for day in days]


def amounts(result: Forecast) -> tuple[str, str, str]:
    return str(result.low), str(result.expected), str(result.high)


class TestKnownPatterns:
    """Clear patterns have an exact forecast."""

    PAST = date(2026, 12, 1)

    def test_constant_spend_continues(self) -> None:
        result = forecast(JUNE, by_day(self.PAST, JUNE.today))
        assert amounts(result) == ("300.00", "300.00", "300.00")
        assert (result.method, result.days_observed, result.runs_out_on) == (Method.LEVEL, 197, None)

    def test_exhaustion_is_the_first_day_above_the_limit(self) -> None:
        spends = by_day(self.PAST, JUNE.today)
        assert forecast(replace(JUNE, limit=Decimal(200)), spends).runs_out_on == date(2027, 6, 21)
        assert forecast(replace(JUNE, limit=Decimal("199.99")), spends).runs_out_on == date(2027, 6, 20)
        assert forecast(replace(JUNE, limit=Decimal(300)), spends).runs_out_on is None

    def test_past_exhaustion_has_its_day(self) -> None:
        spends = by_day(self.PAST, JUNE.today)
        assert forecast(replace(JUNE, limit=Decimal(95)), spends).runs_out_on == date(2027, 6, 10)
        refunded = [*spends, (date(2027, 6, 12), Decimal(-60))]
        assert forecast(replace(JUNE, limit=Decimal(95)), refunded).runs_out_on == date(2027, 6, 16)

    def test_weekends_without_spend_continue(self) -> None:
        spends = by_day(self.PAST, JUNE.today, lambda day: 14 if day.weekday() < 5 else 0)
        result = forecast(replace(JUNE, today=date(2027, 6, 26), limit=Decimal(270)), [*spends, *by_day(
            JUNE.today, date(2027, 6, 26), lambda day: 14 if day.weekday() < 5 else 0
        )])  # fmt: skip
        assert abs(result.expected - 22 * 14) < 3
        assert result.runs_out_on == date(2027, 6, 28)

    def test_invoices_recur_on_their_day(self) -> None:
        spends = by_day(self.PAST, JUNE.today, lambda day: {3: 100, 20: 250}.get(day.day, 0))
        result = forecast(replace(JUNE, limit=Decimal(349)), spends)
        assert amounts(result) == ("350.00", "350.00", "350.00")
        assert result.runs_out_on == date(2027, 6, 20)
        assert forecast(replace(JUNE, today=date(2027, 6, 15)), spends[:-1]).method is Method.MONTH_DAYS

    def test_invoice_of_the_only_known_month_recurs(self) -> None:
        spends = by_day(date(2027, 5, 1), JUNE.today, lambda day: 250 if day.day == 20 else 0)
        result = forecast(JUNE, spends)
        assert (result.expected, result.method) == (Decimal("250.00"), Method.MONTH_DAYS)
        assert result.low < 100
        assert result.high > 400

    def test_last_day_of_a_month_is_the_last_of_a_shorter_month(self) -> None:
        spends = by_day(self.PAST, JUNE.today, lambda day: 10 + 200 * ((day + DAY).day == 1))
        result = forecast(JUNE, spends)
        assert amounts(result) == ("500.00", "500.00", "500.00")
        assert result.method is Method.LEVEL_AND_MONTH_DAYS
        assert result.runs_out_on == date(2027, 6, 30)

    def test_trend_continues(self) -> None:
        spends = by_day(self.PAST, JUNE.today, lambda day: 100 + (day - self.PAST).days)
        result = forecast(JUNE, spends)
        truth = sum(100 + (day - self.PAST).days for day, _ in by_day(JUNE.start, JUNE.end))
        assert result.method is Method.TREND
        assert abs(result.expected - truth) < truth / 100
        assert result.low < result.expected < result.high

    def test_falling_trend_ends_at_zero(self) -> None:
        year = replace(JUNE, end=date(2028, 6, 1))
        spends = by_day(self.PAST, JUNE.today, lambda day: 215 - (day - self.PAST).days)
        spent = sum(amount for day, amount in spends if day >= JUNE.start)
        result = forecast(year, spends)
        assert result.method is Method.TREND
        assert spent <= result.low <= result.expected < spent + 19 * 20

    def test_interval_is_not_narrow_by_chance(self) -> None:
        today = date(2027, 6, 17)
        spends = by_day(self.PAST, today, lambda day: 10 if (today - day).days % 14 < 7 else 20)
        result = forecast(replace(JUNE, today=today), spends)
        assert result.method is Method.LEVEL
        assert result.high - result.low > 100

    def test_new_level_counts_after_a_step(self) -> None:
        spends = by_day(self.PAST, JUNE.today, lambda day: 10 if day < date(2027, 5, 10) else 30)
        result = forecast(JUNE, spends)
        assert 890 < result.expected < 910
        assert result.high > result.low


class TestShortHistory:
    def test_plan_is_expected_without_any_spend(self) -> None:
        result = forecast(replace(JUNE, today=JUNE.start), [])
        assert amounts(result) == ("0.00", "400.00", "400.00")
        assert (result.method, result.days_observed, result.runs_out_on) == (Method.PLAN, 0, None)

    def test_commitments_above_the_plan_are_expected(self) -> None:
        result = forecast(replace(JUNE, today=JUNE.start, committed=Decimal(450)), [])
        assert amounts(result) == ("450.00", "450.00", "450.00")
        assert result.runs_out_on == JUNE.start

    def test_days_without_spend_count(self) -> None:
        result = forecast(JUNE, [])
        assert amounts(result) == ("0.00", "0.00", "0.00")
        assert (result.method, result.days_observed, result.runs_out_on) == (Method.RUN_RATE, 15, None)

    def test_months_without_spend_count(self) -> None:
        assert amounts(forecast(JUNE, [], since=date(2026, 6, 1))) == ("0.00", "0.00", "0.00")

    def test_days_without_spend_count_from_the_known_start(self) -> None:
        spends = by_day(date(2027, 5, 1), JUNE.today)
        assert forecast(JUNE, spends).days_observed == 46
        assert forecast(JUNE, spends, since=date(2027, 4, 1)).days_observed == 76
        assert forecast(JUNE, [(date(2020, 1, 1), Decimal(10**6)), *spends], since=date(2027, 5, 1)).expected == 300

    def test_one_day_gives_a_wide_interval(self) -> None:
        result = forecast(replace(JUNE, today=date(2027, 6, 2)), [(JUNE.start, Decimal(10))])
        assert (result.expected, result.method, result.days_observed) == (Decimal(300), Method.RUN_RATE, 1)
        assert result.low == 10
        assert result.high > 600
        assert result.runs_out_on is None

    def test_part_of_the_first_day_is_used(self) -> None:
        result = forecast(replace(JUNE, today=JUNE.start), [(JUNE.start, Decimal(20))])
        assert (result.expected, result.method) == (Decimal(600), Method.RUN_RATE)
        assert result.runs_out_on == date(2027, 6, 21)

    def test_period_of_one_day(self) -> None:
        day = replace(JUNE, today=JUNE.start, end=JUNE.start + DAY)
        assert amounts(forecast(day, [(JUNE.start, Decimal(20))])) == ("20.00", "20.00", "20.00")
        assert forecast(day, by_day(date(2027, 3, 1), JUNE.start)).expected == 10

    def test_few_equal_days_give_no_certainty(self) -> None:
        week = replace(JUNE, today=date(2027, 6, 8))
        few, more = forecast(week, by_day(JUNE.start, week.today)), forecast(JUNE, by_day(JUNE.start, JUNE.today))
        assert few.expected == more.expected == 300
        assert few.high - few.low > 2 * (more.high - more.low) > 0

    def test_future_period_is_forecast_from_earlier_ones(self) -> None:
        result = forecast(replace(JUNE, today=date(2027, 5, 20)), by_day(date(2027, 1, 1), date(2027, 5, 20)))
        assert amounts(result) == ("300.00", "300.00", "300.00")

    def test_more_distant_period_has_a_wider_interval(self) -> None:
        spends = by_day(date(2027, 1, 1), JUNE.today, lambda day: (day - date(2027, 1, 1)).days ** 2)
        soon, later = (
            forecast(replace(JUNE, start=start, end=start + 30 * DAY), spends)
            for start in (JUNE.today, JUNE.today + 30 * DAY)
        )
        assert later.high - later.low > 1.3 * float(soon.high - soon.low)

    def test_past_period_has_the_actual_spend(self) -> None:
        over = replace(JUNE, today=JUNE.end, limit=Decimal(250), committed=Decimal(50))
        result = forecast(over, by_day(date(2027, 5, 1), date(2027, 7, 10)))
        assert amounts(result) == ("300.00", "300.00", "300.00")
        assert (result.method, result.days_observed, result.runs_out_on) == (Method.ACTUAL, 30, date(2027, 6, 26))


class TestRecordedAndCommitted:
    PAST = date(2026, 12, 1)

    def test_spend_of_today_is_part_of_today(self) -> None:
        spends = by_day(self.PAST, JUNE.today)
        assert forecast(JUNE, [*spends, (JUNE.today, Decimal(4))]).expected == 300
        assert forecast(JUNE, [*spends, (JUNE.today, Decimal(25))]).expected == 315
        assert forecast(JUNE, [*spends, (JUNE.today, Decimal(-25))]).expected == 275

    def test_spend_recorded_ahead_is_part_of_its_day(self) -> None:
        spends = [*by_day(self.PAST, JUNE.today), (date(2027, 6, 20), Decimal(60))]
        result = forecast(replace(JUNE, limit=Decimal(240)), spends)
        assert result.expected == result.low == 350
        assert result.runs_out_on == date(2027, 6, 20)

    def test_commitments_are_a_minimum_and_may_add_to_the_rest(self) -> None:
        spends = by_day(self.PAST, JUNE.today)
        assert amounts(forecast(replace(JUNE, committed=Decimal(40)), spends)) == ("300.00", "300.00", "340.00")
        assert amounts(forecast(replace(JUNE, committed=Decimal(200)), spends)) == ("350.00", "350.00", "500.00")

    def test_commitments_beyond_the_usual_count_today(self) -> None:
        spends = by_day(self.PAST, JUNE.today)
        assert forecast(replace(JUNE, committed=Decimal(500)), spends).runs_out_on == JUNE.today

    def test_refunds_lower_the_forecast(self) -> None:
        spends = [*by_day(self.PAST, JUNE.today), (date(2027, 6, 10), Decimal(-100))]
        result = forecast(JUNE, spends)
        assert 180 < result.expected < 200
        assert result.low < result.expected < result.high

    def test_more_refunds_than_spend_give_a_negative_forecast(self) -> None:
        result = forecast(JUNE, by_day(self.PAST, JUNE.today, lambda _: -10))
        assert (result.expected, result.runs_out_on) == (Decimal(-300), None)

    def test_amounts_of_a_day_are_added_in_any_order(self) -> None:
        spends = by_day(self.PAST, JUNE.today, lambda day: day.day)
        halves = [(day, amount / 2) for day, amount in spends] * 2
        assert forecast(JUNE, reversed(halves)) == forecast(JUNE, spends)

    @pytest.mark.parametrize(("currency", "low", "high"), [("JPY", "89", "111"), ("BHD", "89.262", "110.738")])
    def test_amounts_have_the_digits_of_the_currency(self, currency: str, low: str, high: str) -> None:
        spends = by_day(JUNE.start, JUNE.today, lambda _: Decimal(10) / 3)
        result = forecast(replace(JUNE, currency=currency), spends)
        assert amounts(result) == (low, str(Decimal(100).quantize(Decimal(low))), high)


@st.composite
def inputs(draw: st.DrawFn) -> tuple[ForecastInput, list[tuple[date, Decimal]]]:
    start = draw(st.dates(date(2020, 1, 1), date(2040, 1, 1)))
    end = start + DAY * draw(st.integers(1, 400))
    today = start + DAY * draw(st.integers(-100, 420))
    cents = st.integers(-100_000, 1_000_000).map(lambda number: Decimal(number).scaleb(-2))
    days = st.integers(-500, 400).map(lambda number: start + DAY * number)
    limit, committed = (max(draw(cents), Decimal(0)) for _ in range(2))
    return ForecastInput(start, end, today, limit, "EUR", committed), draw(
        st.lists(st.tuples(days, cents), max_size=60)
    )


class TestAnyInput:
    @given(inputs())
    def test_interval_contains_the_forecast_and_spend_above_the_limit_exhausts(
        self, case: tuple[ForecastInput, list[tuple[date, Decimal]]]
    ) -> None:
        course, spends = case
        result = forecast(course, spends)
        assert result.low <= result.expected <= result.high
        assert result.runs_out_on is not None or result.expected <= course.limit
        assert result.runs_out_on is None or course.start <= result.runs_out_on < course.end
        assert all(amount.as_tuple().exponent == -2 for amount in (result.low, result.expected, result.high))

    @given(inputs(), st.sampled_from([10, 1000]))
    def test_result_does_not_depend_on_the_unit(
        self, case: tuple[ForecastInput, list[tuple[date, Decimal]]], units: int
    ) -> None:
        course, spends = case
        larger = replace(course, limit=course.limit * units, committed=course.committed * units)
        one, other = forecast(course, spends), forecast(larger, [(day, amount * units) for day, amount in spends])
        assert one.method == other.method
        assert abs(one.expected * units - other.expected) <= units
        assert abs(one.high * units - other.high) <= units
