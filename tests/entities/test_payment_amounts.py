"""What payments settle of an invoice: any order and parts, overpayments, other currencies."""

from datetime import date
from decimal import Decimal
from uuid import UUID

import pytest

from kit.money import Money
from kit.rates import RateMissing
from services.entities import domain
from services.entities.domain.invoice_payments import AppliedPayment, PaymentReport
from services.entities.domain.invoices import InvoiceState
from services.entities.domain.rates import Derivation, DerivedRate

DAY = date(2026, 6, 15)
ZERO = Decimal(0)


def report(amount: str, currency: str = "EUR", converted: Money | None = None) -> PaymentReport:
    return PaymentReport(
        payment_id="pay-1",
        invoice_id=UUID(int=1),
        amount=Money(Decimal(amount), currency),
        converted=converted,
        payment_date=DAY,
        reference="",
    )


def rate_of(rate: str, day: date = DAY) -> DerivedRate:
    return DerivedRate(Derivation.DIRECT, Decimal(rate), day)


class TestSettlement:
    @pytest.mark.parametrize(
        ("due", "offset", "paid", "open_amount", "overpaid"),
        [
            ("100", "0", "0", "100", "0"),
            ("100", "0", "40", "60", "0"),
            ("100", "0", "100", "0", "0"),
            ("100", "0", "130", "0", "30"),
            ("100", "30", "0", "70", "0"),
            ("100", "30", "70", "0", "0"),
            ("100", "30", "100", "0", "30"),
            ("100", "100", "0", "0", "0"),
            ("0", "0", "50", "0", "50"),
            ("-20", "0", "5", "0", "5"),
        ],
    )
    def test_open_and_overpaid_are_never_below_zero(
        self, due: str, offset: str, paid: str, open_amount: str, overpaid: str
    ) -> None:
        amounts = Decimal(due), Decimal(offset), Decimal(paid)
        assert domain.invoices.open_amount(*amounts) == Decimal(open_amount)
        assert domain.invoices.overpaid_amount(*amounts) == Decimal(overpaid)

    @pytest.mark.parametrize(
        ("state", "open_amount", "paid", "expected"),
        [
            (InvoiceState.ISSUED, "100", "0", InvoiceState.ISSUED),
            (InvoiceState.ISSUED, "60", "40", InvoiceState.PARTIALLY_PAID),
            (InvoiceState.PARTIALLY_PAID, "0", "100", InvoiceState.PAID),
            (InvoiceState.ISSUED, "0", "0", InvoiceState.PAID),
            (InvoiceState.DRAFT, "0", "50", InvoiceState.DRAFT),
            (InvoiceState.VOID, "0", "50", InvoiceState.VOID),
        ],
    )
    def test_the_state_follows_from_what_is_open_and_paid(
        self, state: InvoiceState, open_amount: str, paid: str, expected: InvoiceState
    ) -> None:
        assert domain.invoices.settled_state(state, Decimal(open_amount), Decimal(paid)) is expected


class TestCurrencies:
    def test_a_payment_in_the_currency_of_the_invoice_settles_its_amount(self) -> None:
        applied = domain.invoice_payments.apply_payment(report("40.00"), "EUR", rate=None, issue_rate=None)
        assert applied == AppliedPayment(Decimal("40.00"), None, None, ZERO)

    def test_another_currency_is_converted_at_the_rate_of_the_day_of_the_payment(self) -> None:
        applied = domain.invoice_payments.apply_payment(
            report("110.00", "USD"), "EUR", rate=rate_of("0.90"), issue_rate=rate_of("0.92", date(2026, 6, 1))
        )
        assert applied == AppliedPayment(Decimal("99.00"), Decimal("0.90"), DAY, Decimal("-2.20"))

    def test_the_converted_amount_of_the_billing_system_takes_precedence(self) -> None:
        applied = domain.invoice_payments.apply_payment(
            report("110.00", "USD", Money(Decimal("101.50"), "EUR")), "EUR", rate=None, issue_rate=rate_of("0.92")
        )
        assert applied == AppliedPayment(Decimal("101.50"), None, None, Decimal("0.30"))

    def test_without_a_rate_of_the_issue_date_there_is_no_exchange_difference(self) -> None:
        applied = domain.invoice_payments.apply_payment(
            report("110.00", "USD"), "EUR", rate=rate_of("0.90"), issue_rate=None
        )
        assert applied.exchange_difference == ZERO

    def test_without_any_rate_the_pair_and_the_day_are_named(self) -> None:
        with pytest.raises(RateMissing) as refusal:
            domain.invoice_payments.apply_payment(report("110.00", "USD"), "EUR", rate=None, issue_rate=None)
        assert refusal.value.metadata["rate_date"] == "2026-06-15"

    @pytest.mark.parametrize(
        ("payment", "field"),
        [
            (report("110.00", "USD", Money(Decimal("1.00"), "GBP")), "converted_amount.currency_code"),
            (report("110.00", "EUR", Money(Decimal("109.00"), "EUR")), "converted_amount.amount"),
        ],
    )
    def test_a_converted_amount_that_contradicts_the_invoice_is_a_violation(
        self, payment: PaymentReport, field: str
    ) -> None:
        violations = domain.invoice_payments.report_violations(payment, "EUR")
        assert [violation.field for violation in violations] == [field]
