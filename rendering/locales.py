"""Amounts, rates and dates as the readers of a language write them."""

from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Final

from babel import Locale
from babel.dates import format_date, format_interval
from babel.numbers import get_decimal_symbol, get_group_symbol, get_minus_sign_symbol

from kit.money import exponent

ENGLISH: Final = "en"


class Formats:
    """Formats of a locale, such as "en" or "de_CH"."""

    def __init__(self, locale: str = ENGLISH) -> None:
        self._locale = Locale.parse(locale)
        # Patterns of Babel lose the separators of Swiss amounts from a million on: it takes them for quotes.
        group, decimal, minus = (
            symbol(self._locale) for symbol in (get_group_symbol, get_decimal_symbol, get_minus_sign_symbol)
        )
        self._symbols = str.maketrans({",": group, ".": decimal, "-": minus})

    @property
    def language(self) -> str:
        """Code of the language."""
        return self._locale.language

    def amount(self, amount: str, currency: str) -> str:
        """Format an exact amount with the decimal places of its currency, without the currency: "1,250.00"."""
        places = max(exponent(currency) or 0, len(amount.partition(".")[2]))
        return f"{Decimal(amount):,.{places}f}".translate(self._symbols)

    def money(self, amount: str, currency: str) -> str:
        """Format an amount with its currency: "1,250.00 EUR"."""
        return f"{self.amount(amount, currency)}\N{NO-BREAK SPACE}{currency}"

    def rate(self, rate: str) -> str:
        """Format a number with all its digits."""
        return f"{Decimal(rate).normalize():,f}".translate(self._symbols)

    def percent(self, rate_bp: int) -> str:
        """Format basis points as a percentage: "7.7%"."""
        return f"{(Decimal(rate_bp) / 100).normalize():f}%".translate(self._symbols)

    def day(self, day: str) -> str:
        """Format a date in ISO 8601: "Nov 2, 2026"."""
        return format_date(date.fromisoformat(day), "medium", self._locale)

    def period(self, start: str, end: str) -> str:
        """Format a period by its first and last day; `end` is the day after it."""
        last = date.fromisoformat(end) - timedelta(days=1)
        return format_interval(date.fromisoformat(start), last, "yMMMd", locale=self._locale)

    def country(self, code: str) -> str:
        """Return the name of a country; its code if it is unknown."""
        return self._countries.get(code, code)

    @cached_property
    def _countries(self) -> Mapping[str, str]:
        return self._locale.territories
