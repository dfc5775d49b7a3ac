"""Rollovers of budgets: which budget follows which."""

from typing import Final
from uuid import UUID

from kit.db import ReadSession, WriteSession

_LOCK: Final = "budget rollovers"
_INSERT: Final = (
    "insert into budget_rollovers (tenant_id, closed_budget_id, opened_budget_id) values ($1, $2, $3)"
    " on conflict do nothing"
)
_FIND_NEWEST: Final = """
    with recursive later (budget_id) as (
        select opened_budget_id from budget_rollovers where tenant_id = $1 and closed_budget_id = $2
        union
        select next.opened_budget_id from later
        join budget_rollovers next on next.tenant_id = $1 and next.closed_budget_id = later.budget_id
    )
    select budget_id from later
    where not exists (select from budget_rollovers where tenant_id = $1 and closed_budget_id = later.budget_id)"""


async def lock(tx: WriteSession) -> None:
    """Prevent other transactions of the tenant from storing rollovers or new requests until this one ends."""
    await tx.lock(_LOCK)


async def lock_shared(tx: WriteSession) -> None:
    """Prevent other transactions of the tenant from storing rollovers until this one ends."""
    await tx.lock(_LOCK, shared=True)


async def insert(tx: WriteSession, closed_id: UUID, opened_id: UUID) -> None:
    """Store that a budget was rolled over, once."""
    await tx.fetch(_INSERT, tx.tenant_id, closed_id, opened_id)


async def find_newest(tx: ReadSession, budget_id: UUID) -> UUID:
    """Return the budget of the newest known period in the series of a budget; the budget itself if it is that."""
    rows = await tx.fetch(_FIND_NEWEST, tx.tenant_id, budget_id)
    newest: UUID = rows[0]["budget_id"] if rows else budget_id
    return newest
