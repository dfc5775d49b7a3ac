"""Test driver for consolidated invoices."""

from typing import Any

from billing.entities.v1 import invoice_service_pb2 as pb
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.invoice_pb2 import Invoice, InvoiceLine, InvoiceLineItem

from tests.harness.callers import Caller
from tests.harness.services import Entities


class InvoiceApi:
    """Calls InvoiceService on behalf of a caller."""

    def __init__(self, caller: Caller, stubs: Entities) -> None:
        self.caller = caller
        self.stub = stubs.invoices

    async def create(self, entity: Entity, start: str, end: str, **fields: Any) -> Invoice:
        request = pb.CreateConsolidatedInvoiceRequest(
            id=entity.id, period_start_date=start, period_end_date=end, **fields
        )
        return await self.caller.call(self.stub.CreateConsolidatedInvoice, request)

    async def get(self, invoice: Invoice) -> Invoice:
        return await self.caller.call(self.stub.GetInvoice, pb.GetInvoiceRequest(id=invoice.id))

    async def list_page(self, **filters: Any) -> pb.ListInvoicesResponse:
        return await self.caller.call(self.stub.ListInvoices, pb.ListInvoicesRequest(**filters))

    async def numbers(self, **filters: Any) -> list[str]:
        """The numbers of all invoices that match."""
        return [invoice.number for invoice in (await self.list_page(page_size=1000, **filters)).invoices]

    async def lines(self, invoice: Invoice, **fields: Any) -> list[InvoiceLine]:
        """All lines, page by page."""
        lines, token = list[InvoiceLine](), ""
        while True:
            request = pb.ListInvoiceLinesRequest(id=invoice.id, page_token=token, **fields)
            page = await self.caller.call(self.stub.ListInvoiceLines, request)
            lines += page.lines
            token = page.next_page_token
            if not token:
                return lines

    async def items(self, invoice: Invoice, line: InvoiceLine, **fields: Any) -> list[InvoiceLineItem]:
        """All items of a line, page by page."""
        items, token = list[InvoiceLineItem](), ""
        while True:
            request = pb.ListInvoiceLineItemsRequest(id=invoice.id, line_id=line.id, page_token=token, **fields)
            page = await self.caller.call(self.stub.ListInvoiceLineItems, request)
            items += page.items
            token = page.next_page_token
            if not token:
                return items

    async def refresh(self, invoice: Invoice, **fields: Any) -> Invoice:
        return await self.caller.call(self.stub.RefreshInvoice, pb.RefreshInvoiceRequest(id=invoice.id, **fields))

    async def issue(self, invoice: Invoice, **fields: Any) -> Invoice:
        return await self.caller.call(self.stub.IssueInvoice, pb.IssueInvoiceRequest(id=invoice.id, **fields))

    async def void(self, invoice: Invoice, **fields: Any) -> Invoice:
        request = pb.VoidInvoiceRequest(**{"id": invoice.id, "reason": "Wrong period", **fields})
        return await self.caller.call(self.stub.VoidInvoice, request)


def amounts(invoice: Invoice) -> list[str]:
    """The net amounts of the lines."""
    return [line.amount.amount for line in invoice.lines]


def totals(invoice: Invoice) -> tuple[str, str, str]:
    """Net, tax and total."""
    return invoice.net.amount, invoice.tax.amount, invoice.total.amount
