"""Seeded mutations of requests: of their bytes, and of the values of their fields."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor

_TEXTS: Final = (
    "", " ", "\0", "\n", "é" * 300, "\U0001f600" * 50, "x" * 100_000, "null", "-1", "1e400", "NaN", "9" * 40, "0" * 200,
    "'; drop table budgets; --", "../../etc/passwd", "{{7*7}}", "\u202e\u0000\ufeff", "2026-02-30", "9999-12-31",
    "ent_" + "0" * 32, "bud_" + "f" * 32, "BUD_" + "0" * 32, "Europe/../Berlin", "=1+1", "%00%ff", "1" * 13 + ".000001",
)  # fmt: skip
_NUMBERS: Final = (0, 1, -1, 2**31 - 1, -(2**31), 1000, 100_000)
_FLIPS_MAX: Final = 8
_ITEMS: Final = (1, 2, 1001, 3000)


def garbage(random: Random, _: bytes) -> bytes:
    """Return random bytes."""
    return random.randbytes(random.choice((0, 1, 7, 64, 1000, 20_000)))


def flipped(random: Random, payload: bytes) -> bytes:
    """Return the bytes with some of them changed."""
    content = bytearray(payload or b"\0")
    for _ in range(random.randint(1, _FLIPS_MAX)):
        content[random.randrange(len(content))] = random.randrange(256)
    return bytes(content)


def cut(random: Random, payload: bytes) -> bytes:
    """Return the beginning of the bytes."""
    return payload[: random.randrange(len(payload) + 1)]


def repeated(random: Random, payload: bytes) -> bytes:
    """Return a part of the bytes many times, which repeats fields."""
    start = random.randrange(len(payload) + 1)
    return payload[:start] + payload[start:] * random.choice((2, 50, 2000))


BYTES: Final[Sequence[Callable[[Random, bytes], bytes]]] = (garbage, flipped, cut, repeated)


def mutate(random: Random, message: Any, changes: int) -> None:
    """Set some fields of a message, also of inner messages, to extreme values."""
    for _ in range(changes):
        _change(random, message, depth=0)


def _change(random: Random, message: Any, depth: int) -> None:
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    item = random.choice(fields)
    if item.message_type is not None and item.message_type.GetOptions().map_entry:
        if item.message_type.fields_by_name["value"].message_type is None:
            getattr(message, item.name)[random.choice(_TEXTS)] = random.choice(_TEXTS)
    elif item.message_type is not None:
        inner = getattr(message, item.name)
        if item.is_repeated:
            for _ in range(random.choice(_ITEMS)):
                inner.add()
            inner = random.choice(inner)
        inner.SetInParent()
        if depth < 3:
            _change(random, inner, depth + 1)
    elif item.is_repeated:
        value = _value(random, item)
        getattr(message, item.name).extend([value] * random.choice(_ITEMS))
    else:
        setattr(message, item.name, _value(random, item))


def _value(random: Random, item: FieldDescriptor) -> Any:
    kind = item.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        text = random.choice(_TEXTS)
        return text.encode() if item.type == FieldDescriptor.TYPE_BYTES else text
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return random.random() < 0.5
    number = random.choice(_NUMBERS)
    unsigned = kind in {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}
    return abs(number) if unsigned else number
