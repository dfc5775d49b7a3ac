"""Payments of invoices, as the platform's billing system reports them, and their conversion.

Payments count in whatever order they arrive. Payments of an invoice that is not issued, or that is void, are stored
and shown as overpaid.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Final
from uuid import UUID

from kit.money import Money
from services.entities import domain
from services.entities.domain.field_violations import FieldViolation
from services.entities.domain.rates import DerivedRate

ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentReport:
    """A payment as the billing system reports it."""

    payment_id: str
    """Identifies the payment in the billing system; unique within the tenant."""
    invoice_id: UUID
    amount: Money
    """Above zero, in the currency in which it was paid."""
    converted: Money | None
    """The amount in the currency of the invoice, if the billing system converted it."""
    payment_date: date
    reference: str
    """What the payer or the bank stated; may be empty."""


@dataclass(frozen=True, slots=True)
class AppliedPayment:
    """What a payment settles of its invoice, in the currency of the invoice."""

    amount: Decimal
    rate: Decimal | None
    """The rate of ours that the amount was converted at; None if it was not."""
    rate_date: date | None
    exchange_difference: Decimal
    """The amount minus what the payment was worth on the issue date of the invoice; zero if that is not known."""


def apply_payment(
    report: PaymentReport, currency: str, *, rate: DerivedRate | None, issue_rate: DerivedRate | None
) -> AppliedPayment:
    """Return what a payment settles of an invoice in `currency`.

    The report has no violations. `rate` and `issue_rate` are the rates between its currency and that of the invoice on
    the day of the payment and on the issue date. The amount that the billing system states is used if there is one,
    else `rate`. Raises RateMissing, AmountTooLarge.
    """
    if report.amount.currency == currency:
        return AppliedPayment(report.amount.amount, None, None, ZERO)
    if report.converted:
        amount, used_rate, rate_date = report.converted.amount, None, None
    else:
        ours = domain.allocations.convert(report.amount, currency, report.payment_date, rate)
        amount, used_rate, rate_date = ours.amount.amount, ours.rate, ours.rate_date
    at_issue = report.amount.at_rate(issue_rate.rate, currency).amount if issue_rate else amount
    return AppliedPayment(amount, used_rate, rate_date, amount - at_issue)


def report_violations(report: PaymentReport, currency: str) -> Iterator[FieldViolation]:
    """Yield the violations of a payment of an invoice in `currency`."""
    if report.converted is None:
        return
    if report.converted.currency != currency:
        text = f"must be {currency}, the currency of the invoice"
        yield FieldViolation("converted_amount.currency_code", text, "currency.of_invoice")
    elif report.amount.currency == currency and report.converted != report.amount:
        text = f"must be {report.amount} like the amount, which is in the currency of the invoice"
        yield FieldViolation("converted_amount.amount", text, "converted_amount.same_currency")
