"""Amounts, rates and dates as the readers of a language write them."""

import pytest

from rendering.locales import Formats


@pytest.mark.parametrize(
    ("locale", "amount", "rate", "percent", "day", "period", "country"),
    [
        ("en", "-1,234,567.50", "0.00666926", "7.7%", "Nov 2, 2026", "Oct 1\u2009–\u200931, 2026", "Germany"),
        ("de", "-1.234.567,50", "0,00666926", "7,7%", "02.11.2026", "1.–31. Okt. 2026", "Deutschland"),
        ("fr", "-1\u202f234\u202f567,50", "0,00666926", "7,7%", "2 nov. 2026", "1–31 oct. 2026", "Allemagne"),
        ("de_CH", "-1'234'567.50", "0.00666926", "7.7%", "02.11.2026", "1.–31. Okt. 2026", "Deutschland"),
    ],
)
def test_formats_of_locales(
    locale: str, amount: str, rate: str, percent: str, day: str, period: str, country: str
) -> None:
    formats = Formats(locale)
    assert formats.amount("-1234567.50", "EUR") == amount
    assert formats.rate("0.00666926") == rate
    assert formats.percent(770) == percent
    assert formats.day("2026-11-02") == day
    assert formats.period("2026-10-01", "2026-11-01") == period
    assert formats.country("DE") == country


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        ("1500", "JPY", "1,500"),
        ("0.1", "EUR", "0.10"),
        ("1234.5678", "EUR", "1,234.5678"),
        ("9999999999999.999", "BHD", "9,999,999,999,999.999"),
        ("-0.01", "EUR", "-0.01"),
    ],
)
def test_amounts_are_exact(amount: str, currency: str, text: str) -> None:
    assert Formats().amount(amount, currency) == text
    assert Formats().money(amount, currency) == f"{text}\xa0{currency}"


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [("2026-10-31", "2026-11-01", "Oct 31, 2026"), ("2026-01-01", "2027-01-01", "Jan 1\u2009–\u2009Dec 31, 2026")],
)
def test_periods_have_their_last_day(start: str, end: str, text: str) -> None:
    assert Formats().period(start, end) == text


def test_unknown_countries_are_shown_by_their_code() -> None:
    assert Formats().country("XX") == "XX"
