"""Table of rendered documents."""

from uuid import UUID

from sqlalchemy import Integer, LargeBinary, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit.db import TenantRow, text_enum
from services.entities.domain.documents import DocumentFormat


class InvoiceDocumentRow(TenantRow):
    """An issued invoice or credit note in one format; never changed, so that each download has the same bytes."""

    __tablename__ = "invoice_documents"

    resource_id: Mapped[UUID] = mapped_column(Uuid)
    """The invoice or credit note."""
    format: Mapped[DocumentFormat] = mapped_column(text_enum(DocumentFormat))
    sha256: Mapped[bytes] = mapped_column(LargeBinary)
    size: Mapped[int] = mapped_column(Integer)
    content: Mapped[bytes] = mapped_column(LargeBinary)
