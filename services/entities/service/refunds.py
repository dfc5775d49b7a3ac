"""Use cases of the refunds of credit notes, which the payment system makes."""

from datetime import date
from uuid import UUID

from eventing import outbox
from kit import ids
from kit.db import WriteSession
from kit.errors import Internal, InvalidFields, Violation
from kit.money import Money
from services.entities import domain, events, store
from services.entities.domain.credit_notes import RefundAction, RefundState
from services.entities.errors.credit_notes import CreditNoteWithoutRefund, RefundExceedsPaid
from services.entities.models.credit_notes import CreditNoteRow, RefundRow
from services.entities.models.invoices import InvoiceRow


async def request(tx: WriteSession, note: CreditNoteRow) -> RefundRow:
    """Store a request to pay back the refund part of a credit note; the invoice counts it already."""
    refund = RefundRow(
        id=ids.new(),
        credit_note_id=note.id,
        invoice_id=note.invoice_id,
        dispute_id=note.dispute_id,
        amount=note.refund,
        currency_code=note.currency_code,
        state=RefundState.REQUESTED,
    )
    await store.refunds.save(tx, refund)
    return refund


async def retry(tx: WriteSession, credit_note_id: UUID) -> CreditNoteRow:
    """Request the refund of a credit note again after the last one failed, and publish RefundRequested.

    Raises CreditNoteNotFound, CreditNoteWithoutRefund, RefundStateForbids, RefundExceedsPaid.
    """
    note = await store.credit_notes.get(tx, credit_note_id)
    invoice = await store.invoices.lock(tx, note.invoice_id)
    refunds = await store.refunds.list_of_credit_note(tx, note.id)
    if not refunds:
        raise CreditNoteWithoutRefund(note.id)
    domain.credit_notes.advance_refund(refunds[-1].id, refunds[-1].state, RefundAction.RETRY)
    if note.refund > invoice.refundable:
        raise RefundExceedsPaid(requested=note.money(note.refund), remaining=invoice.refundable)
    invoice.refunded += note.refund
    await store.invoices.save(tx, invoice)
    refund = await request(tx, note)
    outbox.append(tx, events.published.refund_requested(refund, note))
    return note


async def complete(
    tx: WriteSession, refund_id: UUID, amount: Money, *, refund_date: date | None, reference: str
) -> None:
    """Record that a refund was paid back, and publish CreditNoteRefunded; no effect if it was recorded before.

    Raises InvalidFields for an unknown refund and an amount in another currency, RefundExceedsPaid if the refund was
    reported as failed before, and its amount was refunded or credited otherwise since.
    """
    invoice, refund = await _lock(tx, refund_id)
    if amount.currency != refund.currency_code:
        text = f"must be {refund.currency_code}, the currency of the refund"
        raise InvalidFields([Violation("amount.currency_code", text, "currency.of_refund")])
    if refund.state is RefundState.COMPLETED:
        return
    _advance(invoice, refund, RefundAction.COMPLETE)
    refund.completed_amount, refund.refund_date, refund.reference = amount.amount, refund_date, reference
    refund.problem = ""
    await store.invoices.save(tx, invoice)
    await store.refunds.save(tx, refund)
    outbox.append(tx, events.published.credit_note_refunded(refund))


async def fail(tx: WriteSession, refund_id: UUID, *, reason: str) -> None:
    """Record that a refund was not paid back, and publish CreditNoteRefundFailed; no effect unless it is REQUESTED.

    Raises InvalidFields for an unknown refund.
    """
    invoice, refund = await _lock(tx, refund_id)
    if refund.state is not RefundState.REQUESTED:
        return
    _advance(invoice, refund, RefundAction.FAIL)
    refund.problem = reason
    await store.invoices.save(tx, invoice)
    await store.refunds.save(tx, refund)
    outbox.append(tx, events.published.credit_note_refund_failed(refund))


async def report_lost_reply(tx: WriteSession, refund_id: UUID) -> None:
    """Show that a reply of the payment system was not recorded. Redriving its event records it later."""
    _, refund = await _lock(tx, refund_id)
    if refund.state is not RefundState.COMPLETED:
        refund.problem = Internal(tx.origin.trace.trace_id).message
        await store.refunds.save(tx, refund)


async def _lock(tx: WriteSession, refund_id: UUID) -> tuple[InvoiceRow, RefundRow]:
    """Return the refund and its invoice, locked; the invoice first, like everywhere.

    Raises InvalidFields for an unknown refund.
    """
    refund = await store.refunds.find(tx, refund_id)
    if refund is None:
        raise InvalidFields([Violation("refund_id", "must be the id of a refund", "refund.known")])
    invoice = await store.invoices.lock(tx, refund.invoice_id)
    return invoice, await store.refunds.lock(tx, refund_id)


def _advance(invoice: InvoiceRow, refund: RefundRow, action: RefundAction) -> None:
    """Set the state of a refund after `action`, and what its invoice counts as refunded: all but failed refunds.

    Raises RefundExceedsPaid.
    """
    counted = refund.state is not RefundState.FAILED
    refund.state = domain.credit_notes.advance_refund(refund.id, refund.state, action)
    counts = refund.state is not RefundState.FAILED
    if counts and not counted and refund.amount > invoice.refundable:
        raise RefundExceedsPaid(requested=refund.money, remaining=invoice.refundable)
    invoice.refunded += refund.amount * (counts - counted)
