"""Test drivers for credit notes, holds of disputes and payments, and invoices to use them with."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from billing.entities.v1 import credit_note_service_pb2 as pb
from billing.entities.v1 import invoice_payment_service_pb2 as payments_pb
from billing.entities.v1 import line_hold_service_pb2 as holds_pb
from billing.entities.v1.credit_note_pb2 import CreditNote, CreditNoteLine
from billing.entities.v1.invoice_pb2 import Invoice
from billing.type.v1.money_pb2 import Money
from outside.payments.v1.payments_pb2 import InvoicePaid, RefundCompleted, RefundFailed

from tests.entities.allocation_api import AllocationApi
from tests.entities.billing_profile_api import BillingProfileApi
from tests.entities.entities_api import EntitiesApi
from tests.entities.invoice_api import InvoiceApi
from tests.harness.callers import Caller
from tests.harness.services import Entities

DISPUTE = f"dsp_{7:032x}"
OTHER_DISPUTE = f"dsp_{8:032x}"


def money(text: str) -> Money:
    """Parse "10.00 EUR", or "10.00" in EUR."""
    amount, _, currency = text.partition(" ")
    return Money(amount=amount, currency_code=currency or "EUR")


def line_amounts(invoice: Invoice, amounts: Mapping[int, str]) -> list[pb.CreditNoteLineAmount]:
    """Net amounts by the number of the line."""
    return [
        pb.CreditNoteLineAmount(line_id=invoice.lines[number - 1].id, amount=money(amount))
        for number, amount in amounts.items()
    ]


def parts(split: Mapping[str, str]) -> dict[str, Money]:
    """The requested parts of the total."""
    return {part: money(amount) for part, amount in split.items()}


class CreditNoteApi:
    """Calls CreditNoteService and InvoicePaymentService on behalf of a caller."""

    def __init__(self, caller: Caller, stubs: Entities) -> None:
        self.caller = caller
        self.stub = stubs.credit_notes
        self.payments_stub = stubs.invoice_payments

    async def create(
        self, invoice: Invoice, amounts: Mapping[int, str] | None = None, *, request_id: str = "", **fields: Any
    ) -> CreditNote:
        """Credit net amounts by the number of the line, or everything; `offset`, `refund` and `credit` are texts."""
        split = parts({part: fields.pop(part) for part in ("offset", "refund", "credit") if part in fields})
        request = pb.CreateCreditNoteRequest(
            **{
                "id": invoice.id,
                "lines": line_amounts(invoice, amounts or {}),
                "full": not amounts,
                "reason": "Billed to the wrong department",
                "request_id": request_id or uuid4().hex,
                **split,
                **fields,
            }
        )
        return await self.caller.call(self.stub.CreateCreditNote, request)

    async def get(self, note: CreditNote) -> CreditNote:
        return await self.caller.call(self.stub.GetCreditNote, pb.GetCreditNoteRequest(id=note.id))

    async def numbers(self, **filters: Any) -> list[str]:
        """The numbers of all credit notes that match, newest first."""
        request = pb.ListCreditNotesRequest(page_size=1000, **filters)
        response = await self.caller.call(self.stub.ListCreditNotes, request)
        return [note.number for note in response.credit_notes]

    async def lines(self, note: CreditNote, page_size: int = 2) -> list[CreditNoteLine]:
        """All lines, page by page."""
        lines, token = list[CreditNoteLine](), ""
        while True:
            request = pb.ListCreditNoteLinesRequest(id=note.id, page_size=page_size, page_token=token)
            page = await self.caller.call(self.stub.ListCreditNoteLines, request)
            lines += page.lines
            token = page.next_page_token
            if not token:
                return lines

    async def retry_refund(self, note: CreditNote) -> CreditNote:
        return await self.caller.call(self.stub.RetryRefund, pb.RetryRefundRequest(id=note.id, request_id=uuid4().hex))

    async def payments(self, invoice: Invoice) -> list[payments_pb.InvoicePayment]:
        request = payments_pb.ListInvoicePaymentsRequest(id=invoice.id)
        return list((await self.caller.call(self.payments_stub.ListInvoicePayments, request)).payments)


class DisputeApi:
    """Calls the RPCs for the disputes service."""

    def __init__(self, caller: Caller, stubs: Entities) -> None:
        self.caller = caller
        self.stub = stubs.line_holds
        self.credit_notes_stub = stubs.credit_notes

    async def hold(
        self, invoice: Invoice, amounts: Mapping[int, str], dispute: str = DISPUTE, *, request_id: str = ""
    ) -> holds_pb.LineHolds:
        request = holds_pb.HoldLinesRequest(
            invoice_id=invoice.id,
            dispute_id=dispute,
            lines=line_amounts(invoice, amounts),
            request_id=request_id or uuid4().hex,
        )
        return await self.caller.call(self.stub.HoldLines, request)

    async def release(
        self, invoice: Invoice, amounts: Mapping[int, str] | None = None, dispute: str = DISPUTE
    ) -> holds_pb.LineHolds:
        request = holds_pb.ReleaseLinesRequest(
            invoice_id=invoice.id,
            dispute_id=dispute,
            lines=line_amounts(invoice, amounts or {}),
            request_id=uuid4().hex,
        )
        return await self.caller.call(self.stub.ReleaseLines, request)

    async def credit(
        self,
        invoice: Invoice,
        amounts: Mapping[int, str],
        dispute: str = DISPUTE,
        *,
        request_id: str = "",
        **split: str,
    ) -> CreditNote:
        request = pb.CreateDisputeCreditNoteRequest(
            invoice_id=invoice.id,
            dispute_id=dispute,
            lines=line_amounts(invoice, amounts),
            reason="Dispute resolved",
            request_id=request_id or uuid4().hex,
            **parts(split),
        )
        return await self.caller.call(self.credit_notes_stub.CreateDisputeCreditNote, request)


class IssuedInvoices:
    """Issues invoices of an entity with one department for each line."""

    def __init__(
        self, api: EntitiesApi, costs: AllocationApi, profiles: BillingProfileApi, invoices: InvoiceApi
    ) -> None:
        self._api, self._costs, self._profiles, self.invoices = api, costs, profiles, invoices

    async def draft(self, *amounts: str, code: str = "ACME", tax_rate_bp: int = 0, **fields: Any) -> Invoice:
        """A draft with a line of each amount."""
        await self._profiles.create(
            f"Issuer of {code}",
            invoice_prefix=f"INV-{code}",
            statement_prefix=f"ST-{code}",
            credit_note_prefix=f"CN-{code}",
        )
        entity = await self._api.create_entity(code, tax_rate_bp=tax_rate_bp, payment_terms_days=14)
        for number, amount in enumerate(amounts, 1):
            department = await self._api.create_department(entity, f"D{number:03}")
            text = amount if " " in amount else f"{amount} EUR"
            await self._costs.allocate(department, text, allocation_date="2026-10-05")
        return await self.invoices.create(entity, "2026-10-01", "2026-11-01", **fields)

    async def invoice(self, *amounts: str, **fields: Any) -> Invoice:
        """An issued invoice with a line of each amount."""
        draft = await self.draft(*amounts, **fields)
        await self.invoices.issue(draft)
        return await self.invoices.get(draft)


def paid(invoice: Invoice, amount: str, payment_id: str = "pay-1", **fields: Any) -> InvoicePaid:
    """A payment of an invoice."""
    converted = fields.pop("converted_amount", "")
    event = InvoicePaid(
        **{
            "payment_id": payment_id,
            "invoice_id": invoice.id,
            "amount": money(amount),
            "payment_date": "2026-11-10",
            **fields,
        }
    )
    if converted:
        event.converted_amount.CopyFrom(money(converted))
    return event


def refund_completed(refund_id: str, amount: str) -> RefundCompleted:
    """A refund that was paid back."""
    return RefundCompleted(refund_id=refund_id, amount=money(amount), refund_date="2026-11-12", reference="tx-1")


def refund_failed(refund_id: str) -> RefundFailed:
    """A refund that was not paid back."""
    return RefundFailed(refund_id=refund_id, reason="The account is closed.")
