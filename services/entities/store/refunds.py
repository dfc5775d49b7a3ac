"""SQL for refunds of credit notes."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select

from kit.db import ReadSession, WriteSession
from services.entities.models.credit_notes import RefundRow


async def find(tx: ReadSession, refund_id: UUID) -> RefundRow | None:
    """Return the refund, or None if there is none."""
    return await tx.one_or_none(select(RefundRow).where(RefundRow.id == refund_id))


async def lock(tx: WriteSession, refund_id: UUID) -> RefundRow:
    """Return a refund that exists, locked until the transaction ends."""
    query = select(RefundRow).where(RefundRow.id == refund_id).with_for_update()
    (refund,) = await tx.all(query.execution_options(populate_existing=True))
    return refund


async def list_of_credit_note(tx: ReadSession, credit_note_id: UUID) -> Sequence[RefundRow]:
    """Return the refunds of a credit note, oldest first."""
    return await tx.all(select(RefundRow).where(RefundRow.credit_note_id == credit_note_id).order_by(RefundRow.id))


async def save(tx: WriteSession, refund: RefundRow) -> None:
    """Write a new or changed refund."""
    tx.add(refund)
    await tx.flush()
