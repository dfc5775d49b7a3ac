"""Tables of credit notes, their lines and refunds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import CHAR, Date, Integer, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import AMOUNT, TenantRow, VersionedRow, text_enum
from kit.money import Money
from services.entities.domain.billing_documents import TaxSubtotal
from services.entities.domain.credit_notes import CreditSplit, RefundState
from services.entities.domain.parties import Party
from services.entities.models.invoices import InvoiceLineRow

JsonObject: TypeAlias = dict[str, Any]


class CreditNoteRow(TenantRow):
    """A credit note of an issued invoice; never changed."""

    __tablename__ = "credit_notes"
    audited_as = ids.CREDIT_NOTE

    number: Mapped[str] = mapped_column(String)
    """Empty for a preview, which is not stored."""
    invoice_id: Mapped[UUID] = mapped_column(Uuid)
    invoice_number: Mapped[str] = mapped_column(String)
    entity_id: Mapped[UUID] = mapped_column(Uuid)
    """The recipient."""
    billing_profile_id: Mapped[UUID] = mapped_column(Uuid)
    dispute_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The dispute that it resolves."""
    issuer_record: Mapped[JsonObject] = mapped_column("issuer", JSONB)
    recipient_record: Mapped[JsonObject] = mapped_column("recipient", JSONB)
    recipient_name: Mapped[str] = mapped_column(String)
    currency_code: Mapped[str] = mapped_column(CHAR(3))
    tax_records: Mapped[list[JsonObject]] = mapped_column("taxes", JSONB)
    net: Mapped[Decimal] = mapped_column(AMOUNT)
    tax: Mapped[Decimal] = mapped_column(AMOUNT)
    total: Mapped[Decimal] = mapped_column(AMOUNT)
    issuer_currency_code: Mapped[str] = mapped_column(CHAR(3))
    issuer_tax: Mapped[Decimal | None] = mapped_column(AMOUNT)
    """In the issuer's currency; None if that is the currency of the invoice."""
    offset: Mapped[Decimal] = mapped_column("offset_amount", AMOUNT)
    refund: Mapped[Decimal] = mapped_column("refund_amount", AMOUNT)
    credit: Mapped[Decimal] = mapped_column("credit_amount", AMOUNT)
    line_count: Mapped[int] = mapped_column(Integer)
    reason: Mapped[str] = mapped_column(String)
    issue_date: Mapped[date] = mapped_column(Date)
    actor: Mapped[str] = mapped_column(String)

    @property
    def issuer(self) -> Party:
        """The issuer of the invoice, as copied there."""
        return Party.from_record(self.issuer_record)

    @property
    def recipient(self) -> Party:
        """The recipient of the invoice, as copied there."""
        return Party.from_record(self.recipient_record)

    @property
    def split(self) -> CreditSplit:
        """The use of the total."""
        return CreditSplit(offset=self.offset, refund=self.refund, credit=self.credit)

    @property
    def taxes(self) -> Sequence[TaxSubtotal]:
        """Net and tax by treatment and rate."""
        return [TaxSubtotal.from_record(record) for record in self.tax_records]

    def set_taxes(self, taxes: Iterable[TaxSubtotal]) -> None:
        """Store the taxes."""
        self.tax_records = [each.to_record() for each in taxes]

    def money(self, amount: Decimal) -> Money:
        """Return the amount in the currency of the invoice."""
        return Money(amount, self.currency_code)


class CreditNoteLineRow(TenantRow):
    """A credited line of an invoice; never changed."""

    __tablename__ = "credit_note_lines"

    credit_note_id: Mapped[UUID] = mapped_column(Uuid)
    line_id: Mapped[UUID] = mapped_column(Uuid)
    """The line of the invoice."""
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    """Net; has the sign of the line."""


class RefundRow(VersionedRow):
    """A request to pay back the refund part of a credit note."""

    __tablename__ = "credit_note_refunds"
    audited_as = ids.REFUND

    credit_note_id: Mapped[UUID] = mapped_column(Uuid)
    invoice_id: Mapped[UUID] = mapped_column(Uuid)
    dispute_id: Mapped[UUID | None] = mapped_column(Uuid)
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    currency_code: Mapped[str] = mapped_column(CHAR(3))
    state: Mapped[RefundState] = mapped_column(text_enum(RefundState))
    completed_amount: Mapped[Decimal | None] = mapped_column(AMOUNT)
    """As the payment system reports it; None unless COMPLETED."""
    refund_date: Mapped[date | None] = mapped_column(Date)
    reference: Mapped[str] = mapped_column(String, default="")
    problem: Mapped[str] = mapped_column(String, default="")
    """Why it failed, or why the reply of the payment system was not recorded."""

    @property
    def money(self) -> Money:
        """The requested amount."""
        return Money(self.amount, self.currency_code)


@dataclass(frozen=True, slots=True)
class CreditedLine:
    """A line of a credit note, and the line of the invoice that it credits."""

    line: InvoiceLineRow
    amount: Decimal


@dataclass(frozen=True, slots=True)
class CreditNoteDetails:
    """A credit note with its first lines and its refunds."""

    note: CreditNoteRow
    lines: Sequence[CreditedLine]
    refunds: Sequence[RefundRow]
