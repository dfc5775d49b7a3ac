"""Forecasts are right about spend of many kinds as often as they say, and sensible where little is known."""

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
"""Percent of the period that has passed."""


@dataclass
class Nature:
    """What makes one series of spend; amounts are in usual days."""

    noise: float
    usual: float = 1
    week: tuple[float, ...] = (1,) * 7
    growth: float = 0
    month_end: float = 0
    invoices: Mapping[int, float] = field(default_factory=dict)
    lumps: float = 0
    step: float = 1


def working_week(rng: Random) -> tuple[float, ...]:
    return (*(rng.uniform(0.7, 1.3) for _ in range(5)), *(rng.uniform(0, 0.3) for _ in range(2)))


def any_week(rng: Random) -> tuple[float, ...]:
    return rng.choice([(1,) * 7, working_week(rng)])


def noise(rng: Random) -> float:
    return rng.uniform(0.15, 0.6)


def invoices(rng: Random) -> Nature:
    days = {rng.randint(1, 28): rng.uniform(5, 30) for _ in range(rng.randint(1, 3))}
    return Nature(rng.uniform(0.05, 0.2), usual=rng.choice([0, 0, 0.3]), invoices=days)


def mixed(rng: Random) -> Nature:
    days = {rng.randint(1, 28): rng.uniform(3, 10)}
    return Nature(noise(rng), week=working_week(rng), invoices=days, growth=rng.uniform(-0.04, 0.06), lumps=0.03)


FAMILIES: Mapping[str, Callable[[Random], Nature]] = {
    "flat": lambda rng: Nature(rng.uniform(0.4, 0.9)),
    "weekdays": lambda rng: Nature(noise(rng), week=working_week(rng)),
    "month ends": lambda rng: Nature(noise(rng), week=any_week(rng), month_end=rng.uniform(4, 12)),
    "rising": lambda rng: Nature(noise(rng), week=any_week(rng), growth=rng.uniform(0.03, 0.1)),
    "falling": lambda rng: Nature(noise(rng), week=any_week(rng), growth=-rng.uniform(0.03, 0.1)),
    "invoices": invoices,
    "lumpy": lambda rng: Nature(noise(rng), usual=rng.choice([0, 0.1]), lumps=rng.uniform(0.06, 0.3)),
    "step": lambda rng: Nature(noise(rng), week=any_week(rng), step=rng.choice([0.4, 0.6, 1.6, 2.2])),
    "mixed": mixed,
}
SHAPES = [
    (PeriodType.MONTHLY, 1), (PeriodType.MONTHLY, 3), (PeriodType.MONTHLY, 6), (PeriodType.MONTHLY, 11),
    (PeriodType.QUARTERLY, 1), (PeriodType.QUARTERLY, 3), (PeriodType.ANNUAL, 1), (PeriodType.ANNUAL, 2),
]  # fmt: skip
"""How long the period is, and how many are known before it."""


def spend(rng: Random, nature: Nature, days: list[date], changes_on: date) -> Iterator[tuple[date, Decimal]]:
    """A series: its usual day, by weekday, with noise, growing by the month, and what comes on top of it."""
    size = math.exp(rng.uniform(3, 9))
    for day in days:
        level = size * math.exp(nature.growth * (day - days[0]).days / 30.4)
        level *= nature.step if day >= changes_on else 1
        amount = nature.usual * nature.week[day.weekday()] * rng.lognormvariate(-(nature.noise**2) / 2, nature.noise)
        amount += nature.invoices.get(day.day, 0) * rng.lognormvariate(0, nature.noise)
        if (day + DAY).day == 1:
            amount += nature.month_end * rng.lognormvariate(0, 0.2)
        if rng.random() < nature.lumps:
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
        """One of each family and shape in turn; a step comes at some time from a period before to half of this one."""
        rng = Random(seed)  # noqa: S311 - repeatable is what it is to be
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
        course = ForecastInput(period.start, period.end, today, limit=Decimal(1_000_000), currency="EUR")
        known = [(day, amount) for day, amount in self.spends if day < today]
        return forecast(course, known, since=self.periods[0].start)


