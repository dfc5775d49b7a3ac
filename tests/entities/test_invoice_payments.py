"""Payments of invoices, as the billing system reports them."""

from itertools import permutations
from typing import Any
from uuid import UUID

import pytest
from billing.entities.v1.events_pb2 import InvoicePaidInFull, InvoicePaymentRecorded
from billing.entities.v1.invoice_pb2 import Invoice
from billing.operations.v1.operations_service_pb2 import RedriveDeadLetterRequest
from nats.aio.client import Client

from deploy.simulators.publishing import publish
from eventing.consumer import Consumer
from kit.errors import InvalidFields
from kit.rates import RateMissing
from services.entities.errors.invoices import InvoiceNotFound
from tests.entities.credit_note_api import CreditNoteApi, IssuedInvoices, paid
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Caller
from tests.harness.events import Replica
from tests.harness.observe import PublishedEvents, eventually
from tests.harness.services import Entities


def settled(invoice: Invoice) -> tuple[int, str, str, str]:
    """State, paid, open and overpaid."""
    return invoice.state, invoice.paid.amount, invoice.open.amount, invoice.overpaid.amount


class TestPayments:
    async def test_parts_of_the_total_pay_the_invoice_each_once(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi, replica: Replica, published_events: PublishedEvents
    ) -> None:
        invoice = await issued.invoice("100.00")
        await replica.handle(paid(invoice, "40.00", "pay-1"))
        assert settled(await issued.invoices.get(invoice)) == (Invoice.PARTIALLY_PAID, "40.00", "60.00", "0.00")
        await replica.handle(paid(invoice, "40.00", "pay-1"))  # another event of the same payment
        await replica.handle(paid(invoice, "60.00", "pay-2", reference="INV"))
        assert settled(await issued.invoices.get(invoice)) == (Invoice.PAID, "100.00", "0.00", "0.00")
        assert [each.payment_id for each in await credit_notes.payments(invoice)] == ["pay-1", "pay-2"]
        events = await published_events.at_least(2, InvoicePaymentRecorded)
        assert {(each.payment_id, each.open.amount) for each in events} == {("pay-1", "60.00"), ("pay-2", "0.00")}
        assert (await published_events.first(InvoicePaidInFull)).paid.amount == "100.00"
        assert len(published_events.of(InvoicePaidInFull)) == 1

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    async def test_the_order_of_payments_does_not_matter(
        self, issued: IssuedInvoices, replica: Replica, order: tuple[int, ...]
    ) -> None:
        invoice = await issued.invoice("100.00")
        payments = [paid(invoice, amount, f"pay-{amount}") for amount in ("10.00", "60.00", "55.00")]
        for number in order:
            await replica.handle(payments[number])
        assert settled(await issued.invoices.get(invoice)) == (Invoice.PAID, "125.00", "0.00", "25.00")

    async def test_a_payment_before_the_issue_counts_when_the_invoice_is_issued(
        self, issued: IssuedInvoices, replica: Replica
    ) -> None:
        draft = await issued.draft("100.00")
        await replica.handle(paid(draft, "100.00"))
        assert settled(await issued.invoices.get(draft)) == (Invoice.DRAFT, "100.00", "0.00", "100.00")
        await issued.invoices.refresh(draft)
        await issued.invoices.issue(draft)
        assert settled(await issued.invoices.get(draft)) == (Invoice.PAID, "100.00", "0.00", "0.00")

    async def test_a_payment_of_a_void_invoice_is_shown_as_overpaid(
        self, issued: IssuedInvoices, replica: Replica
    ) -> None:
        invoice = await issued.invoice("100.00")
        await issued.invoices.void(invoice)
        await replica.handle(paid(invoice, "100.00"))
        assert settled(await issued.invoices.get(invoice)) == (Invoice.VOID, "100.00", "0.00", "100.00")

    async def test_a_draft_that_was_paid_can_be_withdrawn(self, issued: IssuedInvoices, replica: Replica) -> None:
        draft = await issued.draft("100.00")
        await replica.handle(paid(draft, "100.00"))
        await issued.invoices.void(draft)
        assert settled(await issued.invoices.get(draft)) == (Invoice.VOID, "100.00", "0.00", "100.00")

    async def test_a_payment_id_with_other_contents_is_refused(self, issued: IssuedInvoices, replica: Replica) -> None:
        invoice = await issued.invoice("100.00")
        await replica.handle(paid(invoice, "40.00"))
        with pytest.raises(InvalidFields) as refusal:
            await replica.handle(paid(invoice, "41.00", payment_date="2026-11-11"))
        assert [violation.field for violation in refusal.value.violations] == ["amount", "payment_date"]
        assert (await issued.invoices.get(invoice)).paid.amount == "40.00"

    @pytest.mark.parametrize("fields", [{"amount": "0.00"}, {"amount": "-1.00"}, {"amount": "1.001"}])
    async def test_invalid_amounts_are_refused(
        self, issued: IssuedInvoices, replica: Replica, fields: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidFields):
            await replica.handle(paid(await issued.invoice("100.00"), **fields))

    async def test_an_unknown_invoice_is_refused(self, replica: Replica) -> None:
        with pytest.raises(InvoiceNotFound):
            await replica.handle(paid(Invoice(id=f"inv_{0:032x}"), "1.00"))


