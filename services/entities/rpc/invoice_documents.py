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
            service.documents.check_state(invoice, file_format)
            stored = await store.documents.find(tx, invoice.id, file_format)
            source = stored or await service.invoices.build_document(tx, invoice.id)
        name = domain.documents.file_name(invoice, file_format)
        content = await self._content(call, ids.INVOICE, invoice.id, file_format, source)
        async with aclosing(files.messages(content, name=name, media_type=file_format.media_type)) as messages:
            async for message in messages:
                yield message

    async def GetCreditNoteDocument(
        self, request: pb.GetCreditNoteDocumentRequest, call: Call
    ) -> AsyncIterator[HttpBody]:
        credit_note_id, file_format = ids.CREDIT_NOTE.parse(request.id), convert.documents.format_from_proto(request)
        async with self._db.read(call) as tx:
            note = await store.credit_notes.get(tx, credit_note_id)
            stored = await store.documents.find(tx, note.id, file_format)
            source = stored or await service.credit_notes.build_document(tx, note.id)
        name = domain.documents.numbered_file_name(note.number, file_format)
        content = await self._content(call, ids.CREDIT_NOTE, note.id, file_format, source)
        async with aclosing(files.messages(content, name=name, media_type=file_format.media_type)) as messages:
            async for message in messages:
                yield message

    async def _content(
        self,
        call: Call,
        kind: ids.Kind,
        id: UUID,
        file_format: DocumentFormat,
        source: StoredDocument | BillingDocument,
    ) -> files.Content:
        """Return the stored file, or render the document, and store it unless it is a draft."""
        if isinstance(source, StoredDocument):
            return files.Content(source.sha256, source.size, self._pieces(call, source))
        service.documents.check_einvoice(kind, id, source, file_format)
        content = await service.documents.render(self._renderer, call.tenant_id, source, file_format)
        if source.is_draft:
            return files.spooled(content)
        async with self._db.write(call) as tx:
            stored = await service.documents.save(tx, id, file_format, content)
        return files.Content(stored.sha256, stored.size, self._pieces(call, stored))

    async def _pieces(self, call: Call, document: StoredDocument) -> AsyncGenerator[bytes, None]:
        """Yield the content of a stored document; no transaction is open while the client reads."""
        for start in range(0, document.size, _PIECE_BYTES):
            async with self._db.read(call) as tx:
                piece = await store.documents.read(tx, document.id, start, _PIECE_BYTES)
            yield piece
