"""Use cases of credit notes."""

from collections.abc import Mapping
from decimal import Decimal
from uuid import UUID

from eventing import outbox
from kit import clock, dates, ids
from kit.db import ReadSession, WriteSession
from kit.money import Money
from services.entities import domain, events, service, store
from services.entities.domain.billing_documents import BillingDocument, DocumentType
from services.entities.domain.credit_notes import (
    CreditableInvoice,
    CreditNoteAmounts,
    CreditNoteRequest,
    CreditSplit,
)
from services.entities.domain.invoices import LINES_SHOWN, InvoiceAction
from services.entities.domain.line_holds import HoldKind
from services.entities.errors.credit_notes import InvoiceFullyCredited
from services.entities.models.credit_notes import CreditedLine, CreditNoteDetails, CreditNoteLineRow, CreditNoteRow
from services.entities.models.invoices import InvoiceRow


async def create(tx: WriteSession, request: CreditNoteRequest, *, dry_run: bool = False) -> CreditNoteDetails:
    """Credit lines of an issued invoice; publish CreditNoteIssued, and RefundRequested if a part is paid back.

    A dry run stores nothing; its credit note has no number. Raises InvoiceNotFound, InvoiceStateForbids, InvalidFields,
    InvoiceFullyCredited, CreditExceedsLine, CreditExceedsInvoice, CreditBelowZero, OffsetExceedsOpen,
    RefundExceedsPaid.
    """
    invoice = await store.invoices.lock(tx, request.invoice_id)
    domain.invoices.advance(invoice.id, invoice.state, InvoiceAction.CREDIT)
    service.field_violations.raise_any(domain.credit_notes.currency_violations(request, invoice.currency_code))
    rows = await store.credit_notes.find_invoice_lines(tx, invoice.id, set(request.amounts) or None)
    creditable = await service.creditable_invoices.read(tx, invoice, rows)
    amounts = _requested_amounts(request, creditable)
    holds = None
    if request.dispute_id is not None:
        holds = await store.line_holds.sum_of_dispute(tx, invoice.id, request.dispute_id)
    credited = domain.credit_notes.credit_lines(creditable, amounts, holds)
    note = await _build(tx, invoice, creditable, credited, request)
    lines = {row.id: row for row in rows}
    credited_lines = [CreditedLine(lines[line.id], amount) for line, amount in credited.lines]
    if dry_run:
        return CreditNoteDetails(note, credited_lines[:LINES_SHOWN], [])
    await _apply(tx, invoice, note, {line.id: amount for line, amount in credited.lines})
    refunds = [await service.refunds.request(tx, note)] if note.refund else []
    outbox.append(tx, events.published.credit_note_issued(note, invoice, credited_lines[:LINES_SHOWN]))
    for refund in refunds:
        outbox.append(tx, events.published.refund_requested(refund, note))
    return CreditNoteDetails(note, credited_lines[:LINES_SHOWN], refunds)


def _requested_amounts(request: CreditNoteRequest, creditable: CreditableInvoice) -> Mapping[UUID, Decimal]:
    """Return the net amounts to credit by line. Raises InvalidFields, InvoiceFullyCredited."""
    if request.amounts:
        amounts = {line_id: amount.amount for line_id, amount in request.amounts.items()}
        service.field_violations.raise_any(domain.credit_notes.request_violations(creditable.lines, amounts))
        return amounts
    amounts = dict(domain.credit_notes.all_that_is_left(creditable))
    if not amounts:
        raise InvoiceFullyCredited(request.invoice_id)
    return amounts


def _split(invoice: InvoiceRow, credited: CreditNoteAmounts, request: CreditNoteRequest) -> CreditSplit:
    split = domain.credit_notes.split_total(credited.total, request.split, open_amount=invoice.open)
    total = invoice.money(credited.total)
    service.field_violations.raise_any(domain.credit_notes.split_violations(total, split))
    domain.credit_notes.check_split(
        split, invoice.currency_code, open_amount=invoice.open, refundable=invoice.refundable
    )
    return split


