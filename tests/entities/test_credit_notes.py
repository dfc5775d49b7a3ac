"""Credit notes: amounts, numbers, split, holds of disputes, refunds."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import TypeAlias

import asyncpg
import pytest
from billing.entities.v1.credit_note_pb2 import CreditNote
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.events_pb2 import (
    CreditNoteIssued,
    InvoicePaidInFull,
)
from billing.entities.v1.invoice_pb2 import Invoice
from grpc import StatusCode, aio

from kit import ids
from kit.money import Money
from kit.origin import Origin
from services.entities import service
from services.entities.domain.billing_documents import DocumentType
from tests.entities.allocation_api import AllocationApi
from tests.entities.credit_note_api import (
    CreditNoteApi,
    DisputeApi,
    IssuedInvoices,
    money,
    paid,
)
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Caller, refusal
from tests.harness.events import Replica
from tests.harness.observe import AuditRow, PublishedEvents
from tests.harness.services import Entities, Served

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


def split(note: CreditNote) -> tuple[str, str, str]:
    """Offset, refund and credit."""
    return note.offset.amount, note.refund.amount, note.credit.amount


class TestAmounts:
    async def test_credit_notes_of_single_lines_end_exactly_at_the_invoice(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi
    ) -> None:
        invoice = await issued.invoice("68.33", "68.33", "57.50", "85.00", tax_rate_bp=2000)
        assert (invoice.net.amount, invoice.tax.amount, invoice.total.amount) == ("279.16", "55.83", "334.99")
        notes = [
            await credit_notes.create(invoice, {number: invoice.lines[number - 1].amount.amount})
            for number in (1, 3, 4, 2)
        ]
        assert [note.total.amount for note in notes] == ["82.00", "69.00", "102.00", "81.99"]
        assert sum(Decimal(note.tax.amount) for note in notes) == Decimal("55.83")
        current = await issued.invoices.get(invoice)
        assert (current.open.amount, current.state) == ("0.00", Invoice.PAID)
        refused = await refusal(credit_notes.create(invoice, {1: "0.01"}))
        assert (refused.reason, refused.metadata["line_number"], refused.metadata["remaining"]) == (
            "CREDIT_EXCEEDS_LINE", "1", "0.00",
        )  # fmt: skip
        refused = await refusal(credit_notes.create(invoice))
        assert refused.reason == "INVOICE_FULLY_CREDITED"

    async def test_a_credit_note_has_the_lines_and_parties_of_its_invoice(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi
    ) -> None:
        invoice = await issued.invoice("10.00", "20.00", "30.00", tax_rate_bp=1900)
        note = await credit_notes.create(invoice, {3: "30.00", 1: "4.00"})
        assert (note.invoice_id, note.invoice_number, note.entity_id) == (invoice.id, invoice.number, invoice.entity_id)
        assert (note.issuer, note.recipient) == (invoice.issuer, invoice.recipient)
        assert [(line.line_number, line.department_name, line.amount.amount) for line in note.lines] == [
            (1, "D001", "4.00"), (3, "D003", "30.00"),
        ]  # fmt: skip
        assert await credit_notes.lines(note, page_size=1) == list(note.lines)
        assert await credit_notes.get(note) == note
        lines = (await issued.invoices.get(invoice)).lines
        assert [line.credited.amount for line in lines] == ["4.00", "0.00", "30.00"]

    async def test_a_rounding_line_can_be_credited(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi, api: EntitiesApi
    ) -> None:
        await api.set_rates("2026-10-01 USD/EUR 0.9123")
        invoice = await issued.invoice("10.01 USD", "10.01 USD", "10.01 USD", tax_rate_bp=1900, currency_code="EUR")
        assert invoice.total.amount == "32.61"
        totals = [
            (await credit_notes.create(invoice, {number: amount})).total.amount
            for number, amount in ((4, "0.01"), (1, "9.13"), (2, "9.13"), (3, "9.13"))
        ]
        assert totals == ["0.01", "10.87", "10.86", "10.87"]

    async def test_the_tax_in_the_issuers_currency_ends_exactly_at_the_invoice(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi, api: EntitiesApi
    ) -> None:
        await api.set_rates("2026-10-01 USD/EUR 0.9123")
        invoice = await issued.invoice("33.33", "33.33", "33.34", tax_rate_bp=1900, currency_code="USD")
        notes = [
            await credit_notes.create(invoice, {line.number: f"{line.amount.amount} USD"}) for line in invoice.lines
        ]
        assert all(note.issuer_tax.currency_code == "EUR" for note in notes)
        assert sum(Decimal(note.issuer_tax.amount) for note in notes) == Decimal(invoice.issuer_tax.amount)

    async def test_twenty_concurrent_credits_never_exceed_the_line(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi
    ) -> None:
        invoice = await issued.invoice("100.00", tax_rate_bp=1900)
        outcomes = await asyncio.gather(
            *(credit_notes.create(invoice, {1: "15.00"}) for _ in range(20)), return_exceptions=True
        )
        notes = [outcome for outcome in outcomes if isinstance(outcome, CreditNote)]
        assert len(notes) == 6
        assert all(isinstance(outcome, CreditNote | aio.AioRpcError) for outcome in outcomes)
        assert sorted(int(note.number.rpartition("-")[2]) for note in notes) == [1, 2, 3, 4, 5, 6]
        (line,) = (await issued.invoices.get(invoice)).lines
        assert line.credited.amount == "90.00"

    async def test_a_repeated_key_credits_once(self, issued: IssuedInvoices, credit_notes: CreditNoteApi) -> None:
        invoice = await issued.invoice("100.00")
        notes = [await credit_notes.create(invoice, {1: "60.00"}, request_id="key-1") for _ in range(2)]
        assert notes[0] == notes[1]
        assert (await issued.invoices.get(invoice)).lines[0].credited.amount == "60.00"

    async def test_a_preview_stores_nothing(self, issued: IssuedInvoices, credit_notes: CreditNoteApi) -> None:
        invoice = await issued.invoice("100.00", tax_rate_bp=1900)
        preview = await credit_notes.create(invoice, {1: "60.00"}, validate_only=True)
        assert (preview.id, preview.number, preview.total.amount) == ("", "", "71.40")
        assert await credit_notes.numbers() == []
        note = await credit_notes.create(invoice, {1: "100.00"})
        assert note.number.endswith("-000001")


class TestBadInput:
    async def test_only_issued_invoices_can_be_credited(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi
    ) -> None:
        draft = await issued.draft("10.00")
        refused = await refusal(credit_notes.create(draft))
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "INVOICE_STATE")
        assert refused.metadata["allowed"] == "ISSUED, PARTIALLY_PAID, PAID"

    async def test_lines_and_full_exclude_each_other(self, issued: IssuedInvoices, credit_notes: CreditNoteApi) -> None:
        invoice = await issued.invoice("10.00")
        for fields in ({"full": True, "amounts": {1: "1.00"}}, {"full": False}):
            refused = await refusal(credit_notes.create(invoice, **fields))
            assert list(refused.fields) == ["lines"]

    async def test_lines_of_other_invoices_other_currencies_and_repeated_lines_are_named(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi
    ) -> None:
        invoice, other = await issued.invoice("10.00"), await issued.invoice("10.00", code="OTHER")
        assert list((await refusal(credit_notes.create(other, {1: "1.00 USD"}, refund="1.00 USD"))).fields) == [
            "lines[0].amount.currency_code", "refund.currency_code",
        ]  # fmt: skip
        mixed = Invoice(id=invoice.id, lines=[invoice.lines[0], other.lines[0]])
        assert list((await refusal(credit_notes.create(mixed, {1: "1.00", 2: "1.00"}))).fields) == ["lines[1].line_id"]
        twice = Invoice(id=invoice.id, lines=[invoice.lines[0], invoice.lines[0]])
        assert list((await refusal(credit_notes.create(twice, {1: "1.00", 2: "1.00"}))).fields) == ["lines[1].line_id"]
        assert list((await refusal(credit_notes.create(invoice, {1: "-1.00"}))).fields) == ["lines[0].amount"]


class TestLinesBelowZero:
    async def test_credit_notes_stay_between_zero_and_the_invoice(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi, costs: AllocationApi, api: EntitiesApi
    ) -> None:
        draft = await issued.draft("100.00")
        unit = await api.create_department(draft.entity_id, "OPS")
        spent = await costs.allocate(unit, "80.00 EUR", allocation_date="2026-09-05")
        september = await issued.invoices.create(Entity(id=draft.entity_id), "2026-09-01", "2026-10-01")
        await issued.invoices.issue(september)
        await costs.reverse(spent, allocation_date="2026-10-06")
        await issued.invoices.refresh(await issued.invoices.get(draft))
        await issued.invoices.issue(await issued.invoices.get(draft))
        invoice = await issued.invoices.get(draft)
        assert [line.amount.amount for line in invoice.lines] == ["100.00", "-80.00"]
        refused = await refusal(credit_notes.create(invoice, {1: "20.01"}))
        assert (refused.reason, refused.metadata["remaining"]) == ("CREDIT_EXCEEDS_INVOICE", "20.00")
        assert (await refusal(credit_notes.create(invoice, {2: "-1.00"}))).reason == "CREDIT_BELOW_ZERO"
        await credit_notes.create(invoice, {1: "20.00"})
        rest = await credit_notes.create(invoice)
        assert ([line.amount.amount for line in rest.lines], rest.total.amount) == (["80.00", "-80.00"], "0.00")


class TestSplit:
    async def test_what_is_open_is_offset_first_and_the_rest_is_credited(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi, replica: Replica
    ) -> None:
        invoice = await issued.invoice("60.00", "40.00")
        await replica.handle(paid(invoice, "70.00"))
        assert split(await credit_notes.create(invoice, {2: "40.00"})) == ("30.00", "0.00", "10.00")
        current = await issued.invoices.get(invoice)
        assert (current.offset.amount, current.credited_balance.amount, current.open.amount, current.state) == (
            "30.00", "10.00", "0.00", Invoice.PAID,
        )  # fmt: skip
        assert current.refundable.amount == "60.00"

    async def test_parts_above_what_is_open_or_was_paid_are_refused(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi, replica: Replica
    ) -> None:
        invoice = await issued.invoice("100.00")
        await replica.handle(paid(invoice, "70.00"))
        for parts, reason, remaining in (
            ({"offset": "30.01"}, "OFFSET_EXCEEDS_OPEN", "30.00"),
            ({"refund": "70.01", "offset": "29.99", "credit": "0.00"}, "REFUND_EXCEEDS_PAID", "70.00"),
        ):
            refused = await refusal(credit_notes.create(invoice, **parts))  # type: ignore[arg-type]
            assert (refused.reason, refused.metadata["remaining"]) == (reason, remaining)
        refused = await refusal(credit_notes.create(invoice, offset="10.00", refund="10.00", credit="10.00"))
        assert list(refused.fields) == ["split"]
        assert split(await credit_notes.create(invoice, refund="70.00")) == ("30.00", "70.00", "0.00")


class TestDocuments:
    async def test_a_document_has_the_credited_amounts_and_names_the_invoice(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi, api: EntitiesApi, entities_served: Served[Entities],
        origin: Origin,
    ) -> None:  # fmt: skip
        await api.set_rates("2026-10-01 USD/EUR 0.9123")
        invoice = await issued.invoice("10.00", "20.00", "30.00", tax_rate_bp=1900, currency_code="USD")
        note = await credit_notes.create(invoice, {3: "5.00 USD", 1: "4.00 USD"}, reason="Outage")
        async with entities_served.service.db.read(origin) as tx:
            document = await service.credit_notes.build_document(tx, ids.CREDIT_NOTE.parse(note.id))
        assert (document.type, document.number, document.note) == (DocumentType.CREDIT_NOTE, note.number, "Outage")
        assert (document.credited_number, str(document.credited_issue_date)) == (invoice.number, invoice.issue_date)
        assert [(each.number, each.department_name, str(each.amount.normalize())) for each in document.lines] == [
            (1, "D001", "4"), (2, "D003", "5"),
        ]  # fmt: skip
        assert document.total == Decimal(note.total.amount)
        assert document.issuer_tax == Money(Decimal(note.issuer_tax.amount), "EUR")
        assert {(rate.source, rate.target) for rate in document.rates} == {("USD", "EUR")}
        assert document.issuer.legal_name == invoice.issuer.legal_name


class TestRecords:
    async def test_issue_publishes_the_credit_note_and_the_paid_invoice(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi, published_events: PublishedEvents
    ) -> None:
        invoice = await issued.invoice("100.00", tax_rate_bp=1900)
        note = await credit_notes.create(invoice)
        event = await published_events.first(CreditNoteIssued)
        assert (event.credit_note_id, event.number, event.total, event.open) == (
            note.id, note.number, note.total, money("0.00"),
        )  # fmt: skip
        assert [(line.line_id, line.amount.amount) for line in event.lines] == [(invoice.lines[0].id, "100.00")]
        event_of_invoice = await published_events.first(InvoicePaidInFull)
        assert (event_of_invoice.number, event_of_invoice.offset.amount) == (invoice.number, "119.00")

    async def test_credit_notes_and_refunds_are_audited(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi, replica: Replica,
        audit_rows: Callable[..., Awaitable[list[AuditRow]]],
    ) -> None:  # fmt: skip
        invoice = await issued.invoice("100.00")
        await replica.handle(paid(invoice, "100.00"))
        note = await credit_notes.create(invoice, refund="100.00")
        rows = await audit_rows("entities")
        tables = [
            row.table for row in rows if row.id == ids.CREDIT_NOTE.parse(note.id) or row.table.endswith("refunds")
        ]
        assert sorted(tables) == ["credit_note_refunds", "credit_notes"]

    async def test_the_database_refuses_changes_of_credit_notes_holds_and_payments(
        self,
        issued: IssuedInvoices,
        credit_notes: CreditNoteApi,
        disputes: DisputeApi,
        replica: Replica,
        admin: Admin,
    ) -> None:
        invoice = await issued.invoice("100.00")
        await replica.handle(paid(invoice, "10.00"))
        await disputes.hold(invoice, {1: "10.00"})
        note = await credit_notes.create(invoice, {1: "10.00"})
        for statement in (
            "update entities.credit_notes set total = total + 1, net = net + 1, credit_amount = credit_amount + 1",
            "delete from entities.credit_notes",
            "update entities.credit_note_lines set amount = amount + 1",
            "delete from entities.credit_note_lines",
            "update entities.line_holds set amount = amount + 1",
            "delete from entities.invoice_payments",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await admin.execute(statement)
        assert await credit_notes.get(note) == note

    async def test_credit_notes_are_listed_by_invoice_entity_day_and_text(
        self, issued: IssuedInvoices, credit_notes: CreditNoteApi
    ) -> None:
        first, second = await issued.invoice("100.00"), await issued.invoice("50.00", code="OTHER")
        one = await credit_notes.create(first, {1: "10.00"}, reason="Outage in October")
        two = await credit_notes.create(second, {1: "10.00"})
        assert await credit_notes.numbers() == [two.number, one.number]
        assert await credit_notes.numbers(invoice_id=first.id) == [one.number]
        assert await credit_notes.numbers(entity_id=second.entity_id) == [two.number]
        assert await credit_notes.numbers(q="outage") == [one.number]
        assert await credit_notes.numbers(q="other se") == [two.number]
        assert await credit_notes.numbers(start_date=one.issue_date) == [two.number, one.number]
        assert await credit_notes.numbers(end_date=one.issue_date) == []

    async def test_a_confined_caller_sees_the_credit_notes_of_its_entities_only(
        self, entities: Entities, issued: IssuedInvoices, credit_notes: CreditNoteApi, caller: Callable[..., Caller]
    ) -> None:
        first, second = await issued.invoice("100.00"), await issued.invoice("50.00", code="OTHER")
        one = await credit_notes.create(first, {1: "10.00"})
        two = await credit_notes.create(second, {1: "10.00"})
        confined = CreditNoteApi(caller("finance", entity_scope=[first.entity_id]), entities)
        assert await confined.numbers() == [one.number]
        assert (await refusal(confined.get(two))).reason == "CREDIT_NOTE_NOT_FOUND"
        assert (await refusal(confined.create(second))).reason == "INVOICE_NOT_FOUND"
        assert (await refusal(confined.payments(second))).reason == "INVOICE_NOT_FOUND"
