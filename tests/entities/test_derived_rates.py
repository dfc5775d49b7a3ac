"""Which rate holds between two currencies: the rule itself, without a database."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.entities import domain
from services.entities.domain.rates import RATE_DIGITS, Derivation, DerivedRate, Pair, Quote

DAY = date(2026, 3, 31)
EARLIER = date(2026, 3, 2)


def quotes(*recorded: str, day: date = EARLIER) -> dict[Pair, Quote]:
    """`quotes("EUR/USD 1.25")`."""
    split = [text.split() for text in recorded]
    return {(pair[:3], pair[4:]): Quote(Decimal(rate), day) for pair, rate in split}


def rate(derivation: Derivation, text: str, via: str = "") -> DerivedRate:
    return DerivedRate(derivation, Decimal(text), EARLIER, via)


@pytest.mark.parametrize(
    ("recorded", "pair", "expected"),
    [
        (["EUR/USD 1.25"], "EUR/USD", rate(Derivation.DIRECT, "1.25")),
        (["EUR/USD 1.25", "USD/EUR 0.9"], "EUR/USD", rate(Derivation.DIRECT, "1.25")),
        (["EUR/USD 1.25", "USD/EUR 0.9"], "USD/EUR", rate(Derivation.DIRECT, "0.9")),
        (["EUR/USD 1.25"], "USD/EUR", rate(Derivation.INVERSE, "0.8")),
        (["EUR/USD 3"], "USD/EUR", rate(Derivation.INVERSE, "0.333333333333333333")),
        (["EUR/USD 0.000000000003"], "USD/EUR", rate(Derivation.INVERSE, "333333333333.333333")),
        (["EUR/USD 1.5"], "USD/EUR", rate(Derivation.INVERSE, "0.666666666666666667")),
        # 1 / 2^27 is …28125 in 19 digits: half to even takes the 5 away.
        (["EUR/USD 134217728"], "USD/EUR", rate(Derivation.INVERSE, "0.00000000745058059692382812")),
        (["EUR/USD 1.25", "EUR/GBP 0.8"], "USD/GBP", rate(Derivation.CROSS, "0.64", "EUR")),
        (["USD/EUR 0.8", "GBP/EUR 1.25"], "USD/GBP", rate(Derivation.CROSS, "0.64", "EUR")),
        (["USD/EUR 0.8", "EUR/GBP 0.5"], "USD/GBP", rate(Derivation.CROSS, "0.4", "EUR")),
        (["EUR/USD 4", "GBP/EUR 0.5"], "USD/GBP", rate(Derivation.CROSS, "0.5", "EUR")),
        # A rate in between is not rounded: 1/3 × 3 is 1.
        (["EUR/USD 3", "EUR/GBP 3"], "USD/GBP", rate(Derivation.CROSS, "1", "EUR")),
        # What is recorded goes before a cross rate, which goes over EUR, then USD, then by the alphabet.
        (["CHF/JPY 7", "EUR/CHF 1", "EUR/JPY 2"], "JPY/CHF", rate(Derivation.INVERSE, "0.142857142857142857")),
        (["USD/CHF 1", "USD/JPY 3", "EUR/CHF 1", "EUR/JPY 2"], "CHF/JPY", rate(Derivation.CROSS, "2", "EUR")),
        (["AUD/CHF 1", "AUD/JPY 4", "USD/CHF 1", "USD/JPY 3"], "CHF/JPY", rate(Derivation.CROSS, "3", "USD")),
        (["GBP/CHF 1", "GBP/JPY 5", "AUD/CHF 1", "AUD/JPY 4"], "CHF/JPY", rate(Derivation.CROSS, "4", "AUD")),
        # Half a way over EUR is none.
        (["EUR/CHF 1", "USD/CHF 1", "USD/JPY 3"], "CHF/JPY", rate(Derivation.CROSS, "3", "USD")),
        # Never over two currencies.
        (["EUR/CHF 1", "EUR/USD 2", "USD/JPY 3"], "CHF/JPY", None),
        (["EUR/USD 1.25"], "EUR/GBP", None),
        ([], "EUR/USD", None),
    ],
)
def test_the_first_way_that_there_is_counts(recorded: list[str], pair: str, expected: DerivedRate | None) -> None:
    assert domain.rates.derive(pair[:3], pair[4:], DAY, quotes(*recorded)) == expected


def test_the_same_currency_is_one_to_one_on_its_day() -> None:
    assert domain.rates.derive("XYZ", "XYZ", DAY, {}) == DerivedRate(Derivation.SAME, Decimal(1), DAY)


def test_what_is_recorded_is_given_to_its_last_digit() -> None:
    exact = "123456789012.123456789012"
    found = domain.rates.derive("EUR", "USD", DAY, quotes(f"EUR/USD {exact}"))
    assert found is not None
    assert str(found.rate) == exact


def test_a_cross_rate_is_effective_when_both_of_its_rates_are() -> None:
    for later, earlier in (("EUR/USD 1", "EUR/GBP 1"), ("EUR/GBP 1", "EUR/USD 1")):
        both = quotes(later, day=DAY) | quotes(earlier, day=EARLIER)
        found = domain.rates.derive("USD", "GBP", DAY, both)
        assert found is not None
        assert found.effective_date == DAY


CURRENCIES = ("AUD", "CHF", "EUR", "GBP", "JPY", "USD")
currency = st.sampled_from(CURRENCIES)
recorded_rate = st.decimals("0.000000000001", "999999999999.999999999999", places=12)
recorded_quotes = st.dictionaries(
    st.tuples(currency, currency).filter(lambda pair: pair[0] != pair[1]),
    st.builds(Quote, recorded_rate, st.dates(EARLIER, DAY)),
)


def exact_rates(source: str, target: str, known: Mapping[Pair, Quote]) -> dict[str, Fraction]:
    """Every way from one currency to the other over one between them at most; by that one, "" for none."""
    both = {pair: Fraction(quote.rate) for pair, quote in known.items()}
    legs = {(quote, base): 1 / price for (base, quote), price in both.items()} | both
    ways = {
        via: legs[source, via] * legs[via, target] for via in CURRENCIES if {(source, via), (via, target)} <= {*legs}
    }
    return ({"": legs[source, target]} if (source, target) in legs else {}) | ways


@given(currency, currency, recorded_quotes)
def test_it_is_as_near_as_its_digits_allow_and_missing_only_where_there_is_no_way(
    source: str, target: str, known: Mapping[Pair, Quote]
) -> None:
    found = domain.rates.derive(source, target, DAY, known)
    if source == target:
        assert found == DerivedRate(Derivation.SAME, Decimal(1), DAY)
        return
    ways = exact_rates(source, target, known)
    assert (found is None) == (not ways)
    if found is None:
        return
    preferred = [via for via in ("", "EUR", "USD", *CURRENCIES) if via in ways]
    assert found.via == preferred[0]
    assert (found.derivation is Derivation.CROSS) == bool(found.via)
    assert found.rate > 0
    exact = ways[found.via]
    if found.derivation is Derivation.DIRECT:
        assert Fraction(found.rate) == exact
    else:
        assert len(found.rate.as_tuple().digits) <= RATE_DIGITS
        assert abs(Fraction(found.rate) - exact) <= exact * Fraction(5, 10**RATE_DIGITS)


@given(currency, currency, recorded_quotes)
def test_only_rates_of_the_two_currencies_count(source: str, target: str, known: Mapping[Pair, Quote]) -> None:
    """So it may be asked with the rates of these two only, as it is, or with those of many at once."""
    touching = {pair: quote for pair, quote in known.items() if {source, target} & set(pair)}
    assert domain.rates.derive(source, target, DAY, touching) == domain.rates.derive(source, target, DAY, known)


@given(currency, currency, recorded_quotes)
def test_no_rate_is_effective_before_those_that_it_follows_from(
    source: str, target: str, known: Mapping[Pair, Quote]
) -> None:
    found = domain.rates.derive(source, target, DAY, known)
    if found and source != target:
        days = {
            quote.effective_date
            for pair, quote in known.items()
            if set(pair) in ({source, target}, {source, found.via}, {found.via, target})
        }
        assert found.effective_date in days
