"""SQL for idempotency keys and the replies stored under them; the ledger stores its own replies."""

from typing import Final, NamedTuple

from sqlalchemy import LargeBinary, String, Uuid, column, select, table
from sqlalchemy.dialects.postgresql import insert

from kit.db import ReadSession, WriteSession, found
from services.budgets.errors.charges import ChargeNotFound

CANCELLED: Final = b"cancelled"
"""The fingerprint of a key that was cancelled before its request arrived, so that the request has no effect."""

_keys = table(
    "idempotency_keys", column("tenant_id", Uuid), column("method", String), column("key", String),
    column("fingerprint", LargeBinary), column("reply", LargeBinary),
)  # fmt: skip


class StoredReply(NamedTuple):
    """Fingerprint and reply stored under a key; the reply is empty if nothing was posted."""

    fingerprint: bytes
    reply: bytes


async def find(tx: ReadSession, method: str, key: str) -> StoredReply | None:
    """Return the reply stored under a key, or None."""
    query = select(_keys.c.fingerprint, _keys.c.reply)
    query = query.where(_keys.c.tenant_id == tx.tenant_id, _keys.c.method == method, _keys.c.key == key)
    rows = await tx.rows(query)
    return StoredReply(*rows[0]) if rows else None


async def get_reply(tx: ReadSession, method: str, key: str) -> bytes:
    """Return the reply stored under a key. Raises ChargeNotFound."""
    stored = found(await find(tx, method, key), ChargeNotFound(key))
    return stored.reply


async def claim(tx: WriteSession, method: str, key: str, fingerprint: bytes) -> bool:
    """Store an empty reply under a key. Return False if another transaction has stored one."""
    row = {"tenant_id": tx.tenant_id, "method": method, "key": key, "fingerprint": fingerprint, "reply": b""}
    return await tx.execute(insert(_keys).values(row).on_conflict_do_nothing()) == 1


async def claim_or_find(tx: WriteSession, method: str, key: str, fingerprint: bytes) -> StoredReply | None:
    """Claim a key. Return None, or the stored reply if the key was in use already."""
    stored = await find(tx, method, key)
    if stored is None and not await claim(tx, method, key, fingerprint):
        stored = await find(tx, method, key)  # stored at the same moment
    return stored
