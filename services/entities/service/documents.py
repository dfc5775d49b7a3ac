"""Use cases of rendered documents."""

import asyncio
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import orjson

from kit import ids
from kit.db import WriteSession
from rendering.renderer import Renderer
from services.entities import domain, store
from services.entities.domain.billing_documents import BillingDocument
from services.entities.domain.documents import DocumentFormat
from services.entities.domain.invoices import InvoiceState
from services.entities.errors.invoices import EinvoiceIncomplete, InvoiceStateForbids
from services.entities.models.invoices import InvoiceRow
from services.entities.store.documents import StoredDocument

LAYOUTS: Final[Mapping[DocumentFormat, str]] = {
    DocumentFormat.PDF: "services.entities.documents.pdf",
    DocumentFormat.XLSX: "services.entities.documents.xlsx",
    DocumentFormat.CSV: "services.entities.documents.csv",
    DocumentFormat.CII: "services.entities.documents.cii",
    DocumentFormat.UBL: "services.entities.documents.ubl",
    DocumentFormat.ZUGFERD: "services.entities.documents.zugferd",
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


def check_state(invoice: InvoiceRow, file_format: DocumentFormat) -> None:
    """Raise InvoiceStateForbids if the invoice has no number, and the format is an electronic invoice."""
    if file_format.is_einvoice and not invoice.number:
        issued = sorted({*InvoiceState} - {InvoiceState.DRAFT, InvoiceState.VOID})
        raise InvoiceStateForbids(invoice.id, invoice.state, "converted to an electronic invoice", issued)


def check_einvoice(kind: ids.Kind, id: UUID, document: BillingDocument, file_format: DocumentFormat) -> None:
    """Raise EinvoiceIncomplete if the document lacks something for the format."""
    problems = domain.einvoice_rules.einvoice_problems(document) if file_format.is_einvoice else []
    if problems:
        raise EinvoiceIncomplete(kind, id, [problem.description for problem in problems])


async def save(tx: WriteSession, resource_id: UUID, file_format: DocumentFormat, content: bytes) -> StoredDocument:
    """Store the document of an issued invoice or credit note; return the one that was stored first."""
    await store.documents.insert(tx, resource_id, file_format, content)
    stored = await store.documents.find(tx, resource_id, file_format)
    if stored is None:
        raise LookupError("the document was not stored")
    return stored


def _to_json(document: BillingDocument, file_format: DocumentFormat) -> bytes:
    record = domain.documents.to_record(document)
    if file_format.is_einvoice:
        record = {**record, "terms": domain.einvoices.business_terms(document)}
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
