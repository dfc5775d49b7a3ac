"""Converts messages to JSON and back: one encoder and one decoder per message type, compiled from its descriptor.

An encoder is generated Python source, which costs least per field. A decoder is a table of setters by field name, which
detects unknown fields without extra work. JSON uses the field names of the protos. Decision 0018 has the comparison
with json_format.
"""

import base64
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import takewhile
from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from contract.field_rules import allowed_values, count_limit, example_suffix, shorten, too_many, unknown
from contract.violations import Violations
from kit.errors import Violation

Encoder = Callable[[Any], dict[str, Any]]
Decoder = Callable[[Any, Any, str, Violations], None]
"""Sets a message from a JSON value; the path names the value in the violations that it appends to the list."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_MIN, _SECONDS_MAX = -62_135_596_800, 253_402_300_799
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_MASK_PATHS_MAX = 100
_LONG = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}
_WHOLE = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32, *_LONG}
_REAL = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}


def dumps(value: object) -> bytes:
    """Serialize the values of an encoder."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)


# Encoding

_functions: dict[str, Any] = {}
"""The namespace of the generated functions: they call each other by name, so recursive messages work."""


def encoder(descriptor: Descriptor) -> Encoder:
    """Return the function that converts a message of this type to JSON values; `dumps` formats the datetimes."""
    return _functions[_encoder_name(descriptor)]  # type: ignore[no-any-return]


def _encoder_name(descriptor: Descriptor) -> str:
    if descriptor.full_name in _WELL_KNOWN_ENCODERS:
        return _WELL_KNOWN_ENCODERS[descriptor.full_name]
    name = "encode_" + descriptor.full_name.replace(".", "_")
    if name not in _functions:
        _functions[name] = None  # marks it as in progress, so that a recursive message ends here
        source = "\n".join([f"def {name}(m):", "    h = m.HasField", *_encoder_lines(descriptor), "    return d"])
        exec(source, _functions)  # noqa: S102 - generated from our own descriptors only
    return name


def _encoder_lines(descriptor: Descriptor) -> Iterator[str]:
    fields = list(descriptor.fields)
    always_present = list(takewhile(lambda field: not field.has_presence, fields))
    yield f"    d = {{{', '.join(f'{field.name!r}: {_field_expression(field)}' for field in always_present)}}}"
    for field in fields[len(always_present) :]:
        condition = f"if h({field.name!r}): " if field.has_presence else ""
        yield f"    {condition}d[{field.name!r}] = {_field_expression(field)}"


def _field_expression(field: FieldDescriptor) -> str:
    """Return the source of the expression for a whole field of `m`."""
    value = f"m.{field.name}"
    if not field.is_repeated:
        return _value_expression(field, value)
    entry = map_entry(field)
    if entry:
        key, item = entry
        key_expression = "k" if key.cpp_type == FieldDescriptor.CPPTYPE_STRING else "dumps(k).decode()"
        item_expression = _value_expression(item, "v")
        if (key_expression, item_expression) == ("k", "v"):
            return f"copy_map({value})"
        return f"{{{key_expression}: {item_expression} for k, v in {value}.items()}}"
    item_expression = _value_expression(field, "v")
    if field.message_type is not None and _is_recursive(field.message_type):
        # A tree may be large; JSON text per node needs less memory than thousands of dicts.
        item_expression = f"fragment(json({item_expression}))"
    return f"{value}[:]" if item_expression == "v" else f"[{item_expression} for v in {value}]"


def _is_recursive(descriptor: Descriptor) -> bool:
    """Return True if a message of this type contains others of the same type."""
    return any(field.message_type == descriptor for field in descriptor.fields)


def _value_expression(field: FieldDescriptor, value: str) -> str:
    """Return the source of the expression for one value of the field's type."""
    if field.message_type is not None:
        return f"{_encoder_name(field.message_type)}({value})"
    if field.enum_type is not None:
        names = "names_" + field.enum_type.full_name.replace(".", "_")
        _functions[names] = {number.number: number.name for number in field.enum_type.values}.get
        return f"{names}(n := {value}, n)"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return f"base64({value})"
    if field.cpp_type in _REAL:
        return f"encode_float({value})"
    return f"str({value})" if field.cpp_type in _LONG else value


def map_entry(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor] | None:
    """Return the key and value fields of a map field; None for other fields."""
    message = field.message_type
    if message is None or not message.GetOptions().map_entry:
        return None
    return message.fields_by_name["key"], message.fields_by_name["value"]


