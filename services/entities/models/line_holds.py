"""Table of the holds of disputes on lines of invoices."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Uuid
from sqlalchemy.orm import Mapped, mapped_column

from kit.db import AMOUNT, TenantRow, text_enum
from services.entities.domain.line_holds import HoldKind
from services.entities.models.invoices import InvoiceRow


class LineHoldRow(TenantRow):
    """A change of what a dispute holds of a line; never changed. The sum over a dispute and line is what it holds."""

    __tablename__ = "line_holds"

    invoice_id: Mapped[UUID] = mapped_column(Uuid)
    line_id: Mapped[UUID] = mapped_column(Uuid)
    dispute_id: Mapped[UUID] = mapped_column(Uuid)
    kind: Mapped[HoldKind] = mapped_column(text_enum(HoldKind))
    amount: Mapped[Decimal] = mapped_column(AMOUNT)
    """Net: for HELD with the sign of the line, otherwise with the opposite sign."""
    invoice_held: Mapped[Decimal] = mapped_column(AMOUNT)
    """Net and tax that all disputes hold of the invoice after it."""


@dataclass(frozen=True, slots=True)
class DisputeHolds:
    """What a dispute holds of an invoice."""

    invoice: InvoiceRow
    dispute_id: UUID
    lines: Mapping[UUID, Decimal]
    """Net amount by line; without lines of which nothing is held."""
