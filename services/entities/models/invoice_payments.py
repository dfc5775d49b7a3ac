"""Table of the payments of invoices."""

from datetime import date
from decimal import Decimal
from uuid import UUID

from sqlalchemy import CHAR, Date, Numeric, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit.db import AMOUNT, TenantRow
from kit.money import Money


class InvoicePaymentRow(TenantRow):
    """A payment that the billing system reported; never changed."""

    __tablename__ = "invoice_payments"

    payment_id: Mapped[str] = mapped_column(String)
    """Its id in the billing system."""
    invoice_id: Mapped[UUID] = mapped_column(Uuid)
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    currency_code: Mapped[str] = mapped_column(CHAR(3))
    converted_amount: Mapped[Decimal | None] = mapped_column(AMOUNT)
    """In the currency of the invoice, as the billing system stated it."""
    applied_amount: Mapped[Decimal] = mapped_column(AMOUNT)
    """In the currency of the invoice."""
    rate: Mapped[Decimal | None] = mapped_column(Numeric)
    """The rate that it was converted at; None if it was not, or if the billing system converted it."""
    rate_date: Mapped[date | None] = mapped_column(Date)
    exchange_difference: Mapped[Decimal] = mapped_column(AMOUNT)
    payment_date: Mapped[date] = mapped_column(Date)
    reference: Mapped[str] = mapped_column(String)

    @property
    def money(self) -> Money:
        """The amount in the currency in which it was paid."""
        return Money(self.amount, self.currency_code)
