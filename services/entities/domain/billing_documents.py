"""Billing documents: invoices, statements of internal charges and credit notes, as they are rendered.

A BillingDocument has everything that a document shows, with all names resolved, so that renderers read nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Any

from kit.money import Money
from services.entities.domain.parties import Party


class DocumentType(StrEnum):
    """Types of documents; each has a number series of its own."""

    INVOICE = "INVOICE"
    STATEMENT = "STATEMENT"
    """A statement of internal charges: all lines are inside a VAT group, so it is no invoice."""
    CREDIT_NOTE = "CREDIT_NOTE"


class LineKind(StrEnum):
    """InvoiceLine.Kind."""

    ALLOCATIONS = "ALLOCATIONS"
    CONTRACT_FEE = "CONTRACT_FEE"
    ROUNDING = "ROUNDING"
    """The rounded sum of the exact amounts minus the sum of the rounded lines."""
    EXCHANGE_DIFFERENCE = "EXCHANGE_DIFFERENCE"
    """The part of eliminated charges that does not cancel, because both sides were converted at other rates."""


class TaxTreatment(StrEnum):
    """InvoiceLine.TaxTreatment."""

    STANDARD = "STANDARD"
    """Category S of EN 16931."""
    REVERSE_CHARGE = "REVERSE_CHARGE"
    """The recipient owes the tax (category AE)."""
    EXEMPT = "EXEMPT"
    """Category E."""
    NOT_SUBJECT = "NOT_SUBJECT"
    """Inside a VAT group (category O)."""


class RatePolicy(StrEnum):
    """Invoice.RatePolicy."""

    PERIOD_END = "PERIOD_END"
    """The rate of the last day of the period."""
    TRANSACTION_DATE = "TRANSACTION_DATE"
    """The rate of the day of each cost or fee."""
    PERIOD_AVERAGE = "PERIOD_AVERAGE"
    """The mean of the rates in force on each day of the period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentLine:
    """A line of a document; amounts without currency are in the currency of the document."""

    number: int
    """Counts from 1."""
    kind: LineKind
    entity_code: str
    entity_name: str
    department_name: str
    """Empty for costs of the entity as a whole, and for fees."""
    gl_code: str
    description: str
    contract_number: str
    """Empty unless the line is a fee of a contract."""
    original: Money | None
    """The amount before conversion; None for ROUNDING and EXCHANGE_DIFFERENCE."""
    rate: Decimal | None
    """Price of one unit of the original currency; None if it is that of the document, or if there are several."""
    amount: Decimal
    """Net; below zero for credits."""
    treatment: TaxTreatment
    tax_rate_bp: int
    """0 unless the treatment is STANDARD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaxSubtotal:
    """Net and tax of all lines with the same treatment and rate."""

    treatment: TaxTreatment
    tax_rate_bp: int
    net: Decimal
    tax: Decimal

    def to_record(self) -> dict[str, Any]:
        """Return the subtotal as it is stored in JSON."""
        return {
            "treatment": self.treatment,
            "tax_rate_bp": self.tax_rate_bp,
            "net": f"{self.net:f}",
            "tax": f"{self.tax:f}",
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "TaxSubtotal":
        """Return the subtotal from its record."""
        return cls(
            treatment=TaxTreatment(record["treatment"]),
            tax_rate_bp=record["tax_rate_bp"],
            net=Decimal(record["net"]),
            tax=Decimal(record["tax"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedDocumentRate:
    """A rate that amounts of a document were converted at."""

    source: str
    """Original currency."""
    target: str
    """Currency of the document, or that of the issuer's taxes."""
    rate: Decimal
    day: date
    """The day that was converted; for an average, the last day of the period."""
    effective_date: date
    """Date of the rate; for an average, the newest of its rates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elimination:
    """Charges between two entities of the group that are not billed; both amounts in the document's currency."""

    supplier_code: str
    supplier_name: str
    buyer_code: str
    buyer_name: str
    original: Money
    supplier_amount: Decimal
    """The charges, converted from the currency that they were made in."""
    buyer_amount: Decimal
    """The charges as the buyer booked them, converted from the buyer's currency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingDocument:
    """Everything that a document shows. Amounts are in `currency`."""

    type: DocumentType
    number: str
    """Empty for a draft."""
    issue_date: date | None
    """None for a draft."""
    due_date: date | None
    """None for drafts and credit notes."""
    period_start: date
    period_end: date
    """First day after the period."""
    currency: str
    rate_policy: RatePolicy
    issuer: Party
    recipient: Party
    purchase_order_numbers: Sequence[str]
    contract_numbers: Sequence[str]
    lines: Sequence[DocumentLine]
    eliminations: Sequence[Elimination]
    taxes: Sequence[TaxSubtotal]
    net: Decimal
    tax: Decimal
    total: Decimal
    """net + tax."""
    issuer_tax: Money | None
    """The tax in the issuer's currency; None if that is the currency of the document."""
    rates: Sequence[AppliedDocumentRate]
    note: str = ""
    credited_number: str = ""
    """Of a credit note: the number of the invoice that it credits."""
    credited_issue_date: date | None = None
    """Of a credit note: the issue date of that invoice."""

    @property
    def is_draft(self) -> bool:
        """True if the document has not been issued."""
        return not self.number
