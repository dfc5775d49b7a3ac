"""gRPC servicer of invoices as files."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final
from uuid import UUID

from billing.entities.v1 import invoice_document_service_pb2 as pb
from google.api.httpbody_pb2 import HttpBody

from kit import ids
from kit.db import Database
from kit.origin import Call
from rendering.renderer import Renderer
from services.entities import convert, domain, service, store
from services.entities.domain.billing_documents import BillingDocument
from services.entities.domain.documents import DocumentFormat
from services.entities.store.documents import StoredDocument
from serving import files

_PIECE_BYTES: Final = 1024 * 1024
"""How much of a stored document is read at once, so that large ones need little memory."""


class InvoiceDocumentServicer:
    """billing.entities.v1.InvoiceDocumentService."""

    service = pb.DESCRIPTOR.services_by_name["InvoiceDocumentService"]

    def __init__(self, db: Database, renderer: Renderer) -> None:
        self._db = db
        self._renderer = renderer

    async def GetInvoiceDocument(self, request: pb.GetInvoiceDocumentRequest, call: Call) -> AsyncIterator[HttpBody]:
        invoice_id, file_format = ids.INVOICE.parse(request.id), convert.documents.format_from_proto(request)
        async with self._db.read(call) as tx:
            invoice = await store.invoices.get(tx, invoice_id)
            stored = await store.documents.find(tx, invoice_id, file_format)
        if stored:
            content = self._stored(call, stored)
        else:
            async with self._db.read(call) as tx:
                document = await service.invoices.build_document(tx, invoice_id)
            service.documents.check_format(invoice, document, file_format)
            content = await self._rendered(call, invoice_id, document, file_format)
        name = domain.documents.file_name(invoice, file_format)
        async with aclosing(files.messages(content, name=name, media_type=file_format.media_type)) as messages:
            async for message in messages:
                yield message

    async def _rendered(
        self, call: Call, resource_id: UUID, document: BillingDocument, file_format: DocumentFormat
    ) -> files.Content:
        """Render a document, and store it unless it is a draft."""
        content = await service.documents.render(self._renderer, call.tenant_id, document, file_format)
        if document.is_draft:
            return files.spooled(content)
        async with self._db.write(call) as tx:
            return self._stored(call, await service.documents.save(tx, resource_id, file_format, content))

    def _stored(self, call: Call, document: StoredDocument) -> files.Content:
        return files.Content(document.sha256, document.size, self._pieces(call, document))

    async def _pieces(self, call: Call, document: StoredDocument) -> AsyncGenerator[bytes, None]:
        """Yield the content of a stored document; no transaction is open while the client reads."""
        for start in range(0, document.size, _PIECE_BYTES):
            async with self._db.read(call) as tx:
                piece = await store.documents.read(tx, document.id, start, _PIECE_BYTES)
            yield piece