class TestCurrencies:
    async def test_another_currency_is_converted_and_leaves_an_exchange_difference(
        self, api: EntitiesApi, issued: IssuedInvoices, credit_notes: CreditNoteApi, replica: Replica
    ) -> None:
        invoice = await issued.invoice("100.00")
        await api.set_rates(f"{invoice.issue_date} USD/EUR 0.92", "2026-11-10 USD/EUR 0.90")
        await replica.handle(paid(invoice, "50.00 USD", "pay-1"))
        await replica.handle(paid(invoice, "60.00 USD", "pay-2", converted_amount="55.00 EUR"))
        current = await issued.invoices.get(invoice)
        first, second = await credit_notes.payments(invoice)
        assert (first.amount.currency_code, first.applied_amount.amount, first.rate, first.rate_date) == (
            "USD", "45.00", "0.9", "2026-11-10",
        )  # fmt: skip
        assert (second.applied_amount.amount, second.rate) == ("55.00", "")
        assert current.paid.amount == "100.00"
        issue_rate = "0.92" if invoice.issue_date != "2026-11-10" else "0.90"
        assert (first.exchange_difference.amount, second.exchange_difference.amount) == {
            "0.92": ("-1.00", "-0.20"), "0.90": ("0.00", "1.00"),
        }[issue_rate]  # fmt: skip

    async def test_without_a_rate_the_payment_waits_and_the_invoice_shows_it(
        self,
        api: EntitiesApi,
        issued: IssuedInvoices,
        nats: Client,
        tenant: UUID,
        caller: Any,
        entities: Entities,
        admin: Any,
        replica: Replica,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        invoice = await issued.invoice("100.00")
        with pytest.raises(RateMissing):
            await replica.handle(paid(invoice, "50.00 USD"))
        monkeypatch.setattr(Consumer, "retry_delays_s", (0.01,))
        await publish(nats.jetstream(), paid(invoice, "50.00 USD"), tenant, "/platform/payments")

        async def unrecorded() -> list[str]:
            return list((await issued.invoices.get(invoice)).unrecorded_payment_ids)

        assert await eventually(unrecorded) == ["pay-1"]
        await api.set_rates("2026-11-10 USD/EUR 0.90")
        query = "select consumer, event_id from entities.dead_letters where tenant_id = $1"
        (letter,) = await admin.fetch(query, tenant)
        admin_caller: Caller = caller("billing_admin")
        request = RedriveDeadLetterRequest(consumer=letter["consumer"], event_id=str(letter["event_id"]))
        await admin_caller.call(entities.operations.RedriveDeadLetter, request)
        current = await issued.invoices.get(invoice)
        assert (current.paid.amount, list(current.unrecorded_payment_ids)) == ("45.00", [])
