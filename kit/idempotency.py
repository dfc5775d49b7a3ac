"""Idempotency keys: a call repeated with the same key and input gets the stored reply. Keys don't expire.

Calls with the same key run one after the other: their transaction takes an advisory lock on the key when it begins
(kit/db.py). The key is looked up before anything else, and stored with the reply in the transaction that does the work.
A call that fails stores nothing.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from google.protobuf.message import Message

from kit.errors import IdempotencyMismatch
from kit.origin import Call, Origin

Key = tuple[UUID, str, str]
"""Tenant id, method, and the key that the caller chose."""
FIND: Final = "select fingerprint, reply from idempotency_keys where tenant_id = $1 and method = $2 and key = $3"
"""Finds the reply stored under a key."""
INSERT: Final = "insert into idempotency_keys (tenant_id, method, key, fingerprint, reply)"
"""Start of an insert, for statements that store replies themselves; it is followed by `select` or `values`."""
STORE: Final = f"{INSERT} values ($1, $2, $3, $4, $5)"
"""Stores a reply under a key; the parameters are `parameters(origin, reply)`."""


def lookup(table: str) -> str:
    """Return a subquery for `lateral`: fingerprint and reply of the key in each row of `table`, for many keys at once.

    `table` has the columns tenant_id, method and key. With `offset 0` the planner does not merge the subquery
    into the outer query: it uses all columns of the index even in a plan made while the table was empty.
    """
    return (
        "(select fingerprint, reply from idempotency_keys"
        f" where tenant_id = {table}.tenant_id and method = {table}.method and key = {table}.key offset 0)"
    )


class Replay(Exception):
    """Raised instead of executing a call whose key has a stored reply."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self.reply = reply
        """The stored reply, serialized."""


def fingerprint(request: Message, subject: str) -> bytes:
    """Return the digest of the whole input and its sender."""
    return hashlib.sha256(subject.encode() + b"\0" + request.SerializeToString(deterministic=True)).digest()


def key_of(origin: Origin) -> Key | None:
    """Return the key of a call, or None if it has none."""
    return (origin.tenant_id, origin.method, origin.key) if isinstance(origin, Call) and origin.key else None


def lock_name(origin: Origin) -> str:
    """Return the name of the advisory lock for the call's key; empty if it has none."""
    key = key_of(origin)
    return "{} {} {}".format(*key) if key else ""


def raise_if_stored(origin: Origin, rows: Sequence[Any]) -> None:
    """Raise Replay if `rows`, the result of FIND, has a reply; IdempotencyMismatch if it is of another request."""
    if not (isinstance(origin, Call) and rows):
        return
    if rows[0]["fingerprint"] != origin.fingerprint:
        raise IdempotencyMismatch(origin.key)
    raise Replay(rows[0]["reply"])


def parameters(origin: Origin, reply: Message) -> tuple[object, ...]:
    """Return the parameters of STORE; empty if the call has no key."""
    key = key_of(origin)
    return (*key, origin.fingerprint, reply.SerializeToString()) if key and isinstance(origin, Call) else ()
