"""Builders of the events about invoices, credit notes, payments and refunds."""

from collections.abc import Sequence

from billing.entities.v1.events_pb2 import (
    CreditedLine,
    CreditNoteIssued,
    CreditNoteRefunded,
    CreditNoteRefundFailed,
    InvoiceDrafted,
    InvoiceIssued,
    InvoicePaidInFull,
    InvoicePaymentRecorded,
    InvoiceRunCompleted,
    InvoiceRunFailed,
    InvoiceVoided,
    RefundRequested,
)
from billing.entities.v1.invoice_schedule_pb2 import InvoiceRunProblem

from contract.values import date_text, money_to_proto, time_to_proto
from kit import ids
from kit.money import Money
from services.entities.models.credit_notes import CreditedLine as CreditedLineOfNote
from services.entities.models.credit_notes import CreditNoteRow, RefundRow
from services.entities.models.invoice_payments import InvoicePaymentRow
from services.entities.models.invoice_schedules import InvoiceRunRow
from services.entities.models.invoices import InvoiceRow


def invoice_drafted(invoice: InvoiceRow) -> InvoiceDrafted:
    """Return the event that the draft of an invoice was created."""
    return InvoiceDrafted(
        invoice_id=ids.INVOICE.format(invoice.id),
        entity_id=ids.ENTITY.format(invoice.entity_id),
        period_start_date=invoice.period_start.isoformat(),
        period_end_date=invoice.period_end.isoformat(),
        total=money_to_proto(invoice.money(invoice.total)),
    )


def invoice_issued(invoice: InvoiceRow) -> InvoiceIssued:
    """Return the event that an invoice was issued."""
    return InvoiceIssued(
        invoice_id=ids.INVOICE.format(invoice.id),
        type=invoice.type,
        number=invoice.number,
        entity_id=ids.ENTITY.format(invoice.entity_id),
        billing_profile_id=ids.BILLING_PROFILE.format(invoice.billing_profile_id),
        period_start_date=invoice.period_start.isoformat(),
        period_end_date=invoice.period_end.isoformat(),
        net=money_to_proto(invoice.money(invoice.net)),
        tax=money_to_proto(invoice.money(invoice.tax)),
        total=money_to_proto(invoice.money(invoice.total)),
        issue_date=date_text(invoice.issue_date),
        due_date=date_text(invoice.due_date),
    )


def invoice_voided(invoice: InvoiceRow) -> InvoiceVoided:
    """Return the event that an invoice was withdrawn."""
    return InvoiceVoided(
        invoice_id=ids.INVOICE.format(invoice.id),
        number=invoice.number,
        entity_id=ids.ENTITY.format(invoice.entity_id),
        reason=invoice.void_reason,
    )


def credit_note_issued(
    note: CreditNoteRow, invoice: InvoiceRow, lines: Sequence[CreditedLineOfNote]
) -> CreditNoteIssued:
    """Return the event that a credit note was issued; `lines` are its first ones."""
    return CreditNoteIssued(
        credit_note_id=ids.CREDIT_NOTE.format(note.id),
        number=note.number,
        invoice_id=ids.INVOICE.format(note.invoice_id),
        invoice_number=note.invoice_number,
        entity_id=ids.ENTITY.format(note.entity_id),
        billing_profile_id=ids.BILLING_PROFILE.format(note.billing_profile_id),
        dispute_id=ids.DISPUTE.format_optional(note.dispute_id),
        issue_date=note.issue_date.isoformat(),
        reason=note.reason,
        net=money_to_proto(note.money(note.net)),
        tax=money_to_proto(note.money(note.tax)),
        total=money_to_proto(note.money(note.total)),
        offset=money_to_proto(note.money(note.offset)),
        refund=money_to_proto(note.money(note.refund)),
        credit=money_to_proto(note.money(note.credit)),
        open=money_to_proto(invoice.money(invoice.open)),
        line_count=note.line_count,
        lines=[
            CreditedLine(line_id=ids.INVOICE_LINE.format(each.line.id), amount=money_to_proto(note.money(each.amount)))
            for each in lines
        ],
    )