async def _build(
    tx: ReadSession,
    invoice: InvoiceRow,
    creditable: CreditableInvoice,
    credited: CreditNoteAmounts,
    request: CreditNoteRequest,
) -> CreditNoteRow:
    """Return the credit note, without a number. Raises InvalidFields, OffsetExceedsOpen, RefundExceedsPaid."""
    split = _split(invoice, credited, request)
    profile = await store.billing_profiles.get(tx, invoice.billing_profile_id)
    issuer_tax = None
    if invoice.issuer_tax is not None:
        whole = Money(invoice.issuer_tax, invoice.issuer_currency_code)
        issuer_tax = domain.credit_notes.issuer_tax(
            whole, invoice.tax, credited=creditable.tax_credited, tax=credited.tax
        ).amount
    now = clock.now()
    note = CreditNoteRow(
        id=ids.new(),
        number="",
        invoice_id=invoice.id,
        invoice_number=invoice.number,
        entity_id=invoice.entity_id,
        billing_profile_id=invoice.billing_profile_id,
        dispute_id=request.dispute_id,
        issuer_record=invoice.issuer_record,
        recipient_record=invoice.recipient_record,
        recipient_name=invoice.recipient_name,
        currency_code=invoice.currency_code,
        net=credited.net,
        tax=credited.tax,
        total=credited.total,
        issuer_currency_code=invoice.issuer_currency_code,
        issuer_tax=issuer_tax,
        offset=split.offset,
        refund=split.refund,
        credit=split.credit,
        line_count=len(credited.lines),
        reason=request.reason,
        issue_date=dates.date_in(profile.time_zone, now),
        actor=tx.origin.actor,
        create_time=now,
    )
    note.set_taxes(credited.taxes)
    return note


async def _apply(tx: WriteSession, invoice: InvoiceRow, note: CreditNoteRow, amounts: Mapping[UUID, Decimal]) -> None:
    """Store the credit note and its effect on the invoice and its lines."""
    of_dispute = note.dispute_id is not None
    changes = {line_id: (amount, -amount if of_dispute else Decimal(0)) for line_id, amount in amounts.items()}
    await store.credit_notes.update_invoice_lines(tx, changes)
    if note.dispute_id is not None:
        released = {line_id: -amount for line_id, amount in amounts.items()}
        await service.line_holds.store_changes(tx, invoice, note.dispute_id, HoldKind.CREDITED, released)
    invoice.offset += note.offset
    invoice.refunded += note.refund
    invoice.credited_balance += note.credit
    await service.invoice_payments.settle(tx, invoice)
    rows = [
        CreditNoteLineRow(id=ids.new(), credit_note_id=note.id, line_id=line_id, amount=amount)
        for line_id, amount in amounts.items()
    ]
    await store.credit_notes.insert_lines(tx, rows)
    profile = await store.billing_profiles.get(tx, note.billing_profile_id)
    # Last, because other credit notes of the series wait from here to the commit.
    year = note.issue_date.year
    note.number = await store.number_series.take_next(tx, profile, DocumentType.CREDIT_NOTE, year)
    await store.credit_notes.insert(tx, note)


async def get_details(tx: ReadSession, note: CreditNoteRow) -> CreditNoteDetails:
    """Return the credit note with its first lines and its refunds."""
    rows = await store.credit_notes.list_first_lines(tx, note.id, LINES_SHOWN)
    lines = await store.credit_notes.with_invoice_lines(tx, rows)
    return CreditNoteDetails(note, lines, await store.refunds.list_of_credit_note(tx, note.id))


async def build_document(tx: ReadSession, credit_note_id: UUID) -> BillingDocument:
    """Return everything that the document of a credit note shows. Raises CreditNoteNotFound."""
    note = await store.credit_notes.get(tx, credit_note_id)
    invoice = await store.invoices.get(tx, note.invoice_id)
    rows = await store.credit_notes.list_first_lines(tx, note.id, note.line_count)
    lines = await store.credit_notes.with_invoice_lines(tx, rows)
    return service.billing_documents.of_credit_note(note, invoice, lines)
