"""gRPC servicer of consolidated invoices."""

from billing.entities.v1 import invoice_service_pb2 as pb
from billing.entities.v1.invoice_pb2 import Invoice

from kit import ids
from kit.db import Database
from kit.origin import Call
from services.entities import convert, service, store
from services.entities.domain.billing_documents import LineKind
from serving.pages import Pages


class InvoiceServicer:
    """billing.entities.v1.InvoiceService."""

    service = pb.DESCRIPTOR.services_by_name["InvoiceService"]

    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def CreateConsolidatedInvoice(self, request: pb.CreateConsolidatedInvoiceRequest, call: Call) -> Invoice:
        entity_id, terms = ids.ENTITY.parse(request.id), convert.invoices.terms_from_proto(request)
        dry_run = request.validate_only
        async with self._db.write(call, dry_run=dry_run) as tx:
            details = await service.invoices.create(tx, entity_id, terms, dry_run=dry_run)
            return await tx.answer(convert.invoices.details_to_proto(details, dry_run=dry_run))

    async def ListInvoices(self, request: pb.ListInvoicesRequest, call: Call) -> pb.ListInvoicesResponse:
        page, filters = self._pages.read(request, call), convert.invoices.filter_from_proto(request)
        async with self._db.read(call) as tx:
            invoices = await store.invoices.list_page(tx, page, filters)
        messages = map(convert.invoices.to_proto, invoices.rows)
        return pb.ListInvoicesResponse(invoices=messages, next_page_token=invoices.next_page_token)

    async def GetInvoice(self, request: pb.GetInvoiceRequest, call: Call) -> Invoice:
        async with self._db.read(call) as tx:
            invoice = await store.invoices.get(tx, ids.INVOICE.parse(request.id))
            return convert.invoices.details_to_proto(await service.invoices.get_details(tx, invoice))

    async def ListInvoiceLines(self, request: pb.ListInvoiceLinesRequest, call: Call) -> pb.ListInvoiceLinesResponse:
        page, entity_id = self._pages.read(request, call), ids.ENTITY.parse_optional(request.entity_id, "entity_id")
        async with self._db.read(call) as tx:
            invoice = await store.invoices.get(tx, ids.INVOICE.parse(request.id))
            lines = await store.invoices.list_lines(tx, page, invoice.id, entity_id)
        messages = [convert.invoices.line_to_proto(line, invoice.currency_code) for line in lines.rows]
        return pb.ListInvoiceLinesResponse(lines=messages, next_page_token=lines.next_page_token)

    async def ListInvoiceLineItems(
        self, request: pb.ListInvoiceLineItemsRequest, call: Call
    ) -> pb.ListInvoiceLineItemsResponse:
        page, line_id = self._pages.read(request, call), ids.INVOICE_LINE.parse(request.line_id, "line_id")
        async with self._db.read(call) as tx:
            invoice = await store.invoices.get(tx, ids.INVOICE.parse(request.id))
            line = await store.invoices.get_line(tx, invoice.id, line_id)
            if line.kind is LineKind.CONTRACT_FEE:
                fees = await store.invoices.list_fees(tx, page, line)
                items, token = [convert.invoices.fee_to_item(row) for row in fees.rows], fees.next_page_token
            else:
                costs = await store.invoices.list_allocations(tx, page, line)
                items, token = [convert.invoices.allocation_to_item(row) for row in costs.rows], costs.next_page_token
        return pb.ListInvoiceLineItemsResponse(items=items, next_page_token=token)

    async def RefreshInvoice(self, request: pb.RefreshInvoiceRequest, call: Call) -> Invoice:
        async with self._db.write(call) as tx:
            details = await service.invoices.refresh(tx, ids.INVOICE.parse(request.id), etag=request.etag)
            return await tx.answer(convert.invoices.details_to_proto(details))

    async def IssueInvoice(self, request: pb.IssueInvoiceRequest, call: Call) -> Invoice:
        async with self._db.write(call) as tx:
            details = await service.invoices.issue(tx, ids.INVOICE.parse(request.id), etag=request.etag)
            return await tx.answer(convert.invoices.details_to_proto(details))

    async def VoidInvoice(self, request: pb.VoidInvoiceRequest, call: Call) -> Invoice:
        invoice_id = ids.INVOICE.parse(request.id)
        async with self._db.write(call) as tx:
            details = await service.invoices.void(tx, invoice_id, reason=request.reason, etag=request.etag)
            return await tx.answer(convert.invoices.details_to_proto(details))
