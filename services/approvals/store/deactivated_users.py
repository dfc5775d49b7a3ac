"""Users whom user management has deactivated."""

from collections.abc import Collection
from datetime import timedelta
from typing import Final

from kit.db import WriteSession

_INSERT: Final = (
    "insert into deactivated_users (tenant_id, user_id, deactivation_time) values ($1, $2, now())"
    " on conflict (tenant_id, user_id) do update set deactivation_time = excluded.deactivation_time"
)
_FIND_RECENT: Final = (
    "select user_id from deactivated_users"
    " where tenant_id = $1 and user_id = any($2) and deactivation_time > now() - $3::interval"
)
_LOCK: Final = "deactivated users"
CALL_MAX: Final = timedelta(minutes=1)
"""Longer than the time between the planning of a request and its opening in one call."""


async def insert(tx: WriteSession, user_id: str) -> None:
    """Store that a user was deactivated. Waits for transactions that have called `any_recent`."""
    await tx.lock(_LOCK)
    await tx.fetch(_INSERT, tx.tenant_id, user_id)


async def any_recent(tx: WriteSession, user_ids: Collection[str]) -> bool:
    """True if one of these users was deactivated during this call. Blocks `insert` until the transaction ends."""
    await tx.lock(_LOCK, shared=True)
    return bool(await tx.fetch(_FIND_RECENT, tx.tenant_id, list(user_ids), CALL_MAX))