@dataclass(frozen=True)
class Outcome:
    covered: bool
    error: float
    """In mean periods."""
    error_of_last: float
    """The same, had one said that it becomes what it was in the last period."""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[Outcome]]:
    """What came of it, by family and by cut."""
    found = defaultdict(list)
    for seed in range(SERIES):
        series = Series.make(seed)
        total, last = series.total(series.periods[-1]), series.total(series.periods[-2])
        usual = sum(map(series.total, series.periods), Decimal(0)) / len(series.periods)
        for cut in CUTS:
            said = series.at(cut)
            covered = said.low <= total <= said.high
            outcome = Outcome(covered, float(abs(said.expected - total) / usual), float(abs(last - total) / usual))
            for key in (series.family, str(cut), "all"):
                found[key].append(outcome)
    return found


class TestGeneratedSpend:
    def test_the_band_holds_in_four_cases_of_five(self, outcomes: dict[str, list[Outcome]]) -> None:
        assert len(outcomes["all"]) == SERIES * len(CUTS)
        for key in ("all", *map(str, CUTS)):
            assert 0.7 <= mean(outcome.covered for outcome in outcomes[key]) <= 0.9, key

    @pytest.mark.parametrize("family", FAMILIES)
    def test_no_kind_of_spend_escapes_it(self, outcomes: dict[str, list[Outcome]], family: str) -> None:
        assert mean(outcome.covered for outcome in outcomes[family]) >= 0.65

    @pytest.mark.parametrize("key", ["all", "10", "50", "90", *FAMILIES])
    def test_it_errs_less_than_saying_the_same_as_last_period(
        self, outcomes: dict[str, list[Outcome]], key: str
    ) -> None:
        error = mean(outcome.error for outcome in outcomes[key])
        assert error < mean(outcome.error_of_last for outcome in outcomes[key])

    def test_it_errs_half_as_much_on_the_whole(self, outcomes: dict[str, list[Outcome]]) -> None:
        error = mean(outcome.error for outcome in outcomes["all"])
        assert error < 0.55 * mean(outcome.error_of_last for outcome in outcomes["all"])

    def test_it_errs_less_the_later_it_is_asked(self, outcomes: dict[str, list[Outcome]]) -> None:
        early, middle, late = (mean(outcome.error for outcome in outcomes[str(cut)]) for cut in CUTS)
        assert early > middle > late

    def test_it_says_the_same_when_asked_again(self) -> None:
        assert Series.make(5).at(50) == Series.make(5).at(50)

    def test_two_years_of_days_take_little_time(self) -> None:
        series = Series.make(SHAPES.index((PeriodType.ANNUAL, 2)) * len(FAMILIES) + list(FAMILIES).index("month ends"))
        took = []
        for _ in range(7):
            began = process_time()
            assert series.at(10).days_observed > 730
            took.append(process_time() - began)
        assert min(took) < 0.02


JUNE = ForecastInput(date(2027, 6, 1), date(2027, 7, 1), date(2027, 6, 16), limit=Decimal(400), currency="EUR")
"""Half of a month of 30 days has passed; 1 June 2027 is a Tuesday."""


def by_day(
    start: date, end: date, amount: Callable[[date], int | Decimal] = lambda _: 10
) -> list[tuple[date, Decimal]]:
    """`amount` for each day from `start` to before `end`."""
    days = (start + number * DAY for number in range((end - start).days))
    return [(day, Decimal(amount(day))) for day in days]


def amounts(said: Forecast) -> tuple[str, str, str]:
    return str(said.low), str(said.expected), str(said.high)


