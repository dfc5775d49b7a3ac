"""JSON and messages: an encoder and a decoder for each message type, made once from its descriptor.

Encoders are generated Python source, since that is what costs least for each field. Decoders are a table of
setters by field name, so that an unknown field is found for free. Names are the protos' own.
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

from contract import acceptance
from kit.errors import Violation

Encoder = Callable[[Any], dict[str, Any]]
Decoder = Callable[[Any, Any, str, list[Violation]], None]
"""Fills a message from a JSON value found at a path, and adds to the list what is not acceptable."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_MIN, _SECONDS_MAX = -62_135_596_800, 253_402_300_799
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_LONG = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}
_WHOLE = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32, *_LONG}
_REAL = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}


def dumps(value: object) -> bytes:
    """What an encoder gave, as JSON."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)


# Encoding

_functions: dict[str, Any] = {}
"""The namespace of the generated functions: they call one another by name, also in circles."""


def encoder(descriptor: Descriptor) -> Encoder:
    """The function that gives a message of this type as JSON values; times are left to `dumps`."""
    return _functions[_encoder_name(descriptor)]  # type: ignore[no-any-return]


def _encoder_name(descriptor: Descriptor) -> str:
    if descriptor.full_name in _WELL_KNOWN_OUT:
        return _WELL_KNOWN_OUT[descriptor.full_name]
    name = "encode_" + descriptor.full_name.replace(".", "_")
    if name not in _functions:
        _functions[name] = None  # from here on it is being made: circles end here
        source = "\n".join([f"def {name}(m):", "    h = m.HasField", *_lines(descriptor), "    return d"])
        exec(source, _functions)  # noqa: S102 - made from our own descriptors
    return name


def _lines(descriptor: Descriptor) -> Iterator[str]:
    fields = list(descriptor.fields)
    at_once = list(takewhile(lambda field: not field.has_presence, fields))
    yield f"    d = {{{', '.join(f'{field.name!r}: {_whole_field(field)}' for field in at_once)}}}"
    for field in fields[len(at_once) :]:
        presence = f"if h({field.name!r}): " if field.has_presence else ""
        yield f"    {presence}d[{field.name!r}] = {_whole_field(field)}"


def _whole_field(field: FieldDescriptor) -> str:
    """The expression for a field of `m`."""
    value = f"m.{field.name}"
    if not field.is_repeated:
        return _expression(field, value)
    entry = entry_of(field)
    if entry:
        key, item = entry
        of_key = "k" if key.cpp_type == FieldDescriptor.CPPTYPE_STRING else "dumps(k).decode()"
        of_item = _expression(item, "v")
        if (of_key, of_item) == ("k", "v"):
            return f"plain({value})"
        return f"{{{of_key}: {of_item} for k, v in {value}.items()}}"
    each = _expression(field, "v")
    if field.message_type is not None and _contains_itself(field.message_type):
        # A tree may be large: what is JSON already is not kept as thousands of objects.
        each = f"fragment(json({each}))"
    return f"{value}[:]" if each == "v" else f"[{each} for v in {value}]"


def _contains_itself(descriptor: Descriptor) -> bool:
    """Whether messages of this type nest to any depth."""
    return any(field.message_type == descriptor for field in descriptor.fields)


def _expression(field: FieldDescriptor, value: str) -> str:
    """The expression for one value of the field's type."""
    if field.message_type is not None:
        return f"{_encoder_name(field.message_type)}({value})"
    if field.enum_type is not None:
        names = "names_" + field.enum_type.full_name.replace(".", "_")
        _functions[names] = {number.number: number.name for number in field.enum_type.values}.get
        return f"{names}(n := {value}, n)"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return f"base64({value})"
    if field.cpp_type in _REAL:
        return f"real({value})"
    return f"str({value})" if field.cpp_type in _LONG else value


def entry_of(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor] | None:
    """Key and value of a map; None where the field is none."""
    message = field.message_type
    if message is None or not message.GetOptions().map_entry:
        return None
    return message.fields_by_name["key"], message.fields_by_name["value"]


