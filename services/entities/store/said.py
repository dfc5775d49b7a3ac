"""Many events at once into the outbox."""

from collections.abc import Sequence

from sqlalchemy import DateTime, String, Text, Uuid, insert, select

from eventing.outbox import OutboxRow
from kit.db import WriteSession
from services.entities.store.unnested import unnested


async def say_all(tx: WriteSession, drafted: Sequence[OutboxRow]) -> None:
    """Say the events to the world when `tx` commits, and not otherwise; see eventing.outbox for one or a few."""
    if not drafted:
        return
    given = unnested(
        id=(Uuid, [row.id for row in drafted]),
        tenant_id=(Uuid, [row.tenant_id for row in drafted]),
        type=(String, [row.type for row in drafted]),
        body=(Text, [row.body for row in drafted]),
        actor=(String, [row.actor for row in drafted]),
        traceparent=(String, [row.traceparent for row in drafted]),
        create_time=(DateTime(timezone=True), [row.create_time for row in drafted]),
    )
    await tx.execute(insert(OutboxRow).from_select(list(given.columns.keys()), select(*given.columns)))
    tx.appended = True
