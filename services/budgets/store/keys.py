"""Keys of requests, for those who ask what was done under one; the engine has statements of its own."""

from typing import NamedTuple

from sqlalchemy import LargeBinary, String, Uuid, column, select, table
from sqlalchemy.dialects.postgresql import insert

from kit.db import ReadSession, WriteSession

_keys = table(
    "idempotency_keys", column("tenant_id", Uuid), column("method", String), column("key", String),
    column("fingerprint", LargeBinary), column("reply", LargeBinary),
)  # fmt: skip


class Kept(NamedTuple):
    """What was done under a key."""

    fingerprint: bytes
    reply: bytes


async def find_kept(tx: ReadSession, method: str, key: str) -> Kept | None:
    """What was done under a key, if anything was."""
    kept = select(_keys.c.fingerprint, _keys.c.reply)
    mine = kept.where(_keys.c.tenant_id == tx.tenant_id, _keys.c.method == method, _keys.c.key == key)
    found = await tx.rows(mine)
    return Kept(*found[0]) if found else None


async def keep(tx: WriteSession, method: str, key: str, fingerprint: bytes) -> bool:
    """Keep an empty answer under a key; False where somebody else has kept one at this very moment."""
    row = {"tenant_id": tx.tenant_id, "method": method, "key": key, "fingerprint": fingerprint, "reply": b""}
    return await tx.execute(insert(_keys).values(row).on_conflict_do_nothing()) == 1
