"""Keys of requests: the same key with the same input gives the same answer, for as long as the data lives.

Calls with one key take turns (db.py locks its name when the transaction begins). Then the key is looked up before
anything else, and kept with the reply in the same transaction. A call that was refused keeps nothing.
"""

import hashlib

from google.protobuf.message import Message
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from kit.errors import IdempotencyMismatch
from kit.origin import Call, Origin

_FIND = text(
    "select fingerprint, reply from idempotency_keys where tenant_id = :tenant_id and method = :method and key = :key"
)
_KEEP = text(
    "insert into idempotency_keys (tenant_id, method, key, fingerprint, reply)"
    " values (:tenant_id, :method, :key, :fingerprint, :reply)"
)


class Replay(Exception):
    """The call was answered before; `reply` is that answer, serialised."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self.reply = reply


def fingerprint(request: Message, subject: str) -> bytes:
    """Digest of the whole input and who sent it."""
    return hashlib.sha256(subject.encode() + b"\0" + request.SerializeToString(deterministic=True)).digest()


def lock_name(origin: Origin) -> str:
    """What calls with the same key have in common; empty where there is no key."""
    if not (isinstance(origin, Call) and origin.key):
        return ""
    return f"{origin.tenant_id} {origin.method} {origin.key}"


async def check(session: AsyncSession, origin: Origin) -> None:
    """Raise Replay where the key was answered before, IdempotencyMismatch where that was another request."""
    if not (isinstance(origin, Call) and origin.key):
        return
    found = (await session.execute(_FIND, _named(origin))).one_or_none()
    if found is None:
        return
    if found.fingerprint != origin.fingerprint:
        raise IdempotencyMismatch(origin.key)
    raise Replay(found.reply)


async def keep(session: AsyncSession, origin: Origin, reply: Message) -> None:
    """Keep the reply under the call's key, if it has one."""
    if isinstance(origin, Call) and origin.key:
        kept = {"fingerprint": origin.fingerprint, "reply": reply.SerializeToString()}
        await session.flush()
        await session.execute(_KEEP, {**_named(origin), **kept})


def _named(call: Call) -> dict[str, object]:
    return {"tenant_id": call.tenant_id, "method": call.method, "key": call.key}
