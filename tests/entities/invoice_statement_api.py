"""Test driver for what was invoiced, what was paid, and what is still to be invoiced."""

from typing import Any

from billing.entities.v1 import invoice_statement_service_pb2 as pb
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.invoice_pb2 import Invoice
from billing.entities.v1.statement_pb2 import EntityStatement, InvoiceVerification, UnbilledItem

from tests.harness.callers import Caller
from tests.harness.services import Entities


class InvoiceStatementApi:
    """Calls InvoiceStatementService on behalf of a caller."""

    def __init__(self, caller: Caller, stubs: Entities) -> None:
        self.caller = caller
        self.stub = stubs.invoice_statements

    async def unbilled_page(self, entity: Entity, **fields: Any) -> pb.ListUnbilledResponse:
        return await self.caller.call(self.stub.ListUnbilled, pb.ListUnbilledRequest(id=entity.id, **fields))

    async def unbilled(self, entity: Entity, **fields: Any) -> list[UnbilledItem]:
        """All items, page by page."""
        items, token = list[UnbilledItem](), ""
        while True:
            page = await self.unbilled_page(entity, page_token=token, **fields)
            items += page.unbilled_items
            token = page.next_page_token
            if not token:
                return items

    async def verify(self, invoice: Invoice) -> InvoiceVerification:
        return await self.caller.call(self.stub.VerifyInvoice, pb.VerifyInvoiceRequest(id=invoice.id))

    async def statement(self, entity: Entity, **fields: Any) -> EntityStatement:
        request = pb.GetEntityStatementRequest(id=entity.id, **fields)
        return await self.caller.call(self.stub.GetEntityStatement, request)
