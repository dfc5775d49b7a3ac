"""Table of exchange rates."""

from datetime import date
from decimal import Decimal

from sqlalchemy import CHAR, Date, Numeric, String
from sqlalchemy.orm import Mapped, mapped_column

from kit.db import VersionedRow


class ExchangeRateRow(VersionedRow):
    """The price of one unit of the base currency in the quote currency, from a day on."""

    __tablename__ = "exchange_rates"
    audited_as = "exchange_rate"

    base_currency: Mapped[str] = mapped_column(CHAR(3))  # the type of the column, so that its index is used
    quote_currency: Mapped[str] = mapped_column(CHAR(3))
    effective_date: Mapped[date] = mapped_column(Date)
    rate: Mapped[Decimal] = mapped_column(Numeric(24, 12))
    source: Mapped[str] = mapped_column(String)
    """Provider of the rate; may be empty."""
