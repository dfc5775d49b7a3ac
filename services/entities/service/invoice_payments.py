"""Use cases of the payments of invoices."""

from uuid import UUID

from eventing import outbox
from kit import ids
from kit.db import WriteSession
from services.entities import domain, events, service, store
from services.entities.domain.field_violations import FieldViolation
from services.entities.domain.invoice_payments import PaymentReport
from services.entities.domain.invoices import InvoiceState
from services.entities.domain.rates import Conversion
from services.entities.models.invoice_payments import InvoicePaymentRow
from services.entities.models.invoices import InvoiceRow


async def record(tx: WriteSession, report: PaymentReport) -> None:
    """Record a payment that the billing system reports; no effect if it was recorded before.

    A payment of a draft or void invoice is recorded as well; it counts when the invoice is issued. Publishes
    InvoicePaymentRecorded, and InvoicePaidInFull if nothing is open any more. Raises InvoiceNotFound, InvalidFields if
    the amounts contradict the invoice or the payment was recorded with other contents, RateMissing, AmountTooLarge.
    """
    await store.invoice_payments.lock(tx, report.payment_id)
    invoice = await store.invoices.lock(tx, report.invoice_id)
    recorded = await store.invoice_payments.find(tx, report.payment_id)
    if recorded:
        service.field_violations.raise_any(_differences(report, recorded))
        return
    payment = await _apply(tx, report, invoice)
    await store.invoice_payments.insert(tx, payment)
    invoice.paid += payment.applied_amount
    invoice.exchange_difference += payment.exchange_difference
    invoice.unrecorded_payment_ids = [each for each in invoice.unrecorded_payment_ids if each != report.payment_id]
    await settle(tx, invoice)
    outbox.append(tx, events.published.invoice_payment_recorded(payment, invoice))


async def _apply(tx: WriteSession, report: PaymentReport, invoice: InvoiceRow) -> InvoicePaymentRow:
    currency = invoice.currency_code
    service.field_violations.raise_any(domain.invoice_payments.report_violations(report, currency))
    days = report.payment_date, invoice.issue_date or report.payment_date
    rate, issue_rate = await service.rates.find(tx, [Conversion(report.amount.currency, currency, day) for day in days])
    applied = domain.invoice_payments.apply_payment(
        report, currency, rate=rate, issue_rate=issue_rate if invoice.issue_date else None
    )
    return InvoicePaymentRow(
        id=ids.new(),
        payment_id=report.payment_id,
        invoice_id=invoice.id,
        amount=report.amount.amount,
        currency_code=report.amount.currency,
        converted_amount=report.converted.amount if report.converted else None,
        applied_amount=applied.amount,
        rate=applied.rate,
        rate_date=applied.rate_date,
        exchange_difference=applied.exchange_difference,
        payment_date=report.payment_date,
        reference=report.reference,
    )


def _differences(report: PaymentReport, recorded: InvoicePaymentRow) -> list[FieldViolation]:
    """Return the fields in which a report differs from the payment that was recorded with its id."""
    converted = report.converted.amount if report.converted else None
    same = {
        "invoice_id": recorded.invoice_id == report.invoice_id,
        "amount": recorded.money == report.amount,
        "converted_amount": recorded.converted_amount == converted,
        "payment_date": recorded.payment_date == report.payment_date,
    }
    text = f"differs from the payment {report.payment_id} that was recorded before"
    return [FieldViolation(field, text, "payment.same") for field, is_same in same.items() if not is_same]


async def settle(tx: WriteSession, invoice: InvoiceRow) -> None:
    """Store a changed invoice, in the state that follows from what is open; publish InvoicePaidInFull if it is paid."""
    before = invoice.state
    invoice.state = domain.invoices.settled_state(before, invoice.open, invoice.paid)
    await store.invoices.save(tx, invoice)
    if invoice.state is InvoiceState.PAID and before is not InvoiceState.PAID:
        outbox.append(tx, events.published.invoice_paid_in_full(invoice))


async def report_lost_payment(tx: WriteSession, invoice_id: UUID, payment_id: str) -> None:
    """Show on the invoice that a payment was not recorded. Redriving its event records it later.

    Raises InvoiceNotFound.
    """
    invoice = await store.invoices.lock(tx, invoice_id)
    recorded = await store.invoice_payments.find(tx, payment_id)
    if recorded is None and payment_id not in invoice.unrecorded_payment_ids:
        invoice.unrecorded_payment_ids = [*invoice.unrecorded_payment_ids, payment_id]
        await store.invoices.save(tx, invoice)
