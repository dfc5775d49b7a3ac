"""Rows of a table that every service has, for tests of transactions."""

from uuid import uuid4

from sqlalchemy import select

from kit.db import Database
from kit.origin import Origin
from serving.operations import DeadLetterRow


def letter(consumer: str = "c") -> DeadLetterRow:
    """Return a new row."""
    return DeadLetterRow(
        consumer=consumer, event_id=uuid4(), subject="s", body="{}", actor="a", traceparent="", error="e", deliveries=5
    )


async def letters(db: Database, origin: Origin) -> list[str]:
    """Return the consumers of all rows that are stored."""
    async with db.read(origin) as tx:
        return [row.consumer for row in await tx.all(select(DeadLetterRow).order_by(DeadLetterRow.id))]
