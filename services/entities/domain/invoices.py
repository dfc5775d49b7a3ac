"""Consolidated invoices: states, input types and problems."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import resources
from kit.money import DIGITS_MAX
from services.entities.domain.billing_documents import RatePolicy
from services.entities.domain.field_violations import FieldViolation
from services.entities.domain.proration import DateRange
from services.entities.errors.invoices import InvoiceStateForbids

PERIOD_DAYS_MAX: Final = 366
LINES_MAX: Final = 10_000
"""Maximum number of lines of an invoice, and of its eliminated charges."""
EINVOICE_PROBLEM: Final = "EINVOICE_INCOMPLETE"
"""Code of problems that keep an invoice from being valid as an e-invoice."""
AMOUNT_LIMIT: Final = Decimal(10**DIGITS_MAX)
"""All amounts of an invoice are below it, so that each can be paid and credited."""
LINES_SHOWN: Final = 200
"""Lines that are part of the invoice resource."""


class InvoiceState(StrEnum):
    """Invoice.State."""

    DRAFT = "DRAFT"
    ISSUED = "ISSUED"
    PARTIALLY_PAID = "PARTIALLY_PAID"
    PAID = "PAID"
    VOID = "VOID"


class InvoiceType(StrEnum):
    """Invoice.Type."""

    INVOICE = "INVOICE"
    STATEMENT = "STATEMENT"
    """All lines are inside the issuer's VAT group."""


class InvoiceAction(StrEnum):
    """Actions on an invoice; the value is the past participle used in error messages."""

    REFRESH = "refreshed"
    ISSUE = "issued"
    VOID = "voided"
    CREDIT = "credited"
    HOLD = "disputed"


_S, _A = InvoiceState, InvoiceAction
INVOICE_TRANSITIONS: Final[Mapping[tuple[InvoiceState, InvoiceAction], InvoiceState]] = {
    (_S.DRAFT, _A.REFRESH): _S.DRAFT,
    (_S.DRAFT, _A.ISSUE): _S.ISSUED,
    (_S.DRAFT, _A.VOID): _S.VOID,
    (_S.ISSUED, _A.VOID): _S.VOID,
    (_S.PAID, _A.VOID): _S.VOID,  # if nothing was to be paid, because the total is not above zero
    (_S.ISSUED, _A.CREDIT): _S.ISSUED,
    (_S.PARTIALLY_PAID, _A.CREDIT): _S.PARTIALLY_PAID,
    (_S.PAID, _A.CREDIT): _S.PAID,
    (_S.ISSUED, _A.HOLD): _S.ISSUED,
    (_S.PARTIALLY_PAID, _A.HOLD): _S.PARTIALLY_PAID,
    (_S.PAID, _A.HOLD): _S.PAID,
}
"""All allowed transitions by actions; what is paid and credited decides between ISSUED, PARTIALLY_PAID and PAID."""

ISSUED_STATES: Final = frozenset({_S.ISSUED, _S.PARTIALLY_PAID, _S.PAID})
OUTSTANDING: Final = frozenset({_S.ISSUED, _S.PARTIALLY_PAID})
"""The states in which something may be open."""


class Severity(StrEnum):
    """InvoiceProblem.Severity."""

    WARNING = "WARNING"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class InvoiceProblem:
    """A problem of a draft."""

    severity: Severity
    code: str
    message: str
    resource_id: str = ""
    """In the format of the API; may be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceTerms:
    """Input for a draft."""

    period: DateRange
    currency: str
    """Empty: that of the entity."""
    rate_policy: RatePolicy
    billing_profile_id: UUID | None
    """None: the default profile."""
    note: str
    require_einvoice: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceFilter:
    """Filters of a list of invoices; None or empty text does not filter."""

    entity_id: UUID | None = None
    state: InvoiceState | None = None
    start: date | None = None
    end: date | None = None
    overdue: bool = False
    """Only outstanding invoices that were due before today."""
    text: str = ""
    """Searched in number and recipient, ignoring case."""


def violations(terms: InvoiceTerms) -> Iterator[FieldViolation]:
    """Yield a violation if the period is empty or longer than PERIOD_DAYS_MAX days."""
    period, latest = terms.period, terms.period.start + timedelta(days=PERIOD_DAYS_MAX)
    if not period.start < period.end <= latest:
        text = f"must be after period_start_date, and {latest} at the latest ({PERIOD_DAYS_MAX} days)"
        yield FieldViolation("period_end_date", text, "invoice.period")


def advance(invoice_id: UUID, state: InvoiceState, action: InvoiceAction) -> InvoiceState:
    """Return the state after `action`. Raises InvoiceStateForbids naming the states in which it is allowed."""
    return resources.advance(INVOICE_TRANSITIONS, invoice_id, state, action, InvoiceStateForbids)


def open_amount(total: Decimal, offset: Decimal, paid: Decimal) -> Decimal:
    """Return what is still to be paid; never below zero, also for an invoice with a negative total."""
    return max(total - offset - paid, Decimal(0))


def overpaid_amount(due: Decimal, offset: Decimal, paid: Decimal) -> Decimal:
    """Return what was paid beyond the amount due; `due` is zero unless the invoice is issued."""
    return max(paid - max(due - offset, Decimal(0)), Decimal(0))


def settled_state(state: InvoiceState, open_amount: Decimal, paid: Decimal) -> InvoiceState:
    """Return the state of an invoice after a payment or a credit note; that of a draft or void one stays."""
    if state not in ISSUED_STATES:
        return state
    if open_amount == 0:
        return InvoiceState.PAID
    return InvoiceState.PARTIALLY_PAID if paid else InvoiceState.ISSUED
