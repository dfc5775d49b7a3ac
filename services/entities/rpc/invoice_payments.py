"""gRPC servicer of the payments of invoices."""

from billing.entities.v1 import invoice_payment_service_pb2 as pb

from kit import ids
from kit.db import Database
from kit.origin import Call
from services.entities import convert, store
from serving.pages import Pages


class InvoicePaymentServicer:
    """billing.entities.v1.InvoicePaymentService."""

    service = pb.DESCRIPTOR.services_by_name["InvoicePaymentService"]

    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def ListInvoicePayments(
        self, request: pb.ListInvoicePaymentsRequest, call: Call
    ) -> pb.ListInvoicePaymentsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            invoice = await store.invoices.get(tx, ids.INVOICE.parse(request.id))
            payments = await store.invoice_payments.list_page(tx, page, invoice.id)
        messages = [convert.invoice_payments.to_proto(row, invoice.currency_code) for row in payments.rows]
        return pb.ListInvoicePaymentsResponse(payments=messages, next_page_token=payments.next_page_token)
