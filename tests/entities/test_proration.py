"""Proration by days: exact, and the parts of a fee sum to the whole fee."""

import random
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.money import Money
from services.entities import domain
from services.entities.domain.proration import DateRange, FeeInterval

PLACES = {"EUR": 2, "JPY": 0, "BHD": 3}
MARCH = DateRange(date(2027, 3, 1), date(2027, 4, 1))

currencies = st.sampled_from(list(PLACES))
starts = st.dates(date(1990, 1, 1), date(2150, 12, 31))


@st.composite
def fees(draw: st.DrawFn) -> Money:
    currency = draw(currencies)
    return Money(Decimal(draw(st.integers(0, 10**12))).scaleb(-PLACES[currency]), currency)


@st.composite
def cut_periods(draw: st.DrawFn) -> tuple[DateRange, list[date]]:
    """A billing period and the dates at which it is cut, in order; dates may repeat."""
    start, length = draw(starts), draw(st.integers(1, 400))
    cuts = sorted(draw(st.lists(st.integers(0, length), max_size=12)))
    return DateRange(start, start + timedelta(length)), [start + timedelta(cut) for cut in (0, *cuts, length)]


def eur(amount: str) -> Money:
    return Money(Decimal(amount), "EUR")


def days(start: str, end: str) -> DateRange:
    return DateRange(date.fromisoformat(start), date.fromisoformat(end))


def total(parts: Sequence[Money]) -> Decimal:
    return sum((part.amount for part in parts), Decimal(0))


def prorated(fee: Money, dates: DateRange, period: DateRange) -> Money:
    """The part of the period's fee for the dates: the difference of two running totals."""
    intervals = [FeeInterval(period, fee.amount)]
    until_end, until_start = (
        domain.proration.accrued(intervals, period, day, fee.currency) for day in (dates.end, dates.start)
    )
    return until_end - until_start


class TestOneFee:
    @pytest.mark.parametrize(
        ("fee", "dates", "expected"),
        [
            ("310.00", ("2027-03-16", "2027-04-01"), "160.00"),
            ("310.00", ("2027-03-01", "2027-03-02"), "10.00"),
            ("310.00", ("2027-02-01", "2027-05-01"), "310.00"),
            ("310.00", ("2027-03-10", "2027-03-10"), "0.00"),
            ("310.00", ("2027-04-01", "2027-05-01"), "0.00"),
            ("100.00", ("2027-03-16", "2027-04-01"), "51.61"),
            ("0.01", ("2027-03-01", "2027-03-17"), "0.01"),
            ("0.01", ("2027-03-17", "2027-04-01"), "0.00"),
        ],
    )
    def test_part_is_proportional_to_its_days(self, fee: str, dates: tuple[str, str], expected: str) -> None:
        assert prorated(eur(fee), days(*dates), MARCH) == eur(expected)

    @given(fees(), cut_periods())
    def test_parts_sum_to_the_fee(self, fee: Money, cut: tuple[DateRange, list[date]]) -> None:
        period, cuts = cut
        parts = [prorated(fee, DateRange(*ends), period) for ends in pairwise(cuts)]
        assert total(parts) == fee.amount
        assert all(part.amount >= 0 for part in parts)

    @given(fees(), cut_periods())
    def test_rounding_error_of_a_part_is_at_most_one_unit(self, fee: Money, cut: tuple[DateRange, list[date]]) -> None:
        period, cuts = cut
        for start, end in pairwise(cuts):
            exact = Fraction(fee.amount) * (end - start).days / period.days
            error = abs(Fraction(prorated(fee, DateRange(start, end), period).amount) - exact)
            assert error * 10 ** PLACES[fee.currency] <= 1

    def test_ten_thousand_random_cuts_sum_to_the_fee(self) -> None:
        chance = random.Random(4)  # noqa: S311 - the same cases in every run
        for _ in range(10_000):
            period = DateRange(MARCH.start, MARCH.start + timedelta(chance.choice((28, 30, 31, 90, 92, 365, 366))))
            cuts = sorted(chance.choices(range(period.days + 1), k=8))
            ends = [period.start + timedelta(cut) for cut in (0, *cuts, period.days)]
            fee = Money(Decimal(chance.randrange(10**9)).scaleb(-2), "EUR")
            assert total([prorated(fee, DateRange(*each), period) for each in pairwise(ends)]) == fee.amount


