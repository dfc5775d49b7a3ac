"""Conversion of the formats of documents."""

from billing.entities.v1 import invoice_document_service_pb2 as pb

from contract.values import enum_or_none
from services.entities.domain.documents import DocumentFormat


def format_from_proto(request: pb.GetInvoiceDocumentRequest | pb.GetCreditNoteDocumentRequest) -> DocumentFormat:
    """Return the requested format; PDF if there is none."""
    named = enum_or_none(DocumentFormat, pb.GetInvoiceDocumentRequest.Format, request.format)
    return named or DocumentFormat.PDF
