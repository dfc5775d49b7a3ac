"""Refunds of credit notes: replies of the payment system in any order, failures and repetitions."""

from typing import TypeAlias

import asyncpg
import pytest
from billing.entities.v1.credit_note_pb2 import CreditNote, Refund
from billing.entities.v1.events_pb2 import (
    CreditNoteRefunded,
    CreditNoteRefundFailed,
    RefundRequested,
)
from billing.entities.v1.invoice_pb2 import Invoice

from kit import ids
from kit.errors import InvalidFields
from kit.origin import Origin
from services.entities import service
from services.entities.errors.credit_notes import RefundExceedsPaid
from tests.entities.credit_note_api import (
    CreditNoteApi,
    IssuedInvoices,
    paid,
    refund_completed,
    refund_failed,
)
from tests.entities.invoice_api import InvoiceApi
from tests.harness.callers import refusal
from tests.harness.events import Replica
from tests.harness.observe import PublishedEvents
from tests.harness.services import Entities, Served

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


class TestRefunds:
    @pytest.fixture
    async def refunded(
        self,
        issued: IssuedInvoices,
        credit_notes: CreditNoteApi,
        replica: Replica,
        published_events: PublishedEvents,  # before the first event
    ) -> CreditNote:
        """A credit note with a requested refund of 100.00 of an invoice that was paid."""
        invoice = await issued.invoice("100.00")
        await replica.handle(paid(invoice, "100.00"))
        return await credit_notes.create(invoice, refund="100.00")

    async def test_a_completed_refund_with_another_amount_shows_the_difference(
        self, invoices: InvoiceApi, credit_notes: CreditNoteApi, replica: Replica, refunded: CreditNote,
        published_events: PublishedEvents,
    ) -> None:  # fmt: skip
        for _ in range(2):
            await replica.handle(refund_completed(refunded.refunds[0].id, "101.37"))
        (refund,) = (await credit_notes.get(refunded)).refunds
        assert (refund.state, refund.completed_amount.amount, refund.difference.amount) == (
            Refund.COMPLETED, "101.37", "1.37",
        )  # fmt: skip
        assert (refund.refund_date, refund.reference) == ("2026-11-12", "tx-1")
        invoice = await invoices.get(Invoice(id=refunded.invoice_id))
        assert invoice.refunded.amount == "100.00"
        event = await published_events.first(CreditNoteRefunded)
        assert (event.credit_note_id, event.completed_amount.amount) == (refunded.id, "101.37")

    async def test_a_failed_refund_does_not_count_and_can_be_requested_again(
        self, invoices: InvoiceApi, credit_notes: CreditNoteApi, replica: Replica, refunded: CreditNote,
        published_events: PublishedEvents,
    ) -> None:  # fmt: skip
        assert (await refusal(credit_notes.retry_refund(refunded))).reason == "REFUND_STATE"
        for _ in range(2):
            await replica.handle(refund_failed(refunded.refunds[0].id))
        (refund,) = (await credit_notes.get(refunded)).refunds
        assert (refund.state, refund.problem) == (Refund.FAILED, "The account is closed.")
        invoice = Invoice(id=refunded.invoice_id)
        assert (await invoices.get(invoice)).refunded.amount == "0.00"
        assert (await published_events.first(CreditNoteRefundFailed)).refund_id == refund.id
        again = await credit_notes.retry_refund(refunded)
        assert [each.state for each in again.refunds] == [Refund.FAILED, Refund.REQUESTED]
        assert (await invoices.get(invoice)).refunded.amount == "100.00"
        await replica.handle(refund_completed(again.refunds[1].id, "100.00"))
        await replica.handle(refund_failed(again.refunds[1].id))
        assert [each.state for each in (await credit_notes.get(refunded)).refunds] == [Refund.FAILED, Refund.COMPLETED]
        requests = await published_events.at_least(2, RefundRequested)
        assert {each.refund_id for each in requests} == {each.id for each in again.refunds}

    async def test_money_that_was_paid_back_counts_although_a_failure_was_reported_first(
        self, invoices: InvoiceApi, credit_notes: CreditNoteApi, replica: Replica, refunded: CreditNote
    ) -> None:
        await replica.handle(refund_failed(refunded.refunds[0].id))
        await replica.handle(refund_completed(refunded.refunds[0].id, "100.00"))
        assert (await credit_notes.get(refunded)).refunds[0].state == Refund.COMPLETED
        assert (await invoices.get(Invoice(id=refunded.invoice_id))).refunded.amount == "100.00"

    async def test_a_refund_that_was_paid_back_twice_is_shown(
        self, credit_notes: CreditNoteApi, replica: Replica, refunded: CreditNote, origin: Origin,
        entities_served: Served[Entities],
    ) -> None:  # fmt: skip
        first = refunded.refunds[0]
        await replica.handle(refund_failed(first.id))
        second = (await credit_notes.retry_refund(refunded)).refunds[1]
        await replica.handle(refund_completed(second.id, "100.00"))
        with pytest.raises(RefundExceedsPaid):
            await replica.handle(refund_completed(first.id, "100.00"))
        async with entities_served.service.db.write(origin) as tx:  # as for its dead letter
            await service.refunds.report_lost_reply(tx, ids.REFUND.parse(first.id))
        current = (await credit_notes.get(refunded)).refunds
        assert [each.state for each in current] == [Refund.FAILED, Refund.COMPLETED]
        assert "operators find it" in current[0].problem

    async def test_a_reply_that_does_not_fit_a_refund_is_refused(
        self, credit_notes: CreditNoteApi, replica: Replica, refunded: CreditNote
    ) -> None:
        for refund_id, amount, field in (
            (refunded.refunds[0].id, "100.00 USD", "amount.currency_code"),
            (f"rfd_{0:032x}", "100.00", "refund_id"),
        ):
            with pytest.raises(InvalidFields) as refused:
                await replica.handle(refund_completed(refund_id, amount))
            assert [violation.field for violation in refused.value.violations] == [field]
        assert (await credit_notes.get(refunded)).refunds[0].state == Refund.REQUESTED

    async def test_a_credit_note_without_a_refund_has_nothing_to_request_again(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi
    ) -> None:
        note = await credit_notes.create(await issued.invoice("100.00"))
        assert (await refusal(credit_notes.retry_refund(note))).reason == "CREDIT_NOTE_WITHOUT_REFUND"
