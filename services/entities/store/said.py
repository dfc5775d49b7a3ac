"""Many events at once into the outbox."""

from collections.abc import Sequence

from sqlalchemy import DateTime, String, Text, Uuid, insert, select

from eventing.outbox import OutboxRow
from kit.db import WriteSession
from services.entities import store


async def say_all(tx: WriteSession, new_row: Sequence[OutboxRow]) -> None:
    """Say the events to the world when `tx` commits, and not otherwise; see eventing.outbox for one or a few."""
    if not new_row:
        return
    given = store.unnested.unnested(
        id=(Uuid, [row.id for row in new_row]),
        tenant_id=(Uuid, [row.tenant_id for row in new_row]),
        type=(String, [row.type for row in new_row]),
        body=(Text, [row.body for row in new_row]),
        actor=(String, [row.actor for row in new_row]),
        traceparent=(String, [row.traceparent for row in new_row]),
        create_time=(DateTime(timezone=True), [row.create_time for row in new_row]),
    )
    await tx.execute(insert(OutboxRow).from_select(list(given.columns.keys()), select(*given.columns)))
    tx.appended = True
