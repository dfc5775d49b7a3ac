"""Tables of consolidated invoices: their lines, charges, eliminated charges and fees."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import ARRAY, CHAR, Boolean, Date, DateTime, Integer, Numeric, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import AMOUNT, Base, TenantRow, VersionedRow, text_enum
from kit.money import Money
from services.entities import domain
from services.entities.domain.billing_documents import (
    AppliedDocumentRate,
    LineKind,
    RatePolicy,
    TaxSubtotal,
    TaxTreatment,
)
from services.entities.domain.consolidation import TaxKey
from services.entities.domain.credit_notes import CreditableLine
from services.entities.domain.invoices import ISSUED_STATES, InvoiceProblem, InvoiceState, InvoiceType, Severity
from services.entities.domain.parties import Party
from services.entities.domain.proration import DateRange

JsonObject: TypeAlias = dict[str, Any]


class InvoiceRow(VersionedRow):
    """A consolidated invoice. Once it is issued, only what is paid, credited, held or voided changes."""

    __tablename__ = "consolidated_invoices"
    audited_as = ids.INVOICE

    type: Mapped[InvoiceType] = mapped_column(text_enum(InvoiceType))
    number: Mapped[str] = mapped_column(String, default="")
    """Empty unless it was issued."""
    entity_id: Mapped[UUID] = mapped_column(Uuid)
    billing_profile_id: Mapped[UUID] = mapped_column(Uuid)
    entity_ids: Mapped[Sequence[UUID]] = mapped_column(ARRAY(Uuid))
    """The entities that it covers, the recipient included."""
    state: Mapped[InvoiceState] = mapped_column(text_enum(InvoiceState))
    period_start: Mapped[date] = mapped_column(Date)
    period_end: Mapped[date] = mapped_column(Date)
    """First day after the period."""
    currency_code: Mapped[str] = mapped_column(CHAR(3))
    rate_policy: Mapped[RatePolicy] = mapped_column(text_enum(RatePolicy))
    issuer_record: Mapped[JsonObject] = mapped_column("issuer", JSONB)
    recipient_record: Mapped[JsonObject] = mapped_column("recipient", JSONB)
    recipient_name: Mapped[str] = mapped_column(String)
    purchase_order_numbers: Mapped[Sequence[str]] = mapped_column(ARRAY(String))
    contract_numbers: Mapped[Sequence[str]] = mapped_column(ARRAY(String))
    payment_terms_days: Mapped[int] = mapped_column(Integer)
    tax_records: Mapped[list[JsonObject]] = mapped_column("taxes", JSONB)
    rate_records: Mapped[list[JsonObject]] = mapped_column("rates", JSONB)
    problem_records: Mapped[list[JsonObject]] = mapped_column("problems", JSONB)
    net: Mapped[Decimal] = mapped_column(AMOUNT)
    tax: Mapped[Decimal] = mapped_column(AMOUNT)
    total: Mapped[Decimal] = mapped_column(AMOUNT)
    issuer_currency_code: Mapped[str] = mapped_column(CHAR(3))
    issuer_tax: Mapped[Decimal | None] = mapped_column(AMOUNT)
    """In the issuer's currency; None if that is the currency of the invoice."""
    line_count: Mapped[int] = mapped_column(Integer)
    note: Mapped[str] = mapped_column(String)
    require_einvoice: Mapped[bool] = mapped_column(Boolean)
    paid: Mapped[Decimal] = mapped_column(AMOUNT, default=Decimal(0))
    offset: Mapped[Decimal] = mapped_column("offset_amount", AMOUNT, default=Decimal(0))
    """The part of credit notes that reduces what is open."""
    credited_balance: Mapped[Decimal] = mapped_column(AMOUNT, default=Decimal(0))
    """The part of credit notes that is kept for later invoices."""
    refunded: Mapped[Decimal] = mapped_column(AMOUNT, default=Decimal(0))
    """The part of credit notes that is paid back; failed refunds don't count."""
    held: Mapped[Decimal] = mapped_column(AMOUNT, default=Decimal(0))
    """Gross amount held by disputes."""
    exchange_difference: Mapped[Decimal] = mapped_column(AMOUNT, default=Decimal(0))
    """Sum over the payments in other currencies."""
    unrecorded_payment_ids: Mapped[Sequence[str]] = mapped_column(ARRAY(String), default=list)
    """Payments whose events became dead letters."""
    issue_date: Mapped[date | None] = mapped_column(Date)
    due_date: Mapped[date | None] = mapped_column(Date)
    issue_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    void_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    void_reason: Mapped[str] = mapped_column(String, default="")

    @property
    def period(self) -> DateRange:
        """The days of the period."""
        return DateRange(self.period_start, self.period_end)

    @property
    def issuer(self) -> Party:
        """The issuer, as copied when the draft was built."""
        return Party.from_record(self.issuer_record)

    @property
    def recipient(self) -> Party:
        """The recipient, as copied when the draft was built."""
        return Party.from_record(self.recipient_record)

    @property
    def taxes(self) -> Sequence[TaxSubtotal]:
        """Net and tax by treatment and rate."""
        return [TaxSubtotal.from_record(record) for record in self.tax_records]

    def set_taxes(self, taxes: Iterable[TaxSubtotal]) -> None:
        """Store the taxes."""
        self.tax_records = [each.to_record() for each in taxes]

    @property
    def rates(self) -> Sequence[AppliedDocumentRate]:
        """The rates that amounts were converted at."""
        return [
            AppliedDocumentRate(
                source=record["source"],
                target=record["target"],
                rate=Decimal(record["rate"]),
                day=date.fromisoformat(record["day"]),
                effective_date=date.fromisoformat(record["effective_date"]),
            )
            for record in self.rate_records
        ]

    def set_rates(self, rates: Iterable[AppliedDocumentRate]) -> None:
        """Store the rates."""
        self.rate_records = [
            {
                "source": each.source,
                "target": each.target,
                "rate": f"{each.rate:f}",
                "day": each.day.isoformat(),
                "effective_date": each.effective_date.isoformat(),
            }
            for each in rates
        ]

    @property
    def problems(self) -> Sequence[InvoiceProblem]:
        """The problems that were found when the draft was built."""
        return [
            InvoiceProblem(Severity(record["severity"]), record["code"], record["message"], record["resource_id"])
            for record in self.problem_records
        ]

    def set_problems(self, problems: Iterable[InvoiceProblem]) -> None:
        """Store the problems."""
        self.problem_records = [
            {
                "severity": each.severity,
                "code": each.code,
                "message": each.message,
                "resource_id": each.resource_id,
            }
            for each in problems
        ]

    @property
    def open(self) -> Decimal:
        """What is still to be paid; zero for a draft or void invoice."""
        return domain.invoices.open_amount(self.due, self.offset, self.paid)

    @property
    def overpaid(self) -> Decimal:
        """What was paid beyond the amount due."""
        return domain.invoices.overpaid_amount(self.due, self.offset, self.paid)

    @property
    def due(self) -> Decimal:
        """The total if the invoice is issued, else zero."""
        return self.total if self.state in ISSUED_STATES else Decimal(0)

    @property
    def refundable(self) -> Decimal:
        """What credit notes can still pay back."""
        return max(self.paid - self.refunded - self.credited_balance, Decimal(0))

    def money(self, amount: Decimal) -> Money:
        """Return the amount in the currency of the invoice."""
        return Money(amount, self.currency_code)


