"""SQL for the holds of disputes on lines of invoices."""

from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Final
from uuid import UUID

from sqlalchemy import func, select

from kit import clock
from kit.columns import Columns, of_table
from kit.db import ReadSession, WriteSession
from services.entities.models.line_holds import LineHoldRow

_COLUMNS: Final = Columns[LineHoldRow](of_table(LineHoldRow))
_INSERT: Final = _COLUMNS.insert("line_holds")


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
    """Insert changes of what a dispute holds, which may be thousands."""
    now = clock.now()
    for row in rows:
        row.tenant_id, row.create_time = tx.tenant_id, now
    await tx.fetch(_INSERT, *_COLUMNS.parameters(list(rows)))
