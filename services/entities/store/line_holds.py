"""SQL for the holds of disputes on lines of invoices."""

from collections.abc import Collection, Mapping
from decimal import Decimal
from uuid import UUID

from sqlalchemy import func, select

from kit.db import ReadSession, WriteSession
from services.entities.models.line_holds import LineHoldRow


async def sum_of_dispute(tx: ReadSession, invoice_id: UUID, dispute_id: UUID) -> Mapping[UUID, Decimal]:
    """Return the net amounts that a dispute holds of an invoice, by line, without those of zero."""
    held = func.sum(LineHoldRow.amount)
    query = (
        select(LineHoldRow.line_id, held)
        .where(LineHoldRow.invoice_id == invoice_id, LineHoldRow.dispute_id == dispute_id)
        .group_by(LineHoldRow.line_id)
        .having(held != 0)
    )
    return {row[0]: row[1] for row in await tx.rows(query)}


async def insert(tx: WriteSession, rows: Collection[LineHoldRow]) -> None:
    """Insert changes of what a dispute holds."""
    for row in rows:
        tx.add(row)
    await tx.flush()