class TestKnownCourses:
    """What follows from the past without doubt is said so."""

    PAST = date(2026, 12, 1)

    def test_the_same_every_day_goes_on(self) -> None:
        said = forecast(JUNE, by_day(self.PAST, JUNE.today))
        assert amounts(said) == ("300.00", "300.00", "300.00")
        assert (said.method, said.days_observed, said.runs_out_on) == (Method.LEVEL, 197, None)

    def test_it_runs_out_on_the_day_that_no_longer_fits(self) -> None:
        spends = by_day(self.PAST, JUNE.today)
        assert forecast(replace(JUNE, limit=Decimal(200)), spends).runs_out_on == date(2027, 6, 21)
        assert forecast(replace(JUNE, limit=Decimal("199.99")), spends).runs_out_on == date(2027, 6, 20)
        assert forecast(replace(JUNE, limit=Decimal(300)), spends).runs_out_on is None

    def test_what_ran_out_says_since_when(self) -> None:
        spends = by_day(self.PAST, JUNE.today)
        assert forecast(replace(JUNE, limit=Decimal(95)), spends).runs_out_on == date(2027, 6, 10)
        refunded = [*spends, (date(2027, 6, 12), Decimal(-60))]
        assert forecast(replace(JUNE, limit=Decimal(95)), refunded).runs_out_on == date(2027, 6, 16)

    def test_weekends_without_spend_stay_so(self) -> None:
        spends = by_day(self.PAST, JUNE.today, lambda day: 14 if day.weekday() < 5 else 0)
        said = forecast(replace(JUNE, today=date(2027, 6, 26), limit=Decimal(270)), [*spends, *by_day(
            JUNE.today, date(2027, 6, 26), lambda day: 14 if day.weekday() < 5 else 0
        )])  # fmt: skip
        assert abs(said.expected - 22 * 14) < 3
        assert said.runs_out_on == date(2027, 6, 28)

    def test_invoices_come_on_their_day_again(self) -> None:
        spends = by_day(self.PAST, JUNE.today, lambda day: {3: 100, 20: 250}.get(day.day, 0))
        said = forecast(replace(JUNE, limit=Decimal(349)), spends)
        assert amounts(said) == ("350.00", "350.00", "350.00")
        assert said.runs_out_on == date(2027, 6, 20)
        assert forecast(replace(JUNE, today=date(2027, 6, 15)), spends[:-1]).method is Method.MONTH_DAYS

    def test_the_invoice_of_the_only_month_known_comes_again(self) -> None:
        spends = by_day(date(2027, 5, 1), JUNE.today, lambda day: 250 if day.day == 20 else 0)
        said = forecast(JUNE, spends)
        assert (said.expected, said.method) == (Decimal("250.00"), Method.MONTH_DAYS)
        assert said.low < 100
        assert said.high > 400

    def test_the_last_day_of_a_month_is_the_last_of_a_shorter_one(self) -> None:
        spends = by_day(self.PAST, JUNE.today, lambda day: 10 + 200 * ((day + DAY).day == 1))
        said = forecast(JUNE, spends)
        assert amounts(said) == ("500.00", "500.00", "500.00")
        assert said.method is Method.LEVEL_AND_MONTH_DAYS
        assert said.runs_out_on == date(2027, 6, 30)

    def test_a_trend_goes_on(self) -> None:
        spends = by_day(self.PAST, JUNE.today, lambda day: 100 + (day - self.PAST).days)
        said = forecast(JUNE, spends)
        truth = sum(100 + (day - self.PAST).days for day, _ in by_day(JUNE.start, JUNE.end))
        assert said.method is Method.TREND
        assert abs(said.expected - truth) < truth / 100
        assert said.low < said.expected < said.high

    def test_a_falling_trend_ends_at_nothing(self) -> None:
        year = replace(JUNE, end=date(2028, 6, 1))
        spends = by_day(self.PAST, JUNE.today, lambda day: 215 - (day - self.PAST).days)
        spent = sum(amount for day, amount in spends if day >= JUNE.start)
        said = forecast(year, spends)
        assert said.method is Method.TREND
        assert spent <= said.low <= said.expected < spent + 19 * 20

    def test_what_was_right_so_far_by_luck_is_no_certainty(self) -> None:
        today = date(2027, 6, 17)
        spends = by_day(self.PAST, today, lambda day: 10 if (today - day).days % 14 < 7 else 20)
        said = forecast(replace(JUNE, today=today), spends)
        assert said.method is Method.LEVEL
        assert said.high - said.low > 100

    def test_after_a_change_the_new_level_counts(self) -> None:
        spends = by_day(self.PAST, JUNE.today, lambda day: 10 if day < date(2027, 5, 10) else 30)
        said = forecast(JUNE, spends)
        assert 890 < said.expected < 910
        assert said.high > said.low


