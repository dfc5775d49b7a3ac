"""Holds of disputes on lines of invoices, and credit notes of what they hold."""

import asyncio
from typing import TypeAlias

import asyncpg
from billing.entities.v1.events_pb2 import (
    RefundRequested,
)
from grpc import StatusCode

from tests.entities.credit_note_api import (
    DISPUTE,
    OTHER_DISPUTE,
    CreditNoteApi,
    DisputeApi,
    IssuedInvoices,
    paid,
    refund_completed,
)
from tests.harness.callers import Caller, refusal
from tests.harness.events import Replica
from tests.harness.observe import PublishedEvents
from tests.harness.services import Entities

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


class TestDisputes:
    async def test_a_refund_and_a_dispute_never_give_back_more_than_was_paid(
        self,
        issued: IssuedInvoices,
        credit_notes: CreditNoteApi,
        disputes: DisputeApi,
        replica: Replica,
        published_events: PublishedEvents,
    ) -> None:
        invoice = await issued.invoice("100.00")
        await replica.handle(paid(invoice, "100.00"))
        await credit_notes.create(invoice, {1: "30.00"}, refund="30.00")
        refused = await refusal(disputes.hold(invoice, {1: "80.00"}))
        assert (refused.reason, refused.metadata["remaining"]) == ("HOLD_EXCEEDS_LINE", "70.00")
        holds = await disputes.hold(invoice, {1: "70.00"})
        assert (holds.held.amount, holds.refundable.amount) == ("70.00", "70.00")
        note = await disputes.credit(invoice, {1: "70.00"}, refund="70.00")
        for refund in [*(await credit_notes.get(note)).refunds]:
            await replica.handle(refund_completed(refund.id, "70.00"))
        current = await issued.invoices.get(invoice)
        assert (current.refunded.amount, current.refundable.amount, current.held.amount) == ("100.00", "0.00", "0.00")
        requests = await published_events.at_least(2, RefundRequested)
        assert {(each.amount.amount, each.dispute_id) for each in requests} == {("30.00", ""), ("70.00", DISPUTE)}

    async def test_what_a_dispute_holds_is_credited_by_it_only_and_not_collected(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi, disputes: DisputeApi
    ) -> None:
        invoice = await issued.invoice("100.00", "50.00", tax_rate_bp=1900)
        holds = await disputes.hold(invoice, {1: "70.00"})
        assert (holds.held.amount, holds.open.amount) == ("83.30", "178.50")
        assert [(each.line_id, each.amount.amount) for each in holds.lines] == [(invoice.lines[0].id, "70.00")]
        current = await issued.invoices.get(invoice)
        assert (current.held.amount, current.collectable.amount) == ("83.30", "95.20")
        refused = await refusal(credit_notes.create(invoice, {1: "30.01"}))
        assert (refused.metadata["remaining"], refused.metadata["held"]) == ("30.00", "70.00")
        assert (await refusal(credit_notes.create(invoice))).reason == "CREDIT_EXCEEDS_LINE"
        refused = await refusal(disputes.credit(invoice, {1: "1.00"}, OTHER_DISPUTE))
        assert refused.metadata["remaining"] == "0.00"
        assert (await refusal(issued.invoices.void(invoice))).reason == "INVOICE_SETTLED"
        note = await disputes.credit(invoice, {1: "20.00"})
        assert (note.dispute_id, note.total.amount) == (DISPUTE, "23.80")
        current = await issued.invoices.get(invoice)
        assert (current.lines[0].credited.amount, current.lines[0].held.amount, current.held.amount) == (
            "20.00", "50.00", "59.50",
        )  # fmt: skip

    async def test_releases_never_exceed_what_the_dispute_holds(
        self, issued: IssuedInvoices, disputes: DisputeApi
    ) -> None:
        invoice = await issued.invoice("100.00", "50.00")
        await disputes.hold(invoice, {1: "70.00", 2: "50.00"})
        await disputes.hold(invoice, {1: "30.00"}, OTHER_DISPUTE)
        refused = await refusal(disputes.release(invoice, {1: "70.01"}))
        assert (refused.reason, refused.metadata["held"]) == ("RELEASE_EXCEEDS_HOLD", "70.00")
        assert [each.amount.amount for each in (await disputes.release(invoice, {1: "10.00"})).lines] == [
            "60.00", "50.00",
        ]  # fmt: skip
        holds = await disputes.release(invoice)
        assert (list(holds.lines), holds.held.amount) == ([], "30.00")
        assert list((await disputes.release(invoice)).lines) == []

    async def test_repeated_keys_hold_and_credit_once(self, issued: IssuedInvoices, disputes: DisputeApi) -> None:
        invoice = await issued.invoice("100.00")
        for _ in range(2):
            holds = await disputes.hold(invoice, {1: "40.00"}, request_id="hold-1")
            assert holds.held.amount == "40.00"
        notes = [await disputes.credit(invoice, {1: "40.00"}, request_id="credit-1") for _ in range(2)]
        assert notes[0] == notes[1]

    async def test_twenty_disputes_at_once_never_hold_more_than_the_line(
        self, issued: IssuedInvoices, disputes: DisputeApi
    ) -> None:
        invoice = await issued.invoice("100.00")
        outcomes = await asyncio.gather(
            *(disputes.hold(invoice, {1: "15.00"}, f"dsp_{number:032x}") for number in range(20)),
            return_exceptions=True,
        )
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 6
        assert (await issued.invoices.get(invoice)).held.amount == "90.00"

    async def test_other_services_and_users_may_not_hold(
        self, entities: Entities, issued: IssuedInvoices, service_caller: Caller, finance: Caller
    ) -> None:
        invoice = await issued.invoice("100.00")
        for caller in (service_caller, finance):
            refused = await refusal(DisputeApi(caller, entities).hold(invoice, {1: "1.00"}))
            assert refused.code is StatusCode.PERMISSION_DENIED
