"""Keys of requests: the same key with the same input gives the same answer, for as long as the data lives.

The key is looked up before anything else in the transaction and kept with the reply in the same one. Two calls
with one key at once meet in the table's primary key; the later one is done again and finds the answer.
"""

import hashlib
from typing import TYPE_CHECKING

from google.protobuf.message import Message
from sqlalchemy import Executable, text

from kit.errors import IdempotencyMismatch
from kit.origin import Call

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

CONSTRAINT = "idempotency_keys_pkey"

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


async def check(session: "AsyncSession", call: Call) -> None:
    """Raise Replay where the key was answered before, IdempotencyMismatch where that was another request."""
    found = (await session.execute(_FIND, _named(call))).one_or_none()
    if found is None:
        return
    if found.fingerprint != call.fingerprint:
        raise IdempotencyMismatch(call.key)
    raise Replay(found.reply)


def keep(call: Call, reply: Message) -> Executable:
    """The statement that keeps the reply under the call's key."""
    kept = {**_named(call), "fingerprint": call.fingerprint, "reply": reply.SerializeToString()}
    return _KEEP.bindparams(**kept)


def _named(call: Call) -> dict[str, object]:
    return {"tenant_id": call.tenant_id, "method": call.method, "key": call.key}
