"""Limits of lists and maps in a serialized message, checked before it is parsed.

An empty item takes two bytes on the wire, but a hundred once it is parsed: a message of the maximum size could take
200 MiB and block the process for a second. A message type without limited lists is not scanned, nor is a small message.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.descriptor import Descriptor

from contract.field_rules import LimitedField, limited_fields, too_many
from kit.errors import InvalidFields, MalformedBody

UNSCANNED_BYTES_MAX: Final = 64 * 1024
"""Messages up to this size are not scanned."""
_FIELDS_MAX: Final = 20_000
"""Maximum number of fields that are scanned: those of the message and of inner messages with lists of their own."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES: Final = {_FIXED64: 8, _FIXED32: 4}


def check_counts(descriptor: Descriptor, payload: bytes) -> None:
    """Raise InvalidFields if a list or map has more items than its limit, MalformedBody if the bytes are no message."""
    if len(payload) <= UNSCANNED_BYTES_MAX:
        return
    fields = limited_fields(descriptor)
    if not fields:
        return
    try:
        _Scan(payload).message(fields, 0, len(payload), ())
    except IndexError:
        raise MalformedBody(f"The bytes are not a valid {descriptor.full_name}.") from None


class _Scan:
    """Reads the keys and lengths of the fields of a message."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._fields_left = _FIELDS_MAX

    def message(self, fields: Mapping[int, LimitedField], start: int, end: int, path: Sequence[Any]) -> None:
        """Scan one message. Raises InvalidFields, MalformedBody, or IndexError where the bytes end early."""
        counts = dict.fromkeys(fields, 0)
        at = start
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise MalformedBody(f"The message has more than {_FIELDS_MAX} fields.")
            key, at = self._varint(at)
            number, wire_type = key >> 3, key & 7
            at, value = self._skip(wire_type, at, end)
            field = fields.get(number)
            if field is None:
                continue
            index = counts[number]
            counts[number] = index + 1
            if field.repeated and field.limit and index >= field.limit[0]:
                raise InvalidFields([too_many(".".join((*path, field.name)), field.limit)])
            if field.inner and wire_type == _BYTES:
                name = f"{field.name}[{index}]" if field.repeated else field.name
                self.message(field.inner, value, at, (*path, name))

    def _skip(self, wire_type: int, at: int, end: int) -> tuple[int, int]:
        """Return the end of a value and the start of its bytes."""
        if wire_type == _BYTES:
            length, start = self._varint(at)
            at = start + length
        elif wire_type == _VARINT:
            start = at
            _, at = self._varint(at)
        elif wire_type in _FIXED_BYTES:
            start, at = at, at + _FIXED_BYTES[wire_type]
        else:
            raise IndexError
        if at > end:
            raise IndexError
        return at, start

    def _varint(self, at: int) -> tuple[int, int]:
        byte = self._payload[at]
        if byte < 0x80:  # noqa: PLR2004 - the bit that marks a further byte
            return byte, at + 1
        value, shift = byte & 0x7F, 7
        while True:
            at += 1
            byte = self._payload[at]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:  # noqa: PLR2004 - as above
                return value, at + 1
            shift += 7
            if shift > 63:  # noqa: PLR2004 - a varint has 64 bits at most
                raise IndexError
