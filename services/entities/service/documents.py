"""Use cases of rendered documents."""

import asyncio
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import orjson

from rendering.renderer import Renderer
from services.entities import domain
from services.entities.domain.billing_documents import BillingDocument
from services.entities.domain.documents import DocumentFormat

LAYOUTS: Final[Mapping[DocumentFormat, str]] = {
    DocumentFormat.PDF: "services.entities.documents.pdf",
    DocumentFormat.XLSX: "services.entities.documents.xlsx",
    DocumentFormat.CSV: "services.entities.documents.csv",
    DocumentFormat.CII: "services.entities.documents.cii",
    DocumentFormat.UBL: "services.entities.documents.ubl",
}
"""The modules that render in a worker process."""


async def render(renderer: Renderer, tenant_id: UUID, document: BillingDocument, file_format: DocumentFormat) -> bytes:
    """Return the document in a format: the same bytes for equal documents. Takes seconds for thousands of lines.

    Call it outside of transactions. Raises RenderingTimedOut, DocumentTooLarge, RenderingFailed, Overloaded, and
    ValueError for an electronic invoice of a draft or of a document with `einvoice_problems`.
    """
    record = await asyncio.to_thread(_to_json, document, file_format)
    if file_format is DocumentFormat.JSON:
        return record
    return await renderer.render(tenant_id, LAYOUTS[file_format], record)


def _to_json(document: BillingDocument, file_format: DocumentFormat) -> bytes:
    record = domain.documents.to_record(document)
    if file_format.is_einvoice:
        record = {**record, "terms": domain.einvoices.business_terms(document)}
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
