"""Billing documents of stored invoices and credit notes: everything that they show when they are rendered."""

from collections.abc import Sequence
from dataclasses import replace

from kit.money import Money
from services.entities.domain.billing_documents import BillingDocument, DocumentLine, DocumentType, Elimination
from services.entities.models.credit_notes import CreditedLine, CreditNoteRow
from services.entities.models.invoices import InvoiceEliminationRow, InvoiceLineRow, InvoiceRow


def of_invoice(
    invoice: InvoiceRow, lines: Sequence[InvoiceLineRow], eliminations: Sequence[InvoiceEliminationRow]
) -> BillingDocument:
    """Return the document of an invoice with these lines and eliminated charges."""
    return BillingDocument(
        type=DocumentType(invoice.type),
        number=invoice.number,
        issue_date=invoice.issue_date,
        due_date=invoice.due_date,
        period_start=invoice.period_start,
        period_end=invoice.period_end,
        currency=invoice.currency_code,
        rate_policy=invoice.rate_policy,
        issuer=invoice.issuer,
        recipient=invoice.recipient,
        purchase_order_numbers=invoice.purchase_order_numbers,
        contract_numbers=invoice.contract_numbers,
        lines=[_line(line) for line in lines],
        eliminations=[_elimination(each) for each in eliminations],
        taxes=invoice.taxes,
        net=invoice.net,
        tax=invoice.tax,
        total=invoice.total,
        issuer_tax=(None if invoice.issuer_tax is None else Money(invoice.issuer_tax, invoice.issuer_currency_code)),
        rates=invoice.rates,
        note=invoice.note,
    )


def of_credit_note(note: CreditNoteRow, invoice: InvoiceRow, lines: Sequence[CreditedLine]) -> BillingDocument:
    """Return the document of a credit note of the invoice with these lines."""
    issuer_currency = note.issuer_currency_code
    return BillingDocument(
        type=DocumentType.CREDIT_NOTE,
        number=note.number,
        issue_date=note.issue_date,
        due_date=None,
        period_start=invoice.period_start,
        period_end=invoice.period_end,
        currency=note.currency_code,
        rate_policy=invoice.rate_policy,
        issuer=note.issuer,
        recipient=note.recipient,
        purchase_order_numbers=invoice.purchase_order_numbers,
        contract_numbers=sorted({each.line.contract_number for each in lines} - {""}),
        lines=[_credited_line(number, each) for number, each in enumerate(lines, 1)],
        eliminations=[],
        taxes=note.taxes,
        net=note.net,
        tax=note.tax,
        total=note.total,
        issuer_tax=None if note.issuer_tax is None else Money(note.issuer_tax, issuer_currency),
        # Lines were converted for the invoice; a credit note converts the tax only.
        rates=[rate for rate in invoice.rates if (rate.source, rate.target) == (note.currency_code, issuer_currency)],
        note=note.reason,
        credited_number=invoice.number,
        credited_issue_date=invoice.issue_date,
    )


def _credited_line(number: int, credited: CreditedLine) -> DocumentLine:
    return replace(_line(credited.line), number=number, amount=credited.amount, original=None, rate=None)


def _line(line: InvoiceLineRow) -> DocumentLine:
    return DocumentLine(
        number=line.number,
        kind=line.kind,
        entity_code=line.entity_code,
        entity_name=line.entity_name,
        department_name=line.department_name,
        gl_code=line.gl_code,
        description=line.description,
        contract_number=line.contract_number,
        original=line.original,
        rate=line.rate,
        amount=line.amount,
        treatment=line.tax_treatment,
        tax_rate_bp=line.tax_rate_bp,
    )


def _elimination(row: InvoiceEliminationRow) -> Elimination:
    return Elimination(
        supplier_code=row.supplier_code,
        supplier_name=row.supplier_name,
        buyer_code=row.buyer_code,
        buyer_name=row.buyer_name,
        original=Money(row.original_amount, row.original_currency_code),
        supplier_amount=row.supplier_amount,
        buyer_amount=row.buyer_amount,
    )
