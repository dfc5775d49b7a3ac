"""Idempotency keys: a call repeated with the same key and input gets the stored reply. Keys don't expire.

Calls with the same key run one after the other: their transaction takes an advisory lock on the key when it begins
(kit/db.py). The key is looked up before anything else, and stored with the reply in the transaction that does the work.
A call that fails stores nothing.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from functools import cache
from typing import Any, Final
from uuid import UUID

from buf.validate import validate_pb2
from google.protobuf.message import Message

from kit.errors import IdempotencyMismatch
from kit.money import plain_number, plain_text
from kit.origin import Call, Origin

Key = tuple[UUID, str, str]
"""Tenant id, method, and the key that the caller chose."""
_DIGEST: Final = 32
"""Length of the first part of a fingerprint, which identifies input and sender."""
_SENDER: Final = 8
"""Length of the second part, which identifies the sender."""
_MONEY: Final = "billing.type.v1.Money"
_DECIMAL: Final = re.compile(r"\^\(?\[0-9\]\{1,\d+\}\(\\\.\[0-9\]\{1,\d+\}\)\?(\)\?)?\$")
"""The pattern of fields with a decimal number: digits, and optionally a point with further digits."""
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
    """Return the digest of the whole input and its sender, followed by a short digest of the sender alone.

    Equal numbers give the same fingerprint: amounts such as "10.0 EUR" and "10.00 EUR", and decimal texts such as
    "1.10" and "1.1".
    """
    sender = subject.encode()
    data = _with_equal_numbers(request).SerializeToString(deterministic=True)
    return hashlib.sha256(sender + b"\0" + data).digest() + hashlib.sha256(sender).digest()[:_SENDER]


def mismatch(stored: bytes, current: bytes, key: str) -> IdempotencyMismatch | None:
    """Return the error for a key that was used with another fingerprint; None if both are of the same request."""
    if stored[:_DIGEST] == current[:_DIGEST]:
        return None
    senders = stored[_DIGEST:], current[_DIGEST:]  # empty for keys that are not of calls
    return IdempotencyMismatch(key, other_user=all(senders) and senders[0] != senders[1])


def _with_equal_numbers(request: Message) -> Message:
    """Return the request with each number in the form that all equal numbers have."""
    if all(getattr(message, name) == text for message, name, text in _numbers(request)):
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    for message, name, text in _numbers(copy):
        setattr(message, name, text)
    return copy


def _numbers(message: Any) -> Iterator[tuple[Any, str, str]]:
    """Yield each number in a message: the message that contains it, the name of its field, and its uniform text."""
    if message.DESCRIPTOR.full_name == _MONEY:
        yield message, "amount", plain_text(message.amount, message.currency_code)
        return
    for name, kind in _number_fields(message.DESCRIPTOR):
        value = getattr(message, name)
        if kind is _Kind.DECIMAL:
            yield message, name, plain_number(value)
        elif kind is not _Kind.SINGLE:
            for each in value.values() if kind is _Kind.MAP else value:
                yield from _numbers(each)
        elif message.HasField(name):
            yield from _numbers(value)


@cache
def _number_fields(descriptor: Any) -> Sequence[tuple[str, "_Kind"]]:
    """Return the fields of a message that are decimal texts, or whose values are Money or contain a number."""
    return [(field.name, _kind(field)) for field in descriptor.fields if _has_number(field, set())]


def _has_number(field: Any, seen: set[str]) -> bool:
    descriptor = field.message_type
    if descriptor is None:
        return _is_decimal(field)
    if descriptor.full_name in seen:
        return False
    seen.add(descriptor.full_name)
    return descriptor.full_name == _MONEY or any(_has_number(each, seen) for each in descriptor.fields)


def _is_decimal(field: Any) -> bool:
    """True for a text field whose rule allows decimal numbers only."""
    rules = field.GetOptions().Extensions[validate_pb2.field]
    return not field.is_repeated and bool(_DECIMAL.fullmatch(rules.string.pattern))


def _kind(field: Any) -> "_Kind":
    if field.message_type is None:
        return _Kind.DECIMAL
    if field.message_type.GetOptions().map_entry:
        return _Kind.MAP
    return _Kind.REPEATED if field.is_repeated else _Kind.SINGLE


class _Kind(Enum):
    """What a field holds: a decimal text, or messages, and how many of them."""

    DECIMAL = auto()
    SINGLE = auto()
    REPEATED = auto()
    MAP = auto()


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
    if error := mismatch(rows[0]["fingerprint"], origin.fingerprint, origin.key):
        raise error
    raise Replay(rows[0]["reply"])


def parameters(origin: Origin, reply: Message) -> tuple[object, ...]:
    """Return the parameters of STORE; empty if the call has no key."""
    key = key_of(origin)
    return (*key, origin.fingerprint, reply.SerializeToString()) if key and isinstance(origin, Call) else ()
