"""OASIS UBL 2.1 (EN 16931)."""

from typing import Any

from services.entities.documents import einvoices


def render(document: Any) -> bytes:
    """Return the document as electronic invoice."""
    return einvoices.ubl(document["terms"])
