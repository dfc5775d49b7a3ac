"""Exchange rates."""

from datetime import date
from decimal import Decimal

from sqlalchemy import CHAR, Date, Numeric, String
from sqlalchemy.orm import Mapped, mapped_column

from kit.db import VersionedRow


class ExchangeRateRow(VersionedRow):
    """What one unit of the base currency costs in the quote currency, from a day on."""

    __tablename__ = "exchange_rates"
    audited_as = "exchange_rate"

    base_currency: Mapped[str] = mapped_column(CHAR(3))  # compared as what it is, so that its index is read
    quote_currency: Mapped[str] = mapped_column(CHAR(3))
    effective_date: Mapped[date] = mapped_column(Date)
    rate: Mapped[Decimal] = mapped_column(Numeric(24, 12))
    source: Mapped[str] = mapped_column(String)
    """Who says so; empty where nobody was named."""
