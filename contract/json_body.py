"""Parses JSON bodies: bounded in size and depth, and without the ambiguities that JSON allows."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import orjson

from contract.field_rules import shorten
from kit.errors import MalformedBody, MessageTooLarge

VALUES_MAX: Final = 20_000
"""Maximum number of values in a body. The limits of lists and maps allow fewer in any request; a test compares them."""
DEPTH_MAX: Final = 32
_QUOTES_MAX: Final = 4 * VALUES_MAX
"""A value has at most a name and a text, with two quotes each."""
SMALL_BYTES: Final = 2 * VALUES_MAX
"""Bodies up to this size have too few values to need `count_names`."""
_PIECE_BYTES: Final = 64 * 1024


async def count_names(body: bytes) -> int:
    """Return the number of field names in a large body, for `parse`.

    Raises MessageTooLarge if the body has more than VALUES_MAX values. Parsed, 4 MiB of small values would take 200 MB
    and block the process for a quarter of a second. Between the pieces of the body other tasks run.
    """
    names = values = quotes = 0
    in_text, escape = False, b""
    for start in range(0, len(body), _PIECE_BYTES):
        piece = (escape + body[start : start + _PIECE_BYTES]).replace(rb"\\", b"")
        escape = b"\\" if piece.endswith(b"\\") else b""  # it belongs to the next piece
        parts = piece.removesuffix(b"\\").replace(rb"\"", b"").split(b'"')
        between = b"".join(parts[in_text::2])  # what is outside of texts
        names += between.count(b":")
        values += between.count(b",") + between.count(b"[") + between.count(b"{")
        quotes += len(parts) - 1
        in_text ^= len(parts) % 2 == 0
        if values > VALUES_MAX or quotes > _QUOTES_MAX:
            raise MessageTooLarge(f"The body may have {VALUES_MAX} values at most.", values_max=VALUES_MAX)
        await asyncio.sleep(0)
    return names


def parse(body: bytes, names: int | None = None) -> Any:
    """Return the JSON value; `names` is the result of `count_names`, for a body above SMALL_BYTES.

    Raises MalformedBody, also if an object has a name twice, as one value would be lost.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"The body is not JSON: {error}.") from None
    if names is not None:
        _check_depth(value)
        if names != _count_names(value):
            raise MalformedBody("The body has a field twice in one object.")
        return value
    if body.count(b"{") + body.count(b"[") > DEPTH_MAX:
        _check_depth(value)
    if body.count(b":") != _count_names(value):  # texts contain colons too, so only then is the slow parser needed
        json.loads(body, object_pairs_hook=_reject_duplicates, parse_int=str)
    return value


def _check_depth(value: object) -> None:
    if _depth(value) > DEPTH_MAX:
        raise MalformedBody(f"The body is nested deeper than {DEPTH_MAX} levels.")


def _depth(value: object) -> int:
    """Return the nesting depth of objects and arrays."""
    level, depth = [value], -1
    while level:
        depth += 1
        level = [inner for outer in level for inner in _items(outer)]
    return depth


def _items(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _count_names(value: object) -> int:
    """Return the number of field names in a JSON value."""
    if isinstance(value, dict):
        return len(value) + sum(map(_count_names, value.values()))
    return sum(map(_count_names, value)) if isinstance(value, list) else 0


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        duplicate = next(name for name in counts if counts[name] > 1)
        raise MalformedBody(f"The body has the field {shorten(duplicate)} twice in one object.")
    return fields
