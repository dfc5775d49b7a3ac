"""Money: exact arithmetic in one currency, parsing and formatting."""

from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.money import (
    DIGITS_MAX,
    Money,
    apportion,
    exponent,
    invalid_reason,
    plain_number,
    round_to,
    round_together,
    unit,
)

PLACES = {"EUR": 2, "USD": 2, "JPY": 0, "KRW": 0, "BHD": 3, "KWD": 3, "TND": 3, "CLF": 4}
currencies = st.sampled_from(sorted(PLACES))


@st.composite
def moneys(draw: st.DrawFn, currency: str | None = None, *, at_least: int = -(10**DIGITS_MAX) + 1) -> Money:
    code = currency or draw(currencies)
    scale = 10 ** PLACES[code]
    minor = draw(st.integers(at_least * scale, (10**DIGITS_MAX - 1) * scale))
    return Money(Decimal(minor).scaleb(-PLACES[code]), code)


class TestText:
    @given(moneys())
    def test_formatted_money_parses_to_the_same_money(self, money: Money) -> None:
        assert Money.parse(money.text(), money.currency) == money

    @given(moneys())
    def test_it_has_the_decimal_places_of_its_currency(self, money: Money) -> None:
        whole, point, decimals = money.text().partition(".")
        assert len(decimals) == PLACES[money.currency]
        assert bool(point) == bool(PLACES[money.currency])
        assert whole.lstrip("-").isdigit()

    @given(moneys())
    def test_trailing_zeros_of_a_column_are_dropped(self, money: Money) -> None:
        stored = Money(money.amount.quantize(Decimal("0.000001")), money.currency)
        assert stored.text() == money.text()

    def test_a_unit_price_has_all_its_decimal_places(self) -> None:
        assert Money(Decimal("0.001250"), "EUR").text() == "0.00125"

    def test_zero_has_no_sign(self) -> None:
        assert Money(Decimal("-0.00"), "EUR").text() == "0.00"
        assert (-Money.zero("EUR")).text() == "0.00"

    def test_str_has_amount_and_currency(self) -> None:
        assert str(Money(Decimal(1250), "EUR")) == "1250.00 EUR"


class TestExponent:
    @pytest.mark.parametrize(("currency", "places"), PLACES.items())
    def test_it_is_the_exponent_of_iso_4217(self, currency: str, places: int) -> None:
        assert exponent(currency) == places

    @pytest.mark.parametrize("currency", ["", "EU", "EURO", "XYZ", "eur", "€", "123"])
    def test_unknown_codes_have_none(self, currency: str) -> None:
        assert exponent(currency) is None


class TestRounding:
    @pytest.mark.parametrize(("currency", "places"), PLACES.items())
    def test_unit_is_the_smallest_amount(self, currency: str, places: int) -> None:
        assert unit(currency) == Decimal(10) ** -places

    @pytest.mark.parametrize(
        ("amount", "currency", "rounded"),
        [("1.005", "EUR", "1.00"), ("1.015", "EUR", "1.02"), ("0.5", "JPY", "0"), ("1.5", "JPY", "2"),
         ("-0.001", "EUR", "0.00"), ("1.00005", "BHD", "1.000")],
    )  # fmt: skip
    def test_rounding_is_half_to_even_by_default(self, amount: str, currency: str, rounded: str) -> None:
        assert str(round_to(Decimal(amount), currency)) == rounded

    def test_rounding_mode_can_be_chosen(self) -> None:
        assert round_to(Decimal("1.019"), "EUR", ROUND_FLOOR) == Decimal("1.01")


class TestProportion:
    def test_running_totals_end_exactly_at_the_whole(self) -> None:
        whole = Money(Decimal("0.92"), "EUR")
        assert [whole.pro_rata(Decimal(part), Decimal(3)).text() for part in range(4)] == [
            "0.00",
            "0.31",
            "0.61",
            "0.92",
        ]

    def test_an_amount_is_converted_exactly_and_rounded_once(self) -> None:
        rate = Decimal("0.123456789012345678")
        assert Money(Decimal("9999999999999.99"), "EUR").at_rate(rate, "JPY") == Money(Decimal(1234567890123), "JPY")
        # The product is just above half a cent; rounded to 28 digits first, it would be half a cent and become even.
        just_above = Money(Decimal(10**12), "EUR").at_rate(Decimal("1.00000000000000500000000000000001"), "USD")
        assert just_above.text() == "1000000000000.01"

    def test_the_largest_amounts_are_rounded_correctly(self) -> None:
        whole = Money(Decimal("9999999999999.99"), "EUR")
        part = Decimal("9999999999999.98")
        assert whole.pro_rata(part, of=whole.amount).amount == part
        assert whole.pro_rata(whole.amount - 1, of=2 * whole.amount).text() == "4999999999999.50"  # exactly ….495