class InvoiceLineRow(TenantRow):
    """A line of an invoice. Only `credited` and `held` change."""

    __tablename__ = "invoice_lines"

    invoice_id: Mapped[UUID] = mapped_column(Uuid)
    number: Mapped[int] = mapped_column(Integer)
    """Counts from 1."""
    kind: Mapped[LineKind] = mapped_column(text_enum(LineKind))
    entity_id: Mapped[UUID | None] = mapped_column(Uuid)
    """None for ROUNDING and EXCHANGE_DIFFERENCE."""
    entity_code: Mapped[str] = mapped_column(String)
    entity_name: Mapped[str] = mapped_column(String)
    department_id: Mapped[UUID | None] = mapped_column(Uuid)
    department_name: Mapped[str] = mapped_column(String)
    gl_code: Mapped[str] = mapped_column(String)
    contract_id: Mapped[UUID | None] = mapped_column(Uuid)
    contract_number: Mapped[str] = mapped_column(String)
    description: Mapped[str] = mapped_column(String)
    original_amount: Mapped[Decimal | None] = mapped_column(AMOUNT)
    original_currency_code: Mapped[str | None] = mapped_column(CHAR(3))
    rate: Mapped[Decimal | None] = mapped_column(Numeric)
    """None if the original currency is that of the invoice, or if charges of several days were converted."""
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    """Net, in the currency of the invoice."""
    tax_treatment: Mapped[TaxTreatment] = mapped_column(text_enum(TaxTreatment))
    tax_rate_bp: Mapped[int] = mapped_column(Integer)
    first_date: Mapped[date | None] = mapped_column(Date)
    last_date: Mapped[date | None] = mapped_column(Date)
    charge_ids: Mapped[Sequence[UUID]] = mapped_column(ARRAY(Uuid))
    item_count: Mapped[int] = mapped_column(Integer)
    """Number of allocations or fees."""
    credited: Mapped[Decimal] = mapped_column(AMOUNT, default=Decimal(0))
    """Net amount of credit notes; has the sign of `amount`."""
    held: Mapped[Decimal] = mapped_column(AMOUNT, default=Decimal(0))
    """Net amount held by disputes; has the sign of `amount`."""

    @property
    def creditable(self) -> CreditableLine:
        """The amounts of the line for credit notes and holds."""
        return CreditableLine(
            id=self.id,
            number=self.number,
            net=self.amount,
            tax_key=TaxKey(self.tax_treatment, self.tax_rate_bp),
            credited=self.credited,
            held=self.held,
        )

    @property
    def original(self) -> Money | None:
        """The sum before conversion."""
        if self.original_amount is None or self.original_currency_code is None:
            return None
        return Money(self.original_amount, self.original_currency_code)


