"""Keys of requests: the same key with the same input gives the same answer, for as long as the data lives.

Calls with one key take turns (db.py locks its name when the transaction begins). Then the key is looked up before
anything else, and kept with the reply in the same transaction. A call that was refused keeps nothing.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from google.protobuf.message import Message

from kit.errors import IdempotencyMismatch
from kit.origin import Call, Origin

Key = tuple[UUID, str, str]
"""The tenant, the method, and what the caller chose."""
FIND: Final = "select fingerprint, reply from idempotency_keys where tenant_id = $1 and method = $2 and key = $3"
"""Finds the reply stored under a key."""
INSERT: Final = "insert into idempotency_keys (tenant_id, method, key, fingerprint, reply)"
"""Start of an insert, for statements that store replies themselves; it is followed by `select` or `values`."""
STORE: Final = f"{INSERT} values ($1, $2, $3, $4, $5)"
"""Stores a reply under a key."""


def lookup(table: str) -> str:
    """Return a subquery for `lateral`: fingerprint and reply of the key in each row of `table`, for many keys at once.

    `table` has the columns tenant_id, method and key. The `offset 0` keeps the subquery apart, so that it uses all
    columns of the index even if the plan was made while the table was empty.
    """
    return (
        "(select fingerprint, reply from idempotency_keys"
        f" where tenant_id = {table}.tenant_id and method = {table}.method and key = {table}.key offset 0)"
    )


class Replay(Exception):
    """The call was answered before; `reply` is that answer, serialised."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self.reply = reply


def fingerprint(request: Message, subject: str) -> bytes:
    """Digest of the whole input and who sent it."""
    return hashlib.sha256(subject.encode() + b"\0" + request.SerializeToString(deterministic=True)).digest()


def key_of(origin: Origin) -> Key | None:
    """The key of a call that has one."""
    return (origin.tenant_id, origin.method, origin.key) if isinstance(origin, Call) and origin.key else None


def lock_name(origin: Origin) -> str:
    """What calls with the same key have in common; empty where there is no key."""
    key = key_of(origin)
    return "{} {} {}".format(*key) if key else ""


def check(origin: Origin, found: Sequence[Any]) -> None:
    """Raise Replay where the key was answered before, IdempotencyMismatch where that was another request."""
    if not (isinstance(origin, Call) and found):
        return
    if found[0]["fingerprint"] != origin.fingerprint:
        raise IdempotencyMismatch(origin.key)
    raise Replay(found[0]["reply"])


def kept(origin: Origin, reply: Message) -> tuple[object, ...]:
    """What is kept of an answer; nothing where the call has no key."""
    key = key_of(origin)
    return (*key, origin.fingerprint, reply.SerializeToString()) if key and isinstance(origin, Call) else ()