def _encode_time(time: Timestamp) -> datetime | str:
    if time.nanos % 1000:
        return f"{(_EPOCH + timedelta(0, time.seconds)).isoformat()[:19]}.{time.nanos:09}Z"
    return _EPOCH + timedelta(0, time.seconds, time.nanos // 1000)


def _encode_float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


_WELL_KNOWN_ENCODERS = {
    "google.protobuf.Timestamp": "time",
    "google.protobuf.Duration": "duration",
    "google.protobuf.FieldMask": "mask",
    **{f"google.protobuf.{name}": "generic" for name in ("Any", "Struct", "Value", "ListValue")},
}
_functions |= {
    "time": _encode_time,
    "duration": Duration.ToJsonString,
    "mask": lambda mask: ",".join(mask.paths),
    "generic": json_format.MessageToDict,
    "base64": lambda value: base64.b64encode(value).decode(),
    "encode_float": _encode_float,
    "dumps": orjson.dumps,
    "fragment": orjson.Fragment,
    "json": dumps,
    "copy_map": lambda values: {key: values[key] for key in values} if values else {},  # half the cost of items()
}


# Decoding


@cache
def decoder(descriptor: Descriptor) -> Decoder:
    """Return the function that sets a message of this type from a JSON value."""
    special = _WELL_KNOWN_DECODERS.get(descriptor.full_name)
    if special:
        return special
    setters = {field.name: _setter(field) for field in descriptor.fields}
    allowed = ", ".join(setters) or "none"

    def decode(message: Message, value: object, path: str, violations: Violations) -> None:
        if not isinstance(value, dict):
            violations.append(Violation(path, f"must be an object; known are: {allowed}", "type.object"))
            return
        for name, item in value.items():
            setter = setters.get(name)
            if setter is None:
                violations.append(unknown(path, name, "is not a known field", setters))
            elif item is not None:  # null is "not set"
                setter(message, item, f"{path}.{name}" if path else name, violations)

    return decode


def _setter(field: FieldDescriptor) -> Decoder:
    entry = map_entry(field)
    if entry:
        return _map_setter(field.name, *entry, count_limit(field))
    set_one = _message_setter(field) if field.message_type else _value_setter(field)
    if field.is_repeated:
        return _list_setter(set_one, count_limit(field))
    oneof = field.containing_oneof
    if oneof is None or len(oneof.fields) == 1:
        return set_one

    def set_exclusive(message: Message, value: object, path: str, violations: Violations) -> None:
        other = message.WhichOneof(oneof.name)
        if other:
            violations.append(Violation(path, f"can't be set together with {other}", "oneof"))
        else:
            set_one(message, value, path, violations)

    return set_exclusive


def _message_setter(field: FieldDescriptor) -> Decoder:
    """Return the setter of a message field; for a repeated field it appends one message."""
    name, repeated, inner = field.name, field.is_repeated, field.message_type

    def set_message(message: Message, value: object, path: str, violations: Violations) -> None:
        target = getattr(message, name)
        if repeated:
            target = target.add()
        else:
            target.SetInParent()
        decoder(inner)(target, value, path, violations)

    return set_message


def _value_setter(field: FieldDescriptor) -> Decoder:
    """Return the setter of a scalar or enum field; for a repeated field it appends one value."""
    name, repeated, parse = field.name, field.is_repeated, _parser(field)

    def set_value(message: Message, value: object, path: str, violations: Violations) -> None:
        try:
            if repeated:
                getattr(message, name).append(parse(value))
            else:
                setattr(message, name, parse(value))
        except ValueError as error:
            violations.append(Violation(path, _error_text(error), f"type.{_type_name(field)}"))

    return set_value


def _list_setter(set_one: Decoder, limit: tuple[int, str] | None) -> Decoder:
    def set_list(message: Message, value: object, path: str, violations: Violations) -> None:
        if not isinstance(value, list):
            violations.append(Violation(path, "must be an array", "type.array"))
            return
        if limit and len(value) > limit[0]:
            violations.append(too_many(path, limit))
            return
        for index, item in enumerate(value):
            set_one(message, item, f"{path}[{index}]", violations)

    return set_list


def _map_setter(field_name: str, key: FieldDescriptor, item: FieldDescriptor, limit: tuple[int, str] | None) -> Decoder:
    parse_key = _parser(key)
    is_bool = key.type == FieldDescriptor.TYPE_BOOL

    def set_map(message: Message, value: object, path: str, violations: Violations) -> None:
        if not isinstance(value, dict):
            violations.append(Violation(path, "must be an object", "type.object"))
            return
        if limit and len(value) > limit[0]:
            violations.append(too_many(path, limit))
            return
        target = getattr(message, field_name)
        for name, item_value in value.items():
            at = f'{path}["{shorten(name)}"]'
            try:
                map_key = parse_key(parse_bool(name) if is_bool else name)
                if item.message_type:
                    decoder(item.message_type)(target[map_key], item_value, at, violations)
                else:
                    target[map_key] = _parser(item)(item_value)
            except ValueError as error:
                violations.append(Violation(at, _error_text(error), f"type.{_type_name(item)}"))

    return set_map


def parse_bool(text: str) -> object:
    """Return the bool for "true" and "false"; any other text is returned as it is, for the decoder to reject."""
    return {"true": True, "false": False}.get(text, text)


@cache
def _parser(field: FieldDescriptor) -> Callable[[Any], Any]:
    """Return the function that converts a JSON value to this type; it raises ValueError with the error text."""
    if field.enum_type is not None:
        return _enum_parser(field, field.enum_type)
    if field.type == FieldDescriptor.TYPE_STRING:
        return _exact(str, f"must be a string{example_suffix(field)}")
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _exact(bool, "must be true or false")
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64decode(_exact(str, "must be a base64 string")(value), validate=True)
    return _integer if field.cpp_type in _WHOLE else _real


def _exact(kind: type, error_text: str) -> Callable[[Any], Any]:
    def parse(value: object) -> object:
        if type(value) is kind:
            return value
        raise ValueError(error_text)

    return parse


def _enum_parser(field: FieldDescriptor, enum: EnumDescriptor) -> Callable[[Any], Any]:
    numbers, error_text = {value.name: value.number for value in enum.values}, allowed_values(field)

    def parse(value: object) -> int:
        number = numbers.get(value) if isinstance(value, str) else value
        if type(number) is int:
            return number
        raise ValueError(error_text)

    return parse


def _integer(value: object) -> int:
    if type(value) is int:
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    raise ValueError("must be an integer")


def _real(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a number")  # noqa: TRY004 - callers catch ValueError only
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise ValueError("must be a number") from None


def _error_text(error: ValueError) -> str:
    """Return our error text; errors raised by protobuf and base64 are replaced."""
    text = str(error)
    return text if text.startswith("must ") else "must be base64" if "base64" in repr(error) else "is out of range"


def _type_name(field: FieldDescriptor) -> str:
    return "enum" if field.enum_type is not None else _TYPE_NAMES.get(field.type, "integer")


_TYPE_NAMES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_DOUBLE: "number",
    FieldDescriptor.TYPE_FLOAT: "number",
}


def _decode_time(time: Timestamp, value: object, path: str, violations: Violations) -> None:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    try:
        seconds = (datetime.fromisoformat(match[1] + match[3]) - _EPOCH) // timedelta(seconds=1) if match else None
    except ValueError:
        seconds = None
    if match and seconds is not None and _SECONDS_MIN <= seconds <= _SECONDS_MAX:
        time.seconds, time.nanos = seconds, int((match[2] or "0").ljust(9, "0"))
    else:
        violations.append(Violation(path, 'must be a time such as "2026-10-01T12:00:00Z"', "type.time"))


def _decode_duration(duration: Duration, value: object, path: str, violations: Violations) -> None:
    try:
        duration.FromJsonString(str(value))
    except ValueError:
        violations.append(Violation(path, 'must be a duration such as "1.5s"', "type.duration"))


def _decode_mask(mask: FieldMask, value: object, path: str, violations: Violations) -> None:
    if isinstance(value, str) and value.count(",") < _MASK_PATHS_MAX:
        mask.paths.extend(name.strip() for name in value.split(",") if name.strip())
    else:
        problem = f'must be at most {_MASK_PATHS_MAX} field names such as "name,category"'
        violations.append(Violation(path, problem, "type.mask"))


def _decode_generic(message: Message, value: Any, path: str, violations: Violations) -> None:
    try:
        json_format.ParseDict(value, message)
    except (json_format.ParseError, ValueError, RecursionError):
        violations.append(Violation(path, f"must be a {message.DESCRIPTOR.name}", "type.value"))


_WELL_KNOWN_DECODERS: dict[str, Decoder] = {
    "google.protobuf.Timestamp": _decode_time,
    "google.protobuf.Duration": _decode_duration,
    "google.protobuf.FieldMask": _decode_mask,
    **{f"google.protobuf.{name}": _decode_generic for name in ("Any", "Struct", "Value", "ListValue")},
}