class TestLittleIsKnown:
    def test_without_any_spend_the_plan_is_expected(self) -> None:
        said = forecast(replace(JUNE, today=JUNE.start), [])
        assert amounts(said) == ("0.00", "400.00", "400.00")
        assert (said.method, said.days_observed, said.runs_out_on) == (Method.PLAN, 0, None)

    def test_promises_above_the_plan_are_expected_too(self) -> None:
        said = forecast(replace(JUNE, today=JUNE.start, committed=Decimal(450)), [])
        assert amounts(said) == ("450.00", "450.00", "450.00")
        assert said.runs_out_on == JUNE.start

    def test_days_without_spend_are_known_to_be_without(self) -> None:
        said = forecast(JUNE, [])
        assert amounts(said) == ("0.00", "0.00", "0.00")
        assert (said.method, said.days_observed, said.runs_out_on) == (Method.RUN_RATE, 15, None)

    def test_months_without_spend_as_well(self) -> None:
        assert amounts(forecast(JUNE, [], since=date(2026, 6, 1))) == ("0.00", "0.00", "0.00")

    def test_silence_counts_where_spend_is_known_since_before(self) -> None:
        spends = by_day(date(2027, 5, 1), JUNE.today)
        assert forecast(JUNE, spends).days_observed == 46
        assert forecast(JUNE, spends, since=date(2027, 4, 1)).days_observed == 76
        assert forecast(JUNE, [(date(2020, 1, 1), Decimal(10**6)), *spends], since=date(2027, 5, 1)).expected == 300

    def test_one_day_is_a_rate_nobody_is_sure_of(self) -> None:
        said = forecast(replace(JUNE, today=date(2027, 6, 2)), [(JUNE.start, Decimal(10))])
        assert (said.expected, said.method, said.days_observed) == (Decimal(300), Method.RUN_RATE, 1)
        assert said.low == 10
        assert said.high > 600
        assert said.runs_out_on is None

    def test_some_hours_of_the_first_day_are_better_than_nothing(self) -> None:
        said = forecast(replace(JUNE, today=JUNE.start), [(JUNE.start, Decimal(20))])
        assert (said.expected, said.method) == (Decimal(600), Method.RUN_RATE)
        assert said.runs_out_on == date(2027, 6, 21)

    def test_a_period_of_one_day(self) -> None:
        day = replace(JUNE, today=JUNE.start, end=JUNE.start + DAY)
        assert amounts(forecast(day, [(JUNE.start, Decimal(20))])) == ("20.00", "20.00", "20.00")
        assert forecast(day, by_day(date(2027, 3, 1), JUNE.start)).expected == 10

    def test_a_few_days_that_are_alike_are_no_certainty(self) -> None:
        week = replace(JUNE, today=date(2027, 6, 8))
        few, more = forecast(week, by_day(JUNE.start, week.today)), forecast(JUNE, by_day(JUNE.start, JUNE.today))
        assert few.expected == more.expected == 300
        assert few.high - few.low > 2 * (more.high - more.low) > 0

    def test_a_period_to_come_is_seen_from_those_before(self) -> None:
        said = forecast(replace(JUNE, today=date(2027, 5, 20)), by_day(date(2027, 1, 1), date(2027, 5, 20)))
        assert amounts(said) == ("300.00", "300.00", "300.00")

    def test_a_period_further_off_is_less_sure(self) -> None:
        spends = by_day(date(2027, 1, 1), JUNE.today, lambda day: (day - date(2027, 1, 1)).days ** 2)
        soon, later = (
            forecast(replace(JUNE, start=start, end=start + 30 * DAY), spends)
            for start in (JUNE.today, JUNE.today + 30 * DAY)
        )
        assert later.high - later.low > 1.3 * float(soon.high - soon.low)

    def test_a_period_that_is_over_has_what_was_spent(self) -> None:
        over = replace(JUNE, today=JUNE.end, limit=Decimal(250), committed=Decimal(50))
        said = forecast(over, by_day(date(2027, 5, 1), date(2027, 7, 10)))
        assert amounts(said) == ("300.00", "300.00", "300.00")
        assert (said.method, said.days_observed, said.runs_out_on) == (Method.ACTUAL, 30, date(2027, 6, 26))


