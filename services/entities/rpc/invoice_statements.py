"""gRPC servicer of what was invoiced, what was paid, and what is still to be invoiced."""

from dataclasses import replace

from billing.entities.v1 import invoice_statement_service_pb2 as pb
from billing.entities.v1.statement_pb2 import EntityStatement, InvoiceVerification

from kit import ids
from kit.db import Database
from kit.origin import Call
from services.entities import convert, service
from serving.pages import Pages


class InvoiceStatementServicer:
    """billing.entities.v1.InvoiceStatementService."""

    service = pb.DESCRIPTOR.services_by_name["InvoiceStatementService"]

    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def ListUnbilled(self, request: pb.ListUnbilledRequest, call: Call) -> pb.ListUnbilledResponse:
        page = self._pages.read_ordered(request, call)
        query = convert.unbilled.query_from_proto(request, page.after, page.limit)
        async with self._db.read(call, snapshot=True) as tx:
            unbilled = await service.unbilled.list_page(tx, query)
        items, next_page_token = page.cut(unbilled.items, convert.unbilled.position_of)
        return pb.ListUnbilledResponse(
            unbilled_items=[
                convert.unbilled.item_to_proto(item, unbilled.entity_codes[item.entity_id]) for item in items
            ],
            totals=map(convert.unbilled.total_to_proto, unbilled.totals),
            as_of_date=unbilled.as_of.isoformat(),
            next_page_token=next_page_token,
        )

    async def GetEntityStatement(self, request: pb.GetEntityStatementRequest, call: Call) -> EntityStatement:
        page = self._pages.read_ordered(request, call)
        query = convert.statements.query_from_proto(request, page.after, page.limit)
        async with self._db.read(call, snapshot=True) as tx:
            statement = await service.statements.get(tx, query)
        documents, next_page_token = page.cut(statement.documents, convert.statements.position_of)
        return convert.statements.to_proto(replace(statement, documents=documents), next_page_token)

    async def VerifyInvoice(self, request: pb.VerifyInvoiceRequest, call: Call) -> InvoiceVerification:
        async with self._db.read(call, snapshot=True) as tx:
            verification = await service.verifications.verify(tx, ids.INVOICE.parse(request.id))
        return convert.verifications.to_proto(verification)