def _time_out(time: Timestamp) -> datetime | str:
    if time.nanos % 1000:
        return f"{(_EPOCH + timedelta(0, time.seconds)).isoformat()[:19]}.{time.nanos:09}Z"
    return _EPOCH + timedelta(0, time.seconds, time.nanos // 1000)


def _real_out(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


_WELL_KNOWN_OUT = {
    "google.protobuf.Timestamp": "time",
    "google.protobuf.Duration": "duration",
    "google.protobuf.FieldMask": "mask",
    **{f"google.protobuf.{name}": "generic" for name in ("Any", "Struct", "Value", "ListValue")},
}
_functions |= {
    "time": _time_out,
    "duration": Duration.ToJsonString,
    "mask": lambda mask: ",".join(mask.paths),
    "generic": json_format.MessageToDict,
    "base64": lambda value: base64.b64encode(value).decode(),
    "real": _real_out,
    "dumps": orjson.dumps,
    "fragment": orjson.Fragment,
    "json": dumps,
    "plain": lambda values: {key: values[key] for key in values} if values else {},  # half the cost of items()
}


# Decoding


@cache
def decoder(descriptor: Descriptor) -> Decoder:
    """The function that fills a message of this type."""
    special = _WELL_KNOWN_IN.get(descriptor.full_name)
    if special:
        return special
    setters = {field.name: _setter(field) for field in descriptor.fields}
    allowed = ", ".join(setters) or "none"

    def decode(message: Message, value: object, path: str, bad: list[Violation]) -> None:
        if not isinstance(value, dict):
            bad.append(Violation(path, f"must be an object with the fields {allowed}", "type.object"))
            return
        for name, item in value.items():
            at = f"{path}.{name}" if path else name
            setter = setters.get(name)
            if setter is None:
                bad.append(Violation(at, f"is not known here; known are: {allowed}", "field.unknown"))
            elif item is not None:  # null is "not set"
                setter(message, item, at, bad)

    return decode


def _setter(field: FieldDescriptor) -> Decoder:
    entry = entry_of(field)
    if entry:
        return _map_setter(field.name, *entry)
    one = _one_of_message(field) if field.message_type else _one_of_value(field)
    if field.is_repeated:
        return _list_setter(one)
    oneof = field.containing_oneof
    if oneof is None or len(oneof.fields) == 1:
        return one

    def exclusive(message: Message, value: object, path: str, bad: list[Violation]) -> None:
        other = message.WhichOneof(oneof.name)
        if other:
            bad.append(Violation(path, f"does not go together with {other}", "oneof"))
        else:
            one(message, value, path, bad)

    return exclusive


def _one_of_message(field: FieldDescriptor) -> Decoder:
    """Sets a message field, or adds a message to a repeated one."""
    name, repeated, inner = field.name, field.is_repeated, field.message_type

    def set_message(message: Message, value: object, path: str, bad: list[Violation]) -> None:
        place = getattr(message, name)
        if repeated:
            place = place.add()
        else:
            place.SetInParent()
        decoder(inner)(place, value, path, bad)

    return set_message


def _one_of_value(field: FieldDescriptor) -> Decoder:
    """Sets a field that is no message, or adds a value to a repeated one."""
    name, repeated, parse = field.name, field.is_repeated, _parser(field)

    def set_value(message: Message, value: object, path: str, bad: list[Violation]) -> None:
        try:
            if repeated:
                getattr(message, name).append(parse(value))
            else:
                setattr(message, name, parse(value))
        except ValueError as error:
            bad.append(Violation(path, _told(error), f"type.{_type_name(field)}"))

    return set_value


def _list_setter(one: Decoder) -> Decoder:
    def set_list(message: Message, value: object, path: str, bad: list[Violation]) -> None:
        if not isinstance(value, list):
            bad.append(Violation(path, "must be an array", "type.array"))
            return
        for index, item in enumerate(value):
            one(message, item, f"{path}[{index}]", bad)

    return set_list


def _map_setter(field_name: str, key: FieldDescriptor, item: FieldDescriptor) -> Decoder:
    parse_key = _parser(key)
    is_bool = key.type == FieldDescriptor.TYPE_BOOL

    def set_map(message: Message, value: object, path: str, bad: list[Violation]) -> None:
        if not isinstance(value, dict):
            bad.append(Violation(path, "must be an object", "type.object"))
            return
        target = getattr(message, field_name)
        for name, given in value.items():
            at = f'{path}["{name}"]'
            try:
                place = parse_key(boolean(name) if is_bool else name)
                if item.message_type:
                    decoder(item.message_type)(target[place], given, at, bad)
                else:
                    target[place] = _parser(item)(given)
            except ValueError as error:
                bad.append(Violation(at, _told(error), f"type.{_type_name(item)}"))

    return set_map


def boolean(text: str) -> object:
    """The truth value that a text in a URL stands for; the text itself where it is none."""
    return {"true": True, "false": False}.get(text, text)


@cache
def _parser(field: FieldDescriptor) -> Callable[[Any], Any]:
    """The function that takes a JSON value for this type; it raises ValueError saying what is wanted."""
    if field.enum_type is not None:
        return _enum_parser(field, field.enum_type)
    if field.type == FieldDescriptor.TYPE_STRING:
        return _exact(str, f"must be a string{acceptance.such_as(field)}")
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _exact(bool, "must be true or false")
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64decode(_exact(str, "must be a base64 string")(value), validate=True)
    return _integer if field.cpp_type in _WHOLE else _real


def _exact(kind: type, wanted: str) -> Callable[[Any], Any]:
    def parse(value: object) -> object:
        if type(value) is kind:
            return value
        raise ValueError(wanted)

    return parse


def _enum_parser(field: FieldDescriptor, enum: EnumDescriptor) -> Callable[[Any], Any]:
    numbers, wanted = {value.name: value.number for value in enum.values}, acceptance.choices(field)

    def parse(value: object) -> int:
        number = numbers.get(value) if isinstance(value, str) else value
        if type(number) is int:
            return number
        raise ValueError(wanted)

    return parse


def _integer(value: object) -> int:
    if type(value) is int:
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    raise ValueError("must be an integer")


def _real(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a number")  # noqa: TRY004 - said to the caller like the others
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise ValueError("must be a number") from None


def _told(error: ValueError) -> str:
    """What is wrong, in our words where protobuf or base64 found it."""
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


def _time_in(time: Timestamp, value: object, path: str, bad: list[Violation]) -> None:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    try:
        seconds = (datetime.fromisoformat(match[1] + match[3]) - _EPOCH) // timedelta(seconds=1) if match else None
    except ValueError:
        seconds = None
    if match and seconds is not None and _SECONDS_MIN <= seconds <= _SECONDS_MAX:
        time.seconds, time.nanos = seconds, int((match[2] or "0").ljust(9, "0"))
    else:
        bad.append(Violation(path, 'must be a time such as "2026-10-01T12:00:00Z"', "type.time"))


def _duration_in(duration: Duration, value: object, path: str, bad: list[Violation]) -> None:
    try:
        duration.FromJsonString(str(value))
    except ValueError:
        bad.append(Violation(path, 'must be a duration such as "1.5s"', "type.duration"))


def _mask_in(mask: FieldMask, value: object, path: str, bad: list[Violation]) -> None:
    if isinstance(value, str):
        mask.paths.extend(name.strip() for name in value.split(",") if name.strip())
    else:
        bad.append(Violation(path, 'must be names of fields, such as "name,category"', "type.mask"))


def _generic_in(message: Message, value: Any, path: str, bad: list[Violation]) -> None:
    try:
        json_format.ParseDict(value, message)
    except (json_format.ParseError, ValueError, RecursionError):
        bad.append(Violation(path, f"is no {message.DESCRIPTOR.name}", "type.value"))


_WELL_KNOWN_IN: dict[str, Decoder] = {
    "google.protobuf.Timestamp": _time_in,
    "google.protobuf.Duration": _duration_in,
    "google.protobuf.FieldMask": _mask_in,
    **{f"google.protobuf.{name}": _generic_in for name in ("Any", "Struct", "Value", "ListValue")},
}