class InvoiceChargeRow(Base):
    """Allocations that an invoice took, with the same entity, department, GL code, supplier and currency."""

    __tablename__ = "invoice_charges"

    tenant_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    invoice_id: Mapped[UUID] = mapped_column(Uuid)
    entity_id: Mapped[UUID] = mapped_column(Uuid)
    department_id: Mapped[UUID | None] = mapped_column(Uuid)
    gl_code: Mapped[str] = mapped_column(String)
    supplier_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The entity of the invoice that made the charge; None if it came from outside."""
    day: Mapped[date | None] = mapped_column(Date)
    """Date of the allocations, if they are converted at the rate of their day."""
    original_amount: Mapped[Decimal] = mapped_column(Numeric)
    original_currency_code: Mapped[str] = mapped_column(CHAR(3))
    booked_amount: Mapped[Decimal] = mapped_column(Numeric)
    """In the currency of the entity."""
    booked_currency_code: Mapped[str] = mapped_column(CHAR(3))
    first_date: Mapped[date] = mapped_column(Date)
    last_date: Mapped[date] = mapped_column(Date)
    allocation_ids: Mapped[Sequence[UUID]] = mapped_column(ARRAY(Uuid))


class InvoiceEliminationRow(TenantRow):
    """Charges between two entities of an invoice, which are not billed."""

    __tablename__ = "invoice_eliminations"

    invoice_id: Mapped[UUID] = mapped_column(Uuid)
    number: Mapped[int] = mapped_column(Integer)
    supplier_entity_id: Mapped[UUID] = mapped_column(Uuid)
    supplier_code: Mapped[str] = mapped_column(String)
    supplier_name: Mapped[str] = mapped_column(String)
    buyer_entity_id: Mapped[UUID] = mapped_column(Uuid)
    buyer_code: Mapped[str] = mapped_column(String)
    buyer_name: Mapped[str] = mapped_column(String)
    original_amount: Mapped[Decimal] = mapped_column(AMOUNT)
    original_currency_code: Mapped[str] = mapped_column(CHAR(3))
    supplier_amount: Mapped[Decimal] = mapped_column(AMOUNT)
    """`original_amount` in the currency of the invoice."""
    booked_amount: Mapped[Decimal] = mapped_column(AMOUNT)
    booked_currency_code: Mapped[str] = mapped_column(CHAR(3))
    buyer_amount: Mapped[Decimal] = mapped_column(AMOUNT)
    """`booked_amount` in the currency of the invoice."""
    charge_ids: Mapped[Sequence[UUID]] = mapped_column(ARRAY(Uuid))
    allocation_count: Mapped[int] = mapped_column(Integer)


class InvoiceFeeRow(TenantRow):
    """A fee that an invoice billed, or the change of a fee that an earlier one billed."""

    __tablename__ = "invoice_fees"

    invoice_id: Mapped[UUID] = mapped_column(Uuid)
    line_id: Mapped[UUID] = mapped_column(Uuid)
    contract_id: Mapped[UUID] = mapped_column(Uuid)
    due_date: Mapped[date] = mapped_column(Date)
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    currency_code: Mapped[str] = mapped_column(CHAR(3))


@dataclass(frozen=True, slots=True)
class InvoiceDetails:
    """An invoice with its eliminated charges and its first lines."""

    invoice: InvoiceRow
    lines: Sequence[InvoiceLineRow]
    eliminations: Sequence[InvoiceEliminationRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineItem:
    """An allocation or a fee of an invoice line."""

    id: UUID
    """Of the allocation, or of the billed fee."""
    contract_id: UUID | None
    """Of a fee; None for an allocation."""
    day: date
    amount: Money
    category: str = ""
    description: str = ""
    source_ref: str = ""
