"""Conversion of verified invoices."""

from datetime import date
from decimal import Decimal
from typing import Final
from uuid import UUID

from billing.entities.v1.statement_pb2 import InvoiceDifference, InvoiceVerification

from contract.values import decimal_text
from kit import ids
from kit.money import Money
from services.entities.domain.verifications import Difference, Value
from services.entities.domain.verifications import InvoiceVerification as Verification

_DIFFERENCES_SHOWN: Final = 100
_IDS: Final = {"department_id": ids.DEPARTMENT, "contract_id": ids.CONTRACT}


def to_proto(verification: Verification) -> InvoiceVerification:
    """Convert a verification with its first differences."""
    return InvoiceVerification(
        invoice_id=ids.INVOICE.format(verification.invoice_id),
        verified=not verification.differences,
        line_count=verification.line_count,
        allocation_count=verification.allocation_count,
        fee_count=verification.fee_count,
        elimination_count=verification.elimination_count,
        tax_count=verification.tax_count,
        difference_count=len(verification.differences),
        differences=map(_difference_to_proto, verification.differences[:_DIFFERENCES_SHOWN]),
    )


def _difference_to_proto(difference: Difference) -> InvoiceDifference:
    line = difference.line
    return InvoiceDifference(
        subject=InvoiceDifference.Subject.Value(difference.subject),
        line_id=ids.INVOICE_LINE.format_optional(line.id if line else None),
        line_number=line.number if line else 0,
        label=difference.label,
        field=difference.field,
        expected=_text(difference.field, difference.expected),
        actual=_text(difference.field, difference.actual),
    )


def _text(field: str, value: Value) -> str:
    match value:
        case None:
            return ""
        case UUID():
            return _IDS.get(field, ids.ENTITY).format(value)
        case Decimal():
            return decimal_text(value)
        case date():
            return value.isoformat()
        case Money():
            return str(value)
        case _:
            return str(value)
