"""SQL for rendered documents."""

import hashlib
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as insert_into

from kit import clock, ids
from kit.db import ReadSession, WriteSession
from services.entities.domain.documents import DocumentFormat
from services.entities.models.documents import InvoiceDocumentRow


async def find(tx: ReadSession, resource_id: UUID, file_format: DocumentFormat) -> InvoiceDocumentRow | None:
    """Return the stored document of an invoice or credit note in this format."""
    same = InvoiceDocumentRow.resource_id == resource_id, InvoiceDocumentRow.format == file_format
    return await tx.one_or_none(select(InvoiceDocumentRow).where(*same))


async def insert(tx: WriteSession, resource_id: UUID, file_format: DocumentFormat, content: bytes) -> bool:
    """Store the document of an issued invoice or credit note; False if it has one in this format."""
    document = insert_into(InvoiceDocumentRow).values(
        tenant_id=tx.tenant_id, id=ids.new(), resource_id=resource_id, format=file_format, content=content,
        sha256=hashlib.sha256(content).digest(), size=len(content), create_time=clock.now(),
    )  # fmt: skip
    return bool(await tx.execute(document.on_conflict_do_nothing(constraint="invoice_documents_once_key")))
