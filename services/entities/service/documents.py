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
    DocumentFormat.CSV: "services.entities.documents.csv",
}
"""The modules that render in a worker process."""


async def render(renderer: Renderer, tenant_id: UUID, document: BillingDocument, file_format: DocumentFormat) -> bytes:
    """Return the document in a format: the same bytes for equal documents. Takes seconds for thousands of lines.

    Call it outside of transactions. Raises RenderingTimedOut, DocumentTooLarge, RenderingFailed, Overloaded.
    """
    record = await asyncio.to_thread(_to_json, document)
    if file_format is DocumentFormat.JSON:
        return record
    return await renderer.render(tenant_id, LAYOUTS[file_format], record)


def _to_json(document: BillingDocument) -> bytes:
    return orjson.dumps(domain.documents.to_record(document), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