def invoice_payment_recorded(payment: InvoicePaymentRow, invoice: InvoiceRow) -> InvoicePaymentRecorded:
    """Return the event that a payment of an invoice was recorded."""
    return InvoicePaymentRecorded(
        invoice_id=ids.INVOICE.format(invoice.id),
        entity_id=ids.ENTITY.format(invoice.entity_id),
        payment_id=payment.payment_id,
        amount=money_to_proto(payment.money),
        applied_amount=money_to_proto(invoice.money(payment.applied_amount)),
        exchange_difference=money_to_proto(invoice.money(payment.exchange_difference)),
        payment_date=payment.payment_date.isoformat(),
        paid=money_to_proto(invoice.money(invoice.paid)),
        open=money_to_proto(invoice.money(invoice.open)),
        overpaid=money_to_proto(invoice.money(invoice.overpaid)),
    )


def invoice_paid_in_full(invoice: InvoiceRow) -> InvoicePaidInFull:
    """Return the event that nothing of an invoice is open any more."""
    return InvoicePaidInFull(
        invoice_id=ids.INVOICE.format(invoice.id),
        number=invoice.number,
        entity_id=ids.ENTITY.format(invoice.entity_id),
        total=money_to_proto(invoice.money(invoice.total)),
        paid=money_to_proto(invoice.money(invoice.paid)),
        offset=money_to_proto(invoice.money(invoice.offset)),
        overpaid=money_to_proto(invoice.money(invoice.overpaid)),
    )


def refund_requested(refund: RefundRow, note: CreditNoteRow) -> RefundRequested:
    """Return the event that a part of a credit note is to be paid back."""
    return RefundRequested(
        refund_id=ids.REFUND.format(refund.id),
        credit_note_id=ids.CREDIT_NOTE.format(note.id),
        credit_note_number=note.number,
        invoice_id=ids.INVOICE.format(note.invoice_id),
        invoice_number=note.invoice_number,
        entity_id=ids.ENTITY.format(note.entity_id),
        dispute_id=ids.DISPUTE.format_optional(note.dispute_id),
        amount=money_to_proto(refund.money),
        reason=note.reason,
    )


def credit_note_refunded(refund: RefundRow) -> CreditNoteRefunded:
    """Return the event that a refund was paid back."""
    completed = refund.amount if refund.completed_amount is None else refund.completed_amount
    return CreditNoteRefunded(
        refund_id=ids.REFUND.format(refund.id),
        credit_note_id=ids.CREDIT_NOTE.format(refund.credit_note_id),
        invoice_id=ids.INVOICE.format(refund.invoice_id),
        dispute_id=ids.DISPUTE.format_optional(refund.dispute_id),
        amount=money_to_proto(refund.money),
        completed_amount=money_to_proto(Money(completed, refund.currency_code)),
    )


def credit_note_refund_failed(refund: RefundRow) -> CreditNoteRefundFailed:
    """Return the event that a refund was not paid back."""
    return CreditNoteRefundFailed(
        refund_id=ids.REFUND.format(refund.id),
        credit_note_id=ids.CREDIT_NOTE.format(refund.credit_note_id),
        invoice_id=ids.INVOICE.format(refund.invoice_id),
        dispute_id=ids.DISPUTE.format_optional(refund.dispute_id),
        amount=money_to_proto(refund.money),
        reason=refund.problem,
    )


def invoice_run_completed(run: InvoiceRunRow) -> InvoiceRunCompleted:
    """Return the event that a run made its invoice, or found nothing to bill."""
    return InvoiceRunCompleted(
        run_id=ids.INVOICE_RUN.format(run.id),
        schedule_id=ids.INVOICE_SCHEDULE.format(run.schedule_id),
        entity_id=ids.ENTITY.format(run.entity_id),
        period_start_date=run.period_start.isoformat(),
        period_end_date=run.period_end.isoformat(),
        invoice_id=ids.INVOICE.format_optional(run.invoice_id),
        invoice_number=run.invoice_number,
    )


def invoice_run_failed(run: InvoiceRunRow) -> InvoiceRunFailed:
    """Return the event that a run could not make or issue its invoice."""
    return InvoiceRunFailed(
        run_id=ids.INVOICE_RUN.format(run.id),
        schedule_id=ids.INVOICE_SCHEDULE.format(run.schedule_id),
        entity_id=ids.ENTITY.format(run.entity_id),
        period_start_date=run.period_start.isoformat(),
        period_end_date=run.period_end.isoformat(),
        problems=[InvoiceRunProblem(reason=each.reason, message=each.message) for each in run.problems],
        invoice_id=ids.INVOICE.format_optional(run.invoice_id),
        retry_time=time_to_proto(run.retry_time) if run.retry_time else None,
    )
