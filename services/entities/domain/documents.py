"""Documents in the formats in which users download them."""

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, Protocol

from kit.money import Money, amount_text
from services.entities.domain.billing_documents import (
    AppliedDocumentRate,
    BillingDocument,
    DocumentLine,
    Elimination,
    TaxSubtotal,
)

Record = Mapping[str, Any]
"""A JSON object. Amounts and rates are decimal texts, dates are ISO 8601."""


class DocumentFormat(StrEnum):
    """GetInvoiceDocumentRequest.Format."""

    PDF = "PDF"
    XLSX = "XLSX"
    CSV = "CSV"
    JSON = "JSON"
    CII = "CII"
    """EN 16931 as UN/CEFACT Cross Industry Invoice."""
    UBL = "UBL"
    """EN 16931 as OASIS UBL."""
    ZUGFERD = "ZUGFERD"
    """PDF/A-3 with the CII inside."""

    @property
    def extension(self) -> str:
        """Extension of file names."""
        return _FILES[self][0]

    @property
    def media_type(self) -> str:
        """Media type, as in Content-Type."""
        return _FILES[self][1]

    @property
    def is_einvoice(self) -> bool:
        """True for an electronic invoice by EN 16931."""
        return self in _EINVOICES


_FILES: Final[Mapping[DocumentFormat, tuple[str, str]]] = {
    DocumentFormat.PDF: ("pdf", "application/pdf"),
    DocumentFormat.XLSX: ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    DocumentFormat.CSV: ("csv", "text/csv; charset=utf-8; header=present"),
    DocumentFormat.JSON: ("json", "application/json"),
    DocumentFormat.CII: ("xml", "application/xml"),
    DocumentFormat.UBL: ("xml", "application/xml"),
    DocumentFormat.ZUGFERD: ("pdf", "application/pdf"),
}


class _Named(Protocol):
    """A billing document, or the invoice behind it."""

    @property
    def type(self) -> StrEnum: ...
    @property
    def number(self) -> str: ...
    @property
    def period_start(self) -> date: ...


_EINVOICES: Final = frozenset({DocumentFormat.CII, DocumentFormat.UBL, DocumentFormat.ZUGFERD})


def file_name(document: _Named, file_format: DocumentFormat) -> str:
    """Return a file name made of the document's number, or of its type and period while it is a draft."""
    draft = f"draft-{document.type.lower()}-{document.period_start}"
    return numbered_file_name(document.number or draft, file_format)


def numbered_file_name(number: str, file_format: DocumentFormat) -> str:
    """Return a file name made of a number."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', number)}.{file_format.extension}"


def to_record(document: BillingDocument) -> Record:
    """Return the document as JSON, which all formats are rendered from. Equal documents have equal records."""
    currency = document.currency
    return {
        "type": document.type.value,
        "number": document.number,
        "issue_date": _day(document.issue_date),
        "due_date": _day(document.due_date),
        "period_start": _day(document.period_start),
        "period_end": _day(document.period_end),
        "currency_code": currency,
        "rate_policy": document.rate_policy.value,
        "issuer": document.issuer.to_record(),
        "recipient": document.recipient.to_record(),
        "purchase_order_numbers": list(document.purchase_order_numbers),
        "contract_numbers": list(document.contract_numbers),
        "credited_number": document.credited_number,
        "credited_issue_date": _day(document.credited_issue_date),
        "lines": [_line(line, currency) for line in document.lines],
        "eliminations": [_elimination(elimination, currency) for elimination in document.eliminations],
        "taxes": [_tax(tax, currency) for tax in document.taxes],
        "net": amount_text(document.net, currency),
        "tax": amount_text(document.tax, currency),
        "total": amount_text(document.total, currency),
        "issuer_tax": _money(document.issuer_tax),
        "rates": [_applied_rate(rate) for rate in document.rates],
        "note": document.note,
    }


def _line(line: DocumentLine, currency: str) -> Record:
    return {
        "number": line.number,
        "kind": line.kind.value,
        "entity_code": line.entity_code,
        "entity_name": line.entity_name,
        "department_name": line.department_name,
        "gl_code": line.gl_code,
        "description": line.description,
        "contract_number": line.contract_number,
        "original": _money(line.original),
        "rate": _rate(line.rate),
        "amount": amount_text(line.amount, currency),
        "tax_treatment": line.treatment.value,
        "tax_rate_bp": line.tax_rate_bp,
    }


def _elimination(elimination: Elimination, currency: str) -> Record:
    return {
        "supplier_code": elimination.supplier_code,
        "supplier_name": elimination.supplier_name,
        "buyer_code": elimination.buyer_code,
        "buyer_name": elimination.buyer_name,
        "original": _money(elimination.original),
        "supplier_amount": amount_text(elimination.supplier_amount, currency),
        "buyer_amount": amount_text(elimination.buyer_amount, currency),
    }


def _tax(tax: TaxSubtotal, currency: str) -> Record:
    return {
        "tax_treatment": tax.treatment.value,
        "tax_rate_bp": tax.tax_rate_bp,
        "net": amount_text(tax.net, currency),
        "tax": amount_text(tax.tax, currency),
    }


def _applied_rate(applied: AppliedDocumentRate) -> Record:
    return {
        "source_currency": applied.source,
        "target_currency": applied.target,
        "rate": _rate(applied.rate),
        "date": _day(applied.day),
        "effective_date": _day(applied.effective_date),
    }


def _money(money: Money | None) -> Record | None:
    return {"amount": money.text(), "currency_code": money.currency} if money else None


def _rate(rate: Decimal | None) -> str | None:
    return f"{rate.normalize():f}" if rate is not None else None


def _day(day: object) -> str | None:
    return str(day) if day else None
