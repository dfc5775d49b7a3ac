"""UN/CEFACT Cross Industry Invoice (EN 16931)."""

from typing import Any

from services.entities.documents import einvoices


def render(document: Any) -> bytes:
    """Return the document as electronic invoice."""
    return einvoices.cii(document["terms"])
