"""ZUGFeRD 2, the same as Factur-X 1: the PDF with the CII inside."""

from typing import Any

from services.entities.documents import einvoices, pdf


def render(document: Any) -> bytes:
    """Return the document as PDF/A-3 with its electronic invoice."""
    return einvoices.embed(document["terms"], pdf.render(document))