class TestWhatComesOnTop:
    PAST = date(2026, 12, 1)

    def test_what_is_spent_today_is_part_of_today(self) -> None:
        spends = by_day(self.PAST, JUNE.today)
        assert forecast(JUNE, [*spends, (JUNE.today, Decimal(4))]).expected == 300
        assert forecast(JUNE, [*spends, (JUNE.today, Decimal(25))]).expected == 315
        assert forecast(JUNE, [*spends, (JUNE.today, Decimal(-25))]).expected == 275

    def test_what_is_booked_ahead_is_part_of_its_day(self) -> None:
        spends = [*by_day(self.PAST, JUNE.today), (date(2027, 6, 20), Decimal(60))]
        said = forecast(replace(JUNE, limit=Decimal(240)), spends)
        assert said.expected == said.low == 350
        assert said.runs_out_on == date(2027, 6, 20)

    def test_promises_are_the_least_that_comes_and_may_come_on_top(self) -> None:
        spends = by_day(self.PAST, JUNE.today)
        assert amounts(forecast(replace(JUNE, committed=Decimal(40)), spends)) == ("300.00", "300.00", "340.00")
        assert amounts(forecast(replace(JUNE, committed=Decimal(200)), spends)) == ("350.00", "350.00", "500.00")

    def test_promises_beyond_the_usual_are_gone_today(self) -> None:
        spends = by_day(self.PAST, JUNE.today)
        assert forecast(replace(JUNE, committed=Decimal(500)), spends).runs_out_on == JUNE.today

    def test_refunds_lower_it(self) -> None:
        spends = [*by_day(self.PAST, JUNE.today), (date(2027, 6, 10), Decimal(-100))]
        said = forecast(JUNE, spends)
        assert 180 < said.expected < 200
        assert said.low < said.expected < said.high

    def test_more_refunds_than_spend_are_below_nothing(self) -> None:
        said = forecast(JUNE, by_day(self.PAST, JUNE.today, lambda _: -10))
        assert (said.expected, said.runs_out_on) == (Decimal(-300), None)

    def test_amounts_of_a_day_add_up_in_any_order(self) -> None:
        spends = by_day(self.PAST, JUNE.today, lambda day: day.day)
        halves = [(day, amount / 2) for day, amount in spends] * 2
        assert forecast(JUNE, reversed(halves)) == forecast(JUNE, spends)

    @pytest.mark.parametrize(("currency", "low", "high"), [("JPY", "89", "111"), ("BHD", "89.262", "110.738")])
    def test_it_has_the_digits_of_the_currency(self, currency: str, low: str, high: str) -> None:
        spends = by_day(JUNE.start, JUNE.today, lambda _: Decimal(10) / 3)
        said = forecast(replace(JUNE, currency=currency), spends)
        assert amounts(said) == (low, str(Decimal(100).quantize(Decimal(low))), high)


@st.composite
def asked(draw: st.DrawFn) -> tuple[ForecastInput, list[tuple[date, Decimal]]]:
    start = draw(st.dates(date(2020, 1, 1), date(2040, 1, 1)))
    end = start + DAY * draw(st.integers(1, 400))
    today = start + DAY * draw(st.integers(-100, 420))
    cents = st.integers(-100_000, 1_000_000).map(lambda number: Decimal(number).scaleb(-2))
    days = st.integers(-500, 400).map(lambda number: start + DAY * number)
    limit, committed = (max(draw(cents), Decimal(0)) for _ in range(2))
    return ForecastInput(start, end, today, limit, "EUR", committed), draw(
        st.lists(st.tuples(days, cents), max_size=60)
    )


class TestAnySpend:
    @given(asked())
    def test_the_band_is_around_it_and_what_exceeds_the_limit_runs_out(
        self, case: tuple[ForecastInput, list[tuple[date, Decimal]]]
    ) -> None:
        course, spends = case
        said = forecast(course, spends)
        assert said.low <= said.expected <= said.high
        assert said.runs_out_on is not None or said.expected <= course.limit
        assert said.runs_out_on is None or course.start <= said.runs_out_on < course.end
        assert all(amount.as_tuple().exponent == -2 for amount in (said.low, said.expected, said.high))

    @given(asked(), st.sampled_from([10, 1000]))
    def test_it_does_not_depend_on_the_unit(
        self, case: tuple[ForecastInput, list[tuple[date, Decimal]]], units: int
    ) -> None:
        course, spends = case
        larger = replace(course, limit=course.limit * units, committed=course.committed * units)
        one, other = forecast(course, spends), forecast(larger, [(day, amount * units) for day, amount in spends])
        assert one.method == other.method
        assert abs(one.expected * units - other.expected) <= units
        assert abs(one.high * units - other.high) <= units
