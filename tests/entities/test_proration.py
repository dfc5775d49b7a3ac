"""Parts of a fee by days: exact, and always the whole when they are put together again."""

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
from services.entities.domain.proration import Days, Stretch, accrued, prorate, rounded, uplifted

PLACES = {"EUR": 2, "JPY": 0, "BHD": 3}
MARCH = Days(date(2027, 3, 1), date(2027, 4, 1))

currencies = st.sampled_from(list(PLACES))
starts = st.dates(date(1990, 1, 1), date(2150, 12, 31))


@st.composite
def fees(draw: st.DrawFn) -> Money:
    currency = draw(currencies)
    return Money(Decimal(draw(st.integers(0, 10**12))).scaleb(-PLACES[currency]), currency)


@st.composite
def cut_days(draw: st.DrawFn) -> tuple[Days, list[date]]:
    """Days, and where they are cut: anywhere, also twice at the same place or before the first day."""
    start, length = draw(starts), draw(st.integers(1, 400))
    cuts = sorted(draw(st.lists(st.integers(0, length), max_size=12)))
    return Days(start, start + timedelta(length)), [start + timedelta(cut) for cut in (0, *cuts, length)]


def eur(amount: str) -> Money:
    return Money(Decimal(amount), "EUR")


def days(start: str, end: str) -> Days:
    return Days(date.fromisoformat(start), date.fromisoformat(end))


def total(parts: Sequence[Money]) -> Decimal:
    return sum((part.amount for part in parts), Decimal(0))


class TestProrate:
    @pytest.mark.parametrize(
        ("fee", "part", "expected"),
        [
            ("310.00", ("2027-03-16", "2027-04-01"), "160.00"),
            ("310.00", ("2027-03-01", "2027-03-02"), "10.00"),
            ("310.00", ("2027-02-01", "2027-05-01"), "310.00"),
            ("310.00", ("2027-03-10", "2027-03-10"), "0.00"),
            ("310.00", ("2027-04-01", "2027-05-01"), "0.00"),
            ("310.00", ("2027-03-20", "2027-03-10"), "0.00"),
            ("100.00", ("2027-03-16", "2027-04-01"), "51.61"),
            ("0.01", ("2027-03-01", "2027-03-17"), "0.01"),
            ("0.01", ("2027-03-17", "2027-04-01"), "0.00"),
        ],
    )
    def test_a_part_is_as_much_of_the_fee_as_of_the_days(self, fee: str, part: tuple[str, str], expected: str) -> None:
        assert prorate(eur(fee), days(*part), MARCH) == eur(expected)

    @given(fees(), cut_days())
    def test_wherever_days_are_cut_the_parts_sum_to_the_whole(self, fee: Money, cut: tuple[Days, list[date]]) -> None:
        whole, cuts = cut
        parts = [prorate(fee, Days(*ends), whole) for ends in pairwise(cuts)]
        assert total(parts) == fee.amount
        assert all(part.amount >= 0 for part in parts)

    @given(fees(), cut_days())
    def test_no_part_is_off_by_a_whole_unit(self, fee: Money, cut: tuple[Days, list[date]]) -> None:
        whole, cuts = cut
        for start, end in pairwise(cuts):
            exact = Fraction(fee.amount) * (end - start).days / whole.count
            off = abs(Fraction(prorate(fee, Days(start, end), whole).amount) - exact)
            assert off * 10 ** PLACES[fee.currency] <= 1

    def test_ten_thousand_seeded_cuts_lose_nothing(self) -> None:
        chance = random.Random(4)  # noqa: S311 - the same cases in every run
        for _ in range(10_000):
            whole = Days(MARCH.start, MARCH.start + timedelta(chance.choice((28, 30, 31, 90, 92, 365, 366))))
            cuts = sorted(chance.choices(range(whole.count + 1), k=8))
            ends = [whole.start + timedelta(cut) for cut in (0, *cuts, whole.count)]
            fee = Money(Decimal(chance.randrange(10**9)).scaleb(-2), "EUR")
            assert total([prorate(fee, Days(*each), whole) for each in pairwise(ends)]) == fee.amount


class TestAccrued:
    @given(st.lists(fees().map(lambda fee: fee.amount), min_size=1, max_size=4), cut_days())
    def test_with_several_fees_in_one_period_the_parts_sum_too(
        self, amounts: list[Decimal], cut: tuple[Days, list[date]]
    ) -> None:
        whole, cuts = cut
        steps = [
            whole.start,
            *(whole.start + timedelta(whole.count * n // 4) for n in range(1, len(amounts))),
            whole.end,
        ]
        stretches = [Stretch(Days(*ends), fee) for ends, fee in zip(pairwise(steps), amounts, strict=True)]
        until = [accrued(stretches, whole, day, "EUR") for day in cuts]
        parts = [after - before for before, after in pairwise(until)]
        assert total(parts) == accrued(stretches, whole, whole.end, "EUR").amount
        assert all(part.amount >= 0 for part in parts)

    def test_one_unit_is_rounded_once_and_not_once_a_fee(self) -> None:
        halves = [Stretch(days("2027-03-01", "2027-03-16"), Decimal("0.01"))]
        halves.append(Stretch(days("2027-03-16", "2027-04-01"), Decimal("0.01")))
        assert accrued(halves, MARCH, MARCH.end, "EUR") == eur("0.01")


class TestRounded:
    @pytest.mark.parametrize(
        ("exact", "expected"),
        [("0.005", "0.00"), ("0.015", "0.02"), ("0.025", "0.02"), ("-0.015", "-0.02"), ("0.0251", "0.03")],
    )
    def test_a_half_goes_to_the_even_neighbour(self, exact: str, expected: str) -> None:
        assert rounded(Fraction(exact), "EUR") == eur(expected)

    @pytest.mark.parametrize(("currency", "expected"), [("JPY", "1235"), ("BHD", "1234.568"), ("EUR", "1234.57")])
    def test_to_the_smallest_unit_of_the_currency(self, currency: str, expected: str) -> None:
        assert rounded(Fraction("1234.5678"), currency).text() == expected


class TestUplifted:
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
    def test_so_many_basis_points_on_top(self, fee: str, uplift_bp: int, expected: str) -> None:
        assert uplifted(eur(fee), uplift_bp) == eur(expected)

    @given(fees(), st.integers(-10_000, 10_000))
    def test_it_is_exact_to_half_a_unit(self, fee: Money, uplift_bp: int) -> None:
        exact = Fraction(fee.amount) * (10_000 + uplift_bp) / 10_000
        off = abs(Fraction(uplifted(fee, uplift_bp).amount) - exact)
        assert off * 10 ** PLACES[fee.currency] <= Fraction(1, 2)


def test_days_that_end_before_they_begin_are_none() -> None:
    assert days("2027-03-20", "2027-03-10").count == 0
    assert MARCH.before(date(2027, 3, 11)).count == 10
    assert MARCH.before(date(2027, 2, 1)).count == 0
    assert MARCH.shared(days("2027-03-30", "2027-06-01")) == days("2027-03-30", "2027-04-01")