class TestSeveralFees:
    @given(st.lists(fees().map(lambda fee: fee.amount), min_size=1, max_size=4), cut_periods())
    def test_parts_sum_to_the_fee_of_the_period(
        self, amounts: list[Decimal], cut: tuple[DateRange, list[date]]
    ) -> None:
        period, cuts = cut
        steps = [
            period.start,
            *(period.start + timedelta(period.days * n // 4) for n in range(1, len(amounts))),
            period.end,
        ]
        intervals = [FeeInterval(DateRange(*ends), fee) for ends, fee in zip(pairwise(steps), amounts, strict=True)]
        until = [domain.proration.accrued(intervals, period, day, "EUR") for day in cuts]
        parts = [after - before for before, after in pairwise(until)]
        assert total(parts) == domain.proration.accrued(intervals, period, period.end, "EUR").amount
        assert all(part.amount >= 0 for part in parts)

    def test_sum_is_rounded_once(self) -> None:
        halves = [FeeInterval(days("2027-03-01", "2027-03-16"), Decimal("0.01"))]
        halves.append(FeeInterval(days("2027-03-16", "2027-04-01"), Decimal("0.01")))
        assert domain.proration.accrued(halves, MARCH, MARCH.end, "EUR") == eur("0.01")


class TestRounding:
    @pytest.mark.parametrize(
        ("exact", "expected"),
        [("0.005", "0.00"), ("0.015", "0.02"), ("0.025", "0.02"), ("-0.015", "-0.02"), ("0.0251", "0.03")],
    )
    def test_half_is_rounded_to_even(self, exact: str, expected: str) -> None:
        assert domain.proration.round_exact(Fraction(exact), "EUR") == eur(expected)

    @pytest.mark.parametrize(("currency", "expected"), [("JPY", "1235"), ("BHD", "1234.568"), ("EUR", "1234.57")])
    def test_rounds_to_the_smallest_unit_of_the_currency(self, currency: str, expected: str) -> None:
        assert domain.proration.round_exact(Fraction("1234.5678"), currency).text() == expected

    @pytest.mark.parametrize(("exact", "expected"), [("1.999", "1.99"), ("-0.001", "-0.01"), ("2", "2.00")])
    def test_rounds_down_towards_negative_infinity(self, exact: str, expected: str) -> None:
        assert domain.proration.round_down(Fraction(exact), "EUR").text() == expected


class TestUplift:
    @pytest.mark.parametrize(
        ("fee", "uplift_bp", "expected"),
        [
            ("1000.00", 300, "1030.00"),
            ("1000.00", 0, "1000.00"),
            ("0.50", 100, "0.50"),  # 0.505: half to even
            ("1.50", 100, "1.52"),  # 1.515
            ("99.99", 10_000, "199.98"),
            ("1000.00", -250, "975.00"),
            ("0.00", 300, "0.00"),
        ],
    )
    def test_fee_is_raised_by_basis_points(self, fee: str, uplift_bp: int, expected: str) -> None:
        assert domain.proration.uplift(eur(fee), uplift_bp) == eur(expected)

    @given(fees(), st.integers(-10_000, 10_000))
    def test_rounding_error_is_at_most_half_a_unit(self, fee: Money, uplift_bp: int) -> None:
        exact = Fraction(fee.amount) * (10_000 + uplift_bp) / 10_000
        error = abs(Fraction(domain.proration.uplift(fee, uplift_bp).amount) - exact)
        assert error * 10 ** PLACES[fee.currency] <= Fraction(1, 2)


def test_date_range_that_ends_before_its_start_is_empty() -> None:
    assert days("2027-03-20", "2027-03-10").days == 0
    assert MARCH.before(date(2027, 3, 11)).days == 10
    assert MARCH.before(date(2027, 2, 1)).days == 0
    assert MARCH.intersection(days("2027-03-30", "2027-06-01")) == days("2027-03-30", "2027-04-01")
