"""Conversion of payments of invoices, and of the events that report them."""

from billing.entities.v1 import invoice_payment_service_pb2 as pb
from outside.payments.v1.payments_pb2 import InvoicePaid

from contract.values import (
    date_text,
    decimal_text,
    money_from_proto,
    money_or_none,
    money_to_proto,
    required_date,
    time_to_proto,
)
from kit import ids
from kit.errors import InvalidFields, Violation
from kit.money import Money
from services.entities.domain.invoice_payments import PaymentReport
from services.entities.models.invoice_payments import InvoicePaymentRow


def to_proto(row: InvoicePaymentRow, currency: str) -> pb.InvoicePayment:
    """Convert a payment of an invoice in `currency`."""
    return pb.InvoicePayment(
        id=ids.INVOICE_PAYMENT.format(row.id),
        payment_id=row.payment_id,
        invoice_id=ids.INVOICE.format(row.invoice_id),
        amount=money_to_proto(row.money),
        applied_amount=money_to_proto(Money(row.applied_amount, currency)),
        rate=decimal_text(row.rate),
        rate_date=date_text(row.rate_date),
        exchange_difference=money_to_proto(Money(row.exchange_difference, currency)),
        payment_date=row.payment_date.isoformat(),
        reference=row.reference,
        create_time=time_to_proto(row.create_time),
    )


def report_from_proto(event: InvoicePaid) -> PaymentReport:
    """Convert a validated InvoicePaid event. Raises InvalidFields if an amount is not above zero."""
    amount, converted = money_from_proto(event.amount), money_or_none(event, "converted_amount")
    violations = [
        Violation(field, "must be above zero", "amount.positive")
        for field, value in (("amount", amount), ("converted_amount", converted))
        if value is not None and value.amount <= 0
    ]
    if violations:
        raise InvalidFields(violations)
    return PaymentReport(
        payment_id=event.payment_id,
        invoice_id=ids.INVOICE.parse(event.invoice_id, "invoice_id"),
        amount=amount,
        converted=converted,
        payment_date=required_date(event.payment_date),
        reference=event.reference,
    )
