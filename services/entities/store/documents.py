"""SQL for rendered documents."""

import hashlib
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as insert_into

from kit import clock, ids
from kit.db import ReadSession, WriteSession
from services.entities.domain.documents import DocumentFormat
from services.entities.models.documents import InvoiceDocumentRow


class StoredDocument(NamedTuple):
    """A stored document without its content."""

    id: UUID
    sha256: bytes
    size: int


async def find(tx: ReadSession, resource_id: UUID, file_format: DocumentFormat) -> StoredDocument | None:
    """Return the stored document of an invoice or credit note in this format."""
    same = InvoiceDocumentRow.resource_id == resource_id, InvoiceDocumentRow.format == file_format
    query = select(InvoiceDocumentRow.id, InvoiceDocumentRow.sha256, InvoiceDocumentRow.size).where(*same)
    rows = await tx.rows(query)
    return StoredDocument(*rows[0]) if rows else None


async def read(tx: ReadSession, document_id: UUID, start: int, size: int) -> bytes:
    """Return a part of the content; empty after its end. The rest is not read."""
    query = select(func.substring(InvoiceDocumentRow.content, start + 1, size))
    rows = await tx.rows(query.where(InvoiceDocumentRow.id == document_id))
    content: bytes = rows[0][0]
    return content


async def insert(tx: WriteSession, resource_id: UUID, file_format: DocumentFormat, content: bytes) -> bool:
    """Store the document of an issued invoice or credit note; False if it has one in this format."""
    document = insert_into(InvoiceDocumentRow).values(
        tenant_id=tx.tenant_id, id=ids.new(), resource_id=resource_id, format=file_format, content=content,
        sha256=hashlib.sha256(content).digest(), size=len(content), create_time=clock.now(),
    )  # fmt: skip
    return bool(await tx.execute(document.on_conflict_do_nothing(constraint="invoice_documents_once_key")))