class TestInvalidReason:
    @pytest.mark.parametrize(
        ("amount", "currency"),
        [("1.234", "EUR"), ("1.0", "JPY"), ("0.0001", "BHD"), ("1.999", "USD"), ("-0.001", "EUR")],
    )
    def test_more_decimal_places_than_the_currency_has_are_invalid(self, amount: str, currency: str) -> None:
        invalid = invalid_reason(amount, currency)
        assert invalid
        assert invalid[0] == "amount"
        assert str(PLACES[currency]) in invalid[1]

    @pytest.mark.parametrize(
        "amount",
        ["", " ", "1 ", " 1", "1,00", "1.2.3", "1e3", "1E-2", "NaN", "-Infinity", "sNaN", "0x10", "1_000", "١", "１",
         "+1", ".5", "1.", "--1", "1\n"],
    )  # fmt: skip
    def test_only_plain_decimal_numbers_are_valid(self, amount: str) -> None:
        invalid = invalid_reason(amount, "EUR")
        assert invalid
        assert invalid[0] == "amount"

    @given(st.text())
    def test_any_text_is_either_parsed_or_invalid(self, amount: str) -> None:
        if invalid_reason(amount, "EUR") is None:
            assert Money.parse(amount, "EUR").text().lstrip("-").replace(".", "").isdigit()
        else:
            with pytest.raises(ValueError, match=r"."):
                Money.parse(amount, "EUR")

    def test_an_unknown_currency_is_named(self) -> None:
        invalid = invalid_reason("1.00", "XXY")
        assert invalid
        assert invalid[0] == "currency_code"
        assert "XXY" in invalid[1]

    def test_thirteen_digits_are_valid_and_fourteen_are_not(self) -> None:
        assert invalid_reason("9" * DIGITS_MAX + ".99", "EUR") is None
        assert invalid_reason("1" + "0" * DIGITS_MAX, "EUR") is not None


class TestArithmetic:
    @given(st.lists(moneys("EUR"), max_size=20))
    def test_sums_are_exact_in_any_order(self, parts: list[Money]) -> None:
        forward, backward = Money.zero("EUR"), Money.zero("EUR")
        for part, last in zip(parts, reversed(parts), strict=True):
            forward, backward = forward + part, backward + last
        assert forward == backward
        assert Fraction(forward.amount) == sum(Fraction(part.amount) for part in parts)

    @given(moneys("EUR"), moneys("EUR"))
    def test_subtraction_reverses_addition(self, one: Money, other: Money) -> None:
        assert one + other - other == one
        assert one - other == -(other - one)

    @given(moneys("EUR"), moneys("EUR"))
    def test_comparison_compares_amounts(self, one: Money, other: Money) -> None:
        assert (one < other) == (one.amount < other.amount)
        assert (one <= other) == (one.amount <= other.amount)

    def test_different_currencies_are_an_error(self) -> None:
        euros, dollars = Money(Decimal(1), "EUR"), Money(Decimal(1), "USD")
        for mix in (euros.__add__, euros.__sub__, euros.__lt__, euros.__le__):
            with pytest.raises(ValueError, match="EUR and USD"):
                mix(dollars)
        assert euros != dollars


class TestPlainNumber:
    def test_equal_numbers_have_one_text(self) -> None:
        assert {plain_number(text) for text in ("1.10", "1.1", "01.1000")} == {"1.1"}
        assert [plain_number(text) for text in ("100", "0.000001", "0.0", "-2.50")] == ["100", "0.000001", "0", "-2.5"]

    @pytest.mark.parametrize("text", ["", "ten", "1e3", "NaN", "1_000"])
    def test_other_texts_are_unchanged(self, text: str) -> None:
        assert plain_number(text) == text


fractions = st.fractions(-1000, 1000, max_denominator=50)


class TestApportion:
    @given(st.lists(fractions, max_size=12))
    def test_integers_sum_to_the_rounded_sum_and_are_near_the_exact_numbers(self, exact: list[Fraction]) -> None:
        integers = apportion(exact)
        assert sum(integers) == round(sum(exact))
        assert all(abs(integer - number) < 1 for integer, number in zip(integers, exact, strict=True))
        assert all(
            integer == number for integer, number in zip(integers, exact, strict=True) if number.denominator == 1
        )

    @given(st.lists(fractions, min_size=1, max_size=12), st.integers(1, 5))
    def test_sum_is_the_same_for_every_grouping(self, exact: list[Fraction], size: int) -> None:
        groups = [sum(exact[start : start + size], Fraction(0)) for start in range(0, len(exact), size)]
        assert sum(apportion(groups)) == sum(apportion(exact))

    def test_largest_remainders_are_rounded_up_and_the_first_of_equal_ones(self) -> None:
        assert apportion([Fraction("1.5"), Fraction("1.8"), Fraction("6.7")]) == [1, 2, 7]
        assert apportion([Fraction("0.5"), Fraction("0.5")]) == [1, 0]
        assert apportion([Fraction("-0.5"), Fraction("-0.5")]) == [0, -1]
        assert apportion([]) == []

    def test_amounts_have_the_unit_of_the_currency(self) -> None:
        exact = [Fraction("0.0225"), Fraction("5.625"), Fraction("0.0675")]
        assert round_together(exact, "EUR") == [Decimal("0.02"), Decimal("5.63"), Decimal("0.07")]
        assert [str(each) for each in round_together(exact, "JPY")] == ["0", "6", "0"]
        assert [str(each) for each in round_together([Fraction(10**40, 3)], "EUR")] == [f"{'3' * 40}.33"]
