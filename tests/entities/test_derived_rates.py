"""The rule that derives a rate between two currencies, without a database."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.entities import domain
from services.entities.domain.rates import RATE_DIGITS, Conversion, Derivation, DerivedRate, Pair, Quote

DAY = date(2026, 3, 31)
EARLIER = date(2026, 3, 2)


def derive(source: str, target: str, known: Mapping[Pair, Quote], base: str = "") -> DerivedRate | None:
    return domain.rates.derive(Conversion(source, target, DAY), known, base)


def derive_through_two(source: str, target: str, known: Mapping[Pair, Quote], base: str = "") -> DerivedRate | None:
    return domain.rates.derive_through_two(Conversion(source, target, DAY), known, base)


def quotes(*stored: str, day: date = EARLIER) -> dict[Pair, Quote]:
    """`quotes("EUR/USD 1.25")`."""
    split = [text.split() for text in stored]
    return {(pair[:3], pair[4:]): Quote(Decimal(rate), day) for pair, rate in split}


def rate(derivation: Derivation, text: str, *via: str) -> DerivedRate:
    return DerivedRate(derivation, Decimal(text), EARLIER, via)


@pytest.mark.parametrize(
    ("stored", "pair", "expected"),
    [
        (["EUR/USD 1.25"], "EUR/USD", rate(Derivation.DIRECT, "1.25")),
        (["EUR/USD 1.25", "USD/EUR 0.9"], "EUR/USD", rate(Derivation.DIRECT, "1.25")),
        (["EUR/USD 1.25", "USD/EUR 0.9"], "USD/EUR", rate(Derivation.DIRECT, "0.9")),
        (["EUR/USD 1.25"], "USD/EUR", rate(Derivation.INVERSE, "0.8")),
        (["EUR/USD 3"], "USD/EUR", rate(Derivation.INVERSE, "0.333333333333333333")),
        (["EUR/USD 0.000000000003"], "USD/EUR", rate(Derivation.INVERSE, "333333333333.333333")),
        (["EUR/USD 1.5"], "USD/EUR", rate(Derivation.INVERSE, "0.666666666666666667")),
        # 1 / 2^27 is …28125 in 19 digits: rounding half to even drops the 5.
        (["EUR/USD 134217728"], "USD/EUR", rate(Derivation.INVERSE, "0.00000000745058059692382812")),
        (["EUR/USD 1.25", "EUR/GBP 0.8"], "USD/GBP", rate(Derivation.CROSS, "0.64", "EUR")),
        (["USD/EUR 0.8", "GBP/EUR 1.25"], "USD/GBP", rate(Derivation.CROSS, "0.64", "EUR")),
        (["USD/EUR 0.8", "EUR/GBP 0.5"], "USD/GBP", rate(Derivation.CROSS, "0.4", "EUR")),
        (["EUR/USD 4", "GBP/EUR 0.5"], "USD/GBP", rate(Derivation.CROSS, "0.5", "EUR")),
        # Intermediate rates are not rounded: 1/3 × 3 is 1.
        (["EUR/USD 3", "EUR/GBP 3"], "USD/GBP", rate(Derivation.CROSS, "1", "EUR")),
        # Stored rates are preferred to cross rates, which go through EUR, then USD, then alphabetically.
        (["CHF/JPY 7", "EUR/CHF 1", "EUR/JPY 2"], "JPY/CHF", rate(Derivation.INVERSE, "0.142857142857142857")),
        (["USD/CHF 1", "USD/JPY 3", "EUR/CHF 1", "EUR/JPY 2"], "CHF/JPY", rate(Derivation.CROSS, "2", "EUR")),
        (["AUD/CHF 1", "AUD/JPY 4", "USD/CHF 1", "USD/JPY 3"], "CHF/JPY", rate(Derivation.CROSS, "3", "USD")),
        (["GBP/CHF 1", "GBP/JPY 5", "AUD/CHF 1", "AUD/JPY 4"], "CHF/JPY", rate(Derivation.CROSS, "4", "AUD")),
        # One leg through EUR is not enough.
        (["EUR/CHF 1", "USD/CHF 1", "USD/JPY 3"], "CHF/JPY", rate(Derivation.CROSS, "3", "USD")),
        # Not through two currencies, which needs the quotes of all pairs.
        (["EUR/CHF 1", "EUR/USD 2", "USD/JPY 3"], "CHF/JPY", None),
        (["EUR/USD 1.25"], "EUR/GBP", None),
        ([], "EUR/USD", None),
    ],
)
def test_first_available_derivation_is_used(stored: list[str], pair: str, expected: DerivedRate | None) -> None:
    assert derive(pair[:3], pair[4:], quotes(*stored)) == expected


@pytest.mark.parametrize(
    ("stored", "pair", "base", "expected"),
    [
        (["EUR/JPY 160", "EUR/USD 1.25", "USD/PEN 4"], "JPY/PEN", "", rate(Derivation.CROSS, "0.03125", "EUR", "USD")),
        (["EUR/JPY 160", "EUR/USD 1.25", "USD/PEN 4"], "PEN/JPY", "", rate(Derivation.CROSS, "32", "USD", "EUR")),
        # Intermediate rates are not rounded: 1/3 × 1/7 × 21 is 1.
        (["EUR/JPY 3", "USD/EUR 7", "USD/PEN 21"], "JPY/PEN", "", rate(Derivation.CROSS, "1", "EUR", "USD")),
        # The path with the tenant's base currency is preferred, wherever that is in the path.
        (
            ["EUR/JPY 160", "EUR/USD 1.25", "USD/PEN 4", "AUD/JPY 100", "AUD/CHF 2", "CHF/PEN 3"],
            "JPY/PEN", "CHF", rate(Derivation.CROSS, "0.06", "AUD", "CHF"),
        ),
        (
            ["EUR/JPY 160", "EUR/USD 1.25", "USD/PEN 4", "AUD/JPY 100", "AUD/CHF 2", "CHF/PEN 3"],
            "JPY/PEN", "SEK", rate(Derivation.CROSS, "0.03125", "EUR", "USD"),
        ),
        # Never through three currencies.
        (["EUR/JPY 160", "EUR/USD 1.25", "USD/CHF 1", "CHF/PEN 4"], "JPY/PEN", "", None),
    ],
)  # fmt: skip
def test_rate_through_two_currencies_states_its_path(
    stored: list[str], pair: str, base: str, expected: DerivedRate | None
) -> None:
    assert derive(pair[:3], pair[4:], quotes(*stored), base) is None
    assert derive_through_two(pair[:3], pair[4:], quotes(*stored), base) == expected


def test_base_currency_of_the_tenant_is_preferred_to_the_euro() -> None:
    both = quotes("EUR/CHF 1", "EUR/JPY 2", "SEK/CHF 1", "SEK/JPY 5")
    assert derive("CHF", "JPY", both, "SEK") == rate(Derivation.CROSS, "5", "SEK")
    assert derive("CHF", "JPY", both, "EUR") == rate(Derivation.CROSS, "2", "EUR")


def test_same_currency_has_rate_one() -> None:
    assert derive("XYZ", "XYZ", {}) == DerivedRate(Derivation.SAME, Decimal(1), DAY)


def test_stored_rate_keeps_all_digits() -> None:
    exact = "123456789012.123456789012"
    derived = derive("EUR", "USD", quotes(f"EUR/USD {exact}"))
    assert derived is not None
    assert str(derived.rate) == exact


def test_cross_rate_has_the_later_date_of_its_two_rates() -> None:
    for later, earlier in (("EUR/USD 1", "EUR/GBP 1"), ("EUR/GBP 1", "EUR/USD 1")):
        both = quotes(later, day=DAY) | quotes(earlier, day=EARLIER)
        derived = derive("USD", "GBP", both)
        assert derived is not None
        assert derived.effective_date == DAY


CURRENCIES = ("AUD", "CHF", "EUR", "GBP", "JPY", "USD")
currency = st.sampled_from(CURRENCIES)
stored_rate = st.decimals("0.000000000001", "999999999999.999999999999", places=12)
stored_quotes = st.dictionaries(
    st.tuples(currency, currency).filter(lambda pair: pair[0] != pair[1]),
    st.builds(Quote, stored_rate, st.dates(EARLIER, DAY)),
)


def exact_rates(source: str, target: str, known: Mapping[Pair, Quote]) -> dict[str, Fraction]:
    """All exact rates, direct or through one currency, by that currency ("": direct)."""
    both = {pair: Fraction(quote.rate) for pair, quote in known.items()}
    legs = {(quote, base): 1 / price for (base, quote), price in both.items()} | both
    crosses = {
        via: legs[source, via] * legs[via, target] for via in CURRENCIES if {(source, via), (via, target)} <= {*legs}
    }
    return ({"": legs[source, target]} if (source, target) in legs else {}) | crosses


@given(currency, currency, stored_quotes)
def test_derived_rate_is_exact_to_its_digits_and_missing_only_without_a_path(
    source: str, target: str, known: Mapping[Pair, Quote]
) -> None:
    derived = derive(source, target, known)
    if source == target:
        assert derived == DerivedRate(Derivation.SAME, Decimal(1), DAY)
        return
    rates = exact_rates(source, target, known)
    assert (derived is None) == (not rates)
    if derived is None:
        return
    preferred = [via for via in ("", "EUR", "USD", *CURRENCIES) if via in rates]
    assert "".join(derived.via) == preferred[0]
    assert (derived.derivation is Derivation.CROSS) == bool(derived.via)
    assert derived.rate > 0
    exact = rates[preferred[0]]
    if derived.derivation is Derivation.DIRECT:
        assert Fraction(derived.rate) == exact
    else:
        assert len(derived.rate.as_tuple().digits) <= RATE_DIGITS
        assert abs(Fraction(derived.rate) - exact) <= exact * Fraction(5, 10**RATE_DIGITS)


@given(currency, currency, stored_quotes)
def test_rates_of_other_currencies_have_no_effect(source: str, target: str, known: Mapping[Pair, Quote]) -> None:
    """So the quotes may be those of the two currencies only, or those of many conversions."""
    touching = {pair: quote for pair, quote in known.items() if {source, target} & set(pair)}
    assert derive(source, target, touching) == derive(source, target, known)


@given(currency, currency, stored_quotes)
def test_derived_rate_has_the_date_of_one_of_its_rates(source: str, target: str, known: Mapping[Pair, Quote]) -> None:
    derived = derive(source, target, known)
    if derived and source != target:
        days = {
            quote.effective_date
            for pair, quote in known.items()
            if set(pair) in ({source, target}, {source, *derived.via}, {*derived.via, target})
        }
        assert derived.effective_date in days


@given(currency, currency, stored_quotes, currency)
def test_opposite_conversion_through_two_currencies_takes_the_same_path(
    source: str, target: str, known: Mapping[Pair, Quote], base: str
) -> None:
    if source == target or derive(source, target, known):
        return
    there, back = derive_through_two(source, target, known, base), derive_through_two(target, source, known, base)
    assert (there and there.via) == (back and back.via[::-1])
