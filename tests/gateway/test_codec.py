"""The codec gives the same JSON as protobuf's json_format, and reads it back, for every message of the contract."""

import base64
import re
from typing import Any

import orjson
import pytest
from google.protobuf import descriptor_pb2, json_format, struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import codec, descriptors
from contract.methods import descriptor_set
from contract.violations import Violations

FIELD = descriptor_pb2.FieldDescriptorProto


def messages_of_the_contract() -> list[Descriptor]:
    files = [file for file in descriptor_set().file if file.package.startswith("billing.")]
    names = [f"{file.package}.{message.name}" for file in files for message in file.message_type]
    return [descriptors.pool().FindMessageTypeByName(name) for name in names]


def message_with_all_types() -> Descriptor:
    """Return a message type with a field of each type that protos have, so that future contracts are covered too."""
    file = descriptor_pb2.FileDescriptorProto(name="kinds.proto", package="kinds", syntax="proto3")
    well_known = ("timestamp", "duration", "field_mask", "struct")
    pool = DescriptorPool()
    for name in well_known:
        path = f"google/protobuf/{name}.proto"
        file.dependency.append(path)
        dependency = next((file for file in descriptor_set().file if file.name == path), None)
        if dependency is None:
            dependency = descriptor_pb2.FileDescriptorProto()
            struct_pb2.DESCRIPTOR.CopyToProto(dependency)
        pool.Add(dependency)
    file.enum_type.add(name="Colour").value.extend(
        [descriptor_pb2.EnumValueDescriptorProto(name=name, number=i) for i, name in enumerate(("NONE", "RED", "BLUE"))]
    )
    message = file.message_type.add(name="Kinds")
    scalars = ["double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "bool", "string", "bytes"]
    number = iter(range(1, 100))
    for scalar in scalars:
        kind = getattr(FIELD, f"TYPE_{scalar.upper()}")
        message.field.add(name=f"a_{scalar}", number=next(number), type=kind, label=FIELD.LABEL_OPTIONAL)
        message.field.add(name=f"many_{scalar}", number=next(number), type=kind, label=FIELD.LABEL_REPEATED)
    for label in (FIELD.LABEL_OPTIONAL, FIELD.LABEL_REPEATED):
        for name, kind in (
            ("colour", ".kinds.Colour"), ("kinds", ".kinds.Kinds"), ("time", ".google.protobuf.Timestamp"),
            ("duration", ".google.protobuf.Duration"), ("struct", ".google.protobuf.Struct"),
        ):  # fmt: skip
            type_ = FIELD.TYPE_ENUM if name == "colour" else FIELD.TYPE_MESSAGE
            message.field.add(name=f"{name}_{label}", number=next(number), type=type_, type_name=kind, label=label)
    for key in ("string", "int32", "int64", "bool"):
        for value in ("string", "kinds"):
            entry = message.nested_type.add(name=f"{key}{value}Entry".capitalize())
            entry.options.map_entry = True
            entry.field.add(
                name="key", number=1, type=getattr(FIELD, f"TYPE_{key.upper()}"), label=FIELD.LABEL_OPTIONAL
            )
            is_text = value == "string"
            entry.field.add(
                name="value", number=2, type=FIELD.TYPE_STRING if is_text else FIELD.TYPE_MESSAGE,
                type_name=None if is_text else ".kinds.Kinds", label=FIELD.LABEL_OPTIONAL,
            )  # fmt: skip
            message.field.add(
                name=f"map_{key}_{value}", number=next(number), type=FIELD.TYPE_MESSAGE, label=FIELD.LABEL_REPEATED,
                type_name=f".kinds.Kinds.{entry.name}",
            )  # fmt: skip
    message.oneof_decl.add(name="choice")
    for name in ("this", "that"):
        message.field.add(
            name=name, number=next(number), type=FIELD.TYPE_STRING, label=FIELD.LABEL_OPTIONAL, oneof_index=0
        )
    pool.Add(file)
    return pool.FindMessageTypeByName("kinds.Kinds")


ALL_TYPES = message_with_all_types()
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1), FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1), FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}  # fmt: skip
_TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Return a strategy of Python values for a field of this type."""
    if field.message_type is not None:
        return messages(field.message_type, depth + 1)
    if field.enum_type is not None:
        return st.sampled_from([*(value.number for value in field.enum_type.values), 77])
    if field.cpp_type in _INTEGERS:
        return st.integers(*_INTEGERS[field.cpp_type])
    if field.type == FieldDescriptor.TYPE_STRING:
        return _TEXTS
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=8)
    return st.booleans() if field.type == FieldDescriptor.TYPE_BOOL else st.floats(width=32)


def _time(draw: st.DrawFn, message: Any) -> None:
    message.seconds, message.nanos = draw(st.integers(-62135596800, 253402300799)), draw(st.integers(0, 999_999_999))


def _duration(draw: st.DrawFn, message: Any) -> None:
    message.seconds = draw(st.integers(-(10**9), 10**9))


def _mask(draw: st.DrawFn, message: Any) -> None:
    message.paths.extend(draw(st.lists(st.from_regex("[a-z]{1,5}", fullmatch=True), max_size=3)))


def _struct(draw: st.DrawFn, message: Any) -> None:
    message.update(draw(st.dictionaries(_TEXTS, st.booleans(), max_size=2)))


_WELL_KNOWN = {"Timestamp": _time, "Duration": _duration, "FieldMask": _mask, "Struct": _struct}


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 0) -> Any:
    """Return a strategy of messages with some of their fields set."""
    message = GetMessageClass(descriptor)()
    if descriptor.full_name.startswith("google.protobuf."):
        _WELL_KNOWN[descriptor.name](draw, message)
    elif descriptor.fields:
        for field in draw(st.lists(st.sampled_from(list(descriptor.fields)), unique=True, max_size=6)):
            if depth < 2 or field.message_type is None:
                _fill(draw, message, field, depth)
    return message


def _fill(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    target, entry = getattr(message, field.name), codec.map_entry(field)
    if entry:
        for name, item in draw(st.dictionaries(values(entry[0], depth), values(entry[1], depth), max_size=2)).items():
            if entry[1].message_type:
                target[name].CopyFrom(item)
            else:
                target[name] = item
    elif field.is_repeated:
        target.extend(draw(st.lists(values(field, depth), max_size=3)))
    elif field.message_type is not None:
        target.CopyFrom(draw(values(field, depth)))
    else:
        setattr(message, field.name, draw(values(field, depth)))


def _normalized(json: Any) -> Any:
    """Remove the allowed differences: trailing zeros of fractional seconds, and the digits of 32-bit floats."""
    if isinstance(json, dict):
        return {key: _normalized(value) for key, value in json.items()}
    if isinstance(json, list):
        return [_normalized(value) for value in json]
    if isinstance(json, str) and re.fullmatch(r".*T.*:\d\d\.\d+Z", json):
        return json[:-1].rstrip("0").rstrip(".") + "Z"
    return pytest.approx(json, rel=1e-6) if isinstance(json, float) else json


def check_round_trip(message: Any) -> None:
    encoded = orjson.loads(codec.dumps(codec.encoder(message.DESCRIPTOR)(message)))
    expected = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    assert encoded == _normalized(expected) or _normalized(encoded) == _normalized(expected)
    decoded = type(message)()
    violations = Violations()
    codec.decoder(message.DESCRIPTOR)(decoded, encoded, "", violations)
    assert not violations
    assert orjson.loads(codec.dumps(codec.encoder(message.DESCRIPTOR)(decoded))) == encoded  # NaN never equals itself


@pytest.mark.parametrize("descriptor", messages_of_the_contract(), ids=lambda descriptor: descriptor.full_name)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_message_of_the_contract_round_trips(descriptor: Descriptor, data: st.DataObject) -> None:
    check_round_trip(data.draw(messages(descriptor)))


@settings(max_examples=200, deadline=None)
@given(messages(ALL_TYPES))
def test_every_field_type_round_trips(message: Message) -> None:
    check_round_trip(message)


def _violated_rules(value: object) -> dict[str, str]:
    violations = Violations()
    codec.decoder(ALL_TYPES)(GetMessageClass(ALL_TYPES)(), value, "", violations)
    return {violation.field: violation.rule for violation in violations}


def test_each_invalid_value_is_reported_with_its_rule() -> None:
    invalid = {
        "a_double": "x", "a_int32": 1.5, "a_uint32": -1, "a_int64": "9223372036854775808", "a_bool": 1, "a_string": 1,
        "a_bytes": "?", "colour_1": "GREEN", "kinds_1": {"a_bool": "true", "nope": 1}, "time_1": 0, "duration_1": "1m",
        "many_int32": [1, None, True], "kinds_3": [{}, 5], "map_string_string": {"k": 1},
        "map_bool_string": {"yes": "x"},
        "map_int32_kinds": {"1": {"a_string": 2}, "one": {}}, "many_string": "x", "map_int64_string": [],
        "this": "a", "that": "b",
    }  # fmt: skip
    assert _violated_rules(invalid) == {
        "a_double": "type.number", "a_int32": "type.integer", "a_uint32": "type.integer", "a_int64": "type.integer",
        "a_bool": "type.bool", "a_string": "type.string", "a_bytes": "type.bytes", "colour_1": "type.enum",
        "kinds_1.a_bool": "type.bool", "kinds_1.nope": "field.unknown", "time_1": "type.time",
        "duration_1": "type.duration", "many_int32[1]": "type.integer", "many_int32[2]": "type.integer",
        "kinds_3[1]": "type.object", 'map_string_string["k"]': "type.string", 'map_bool_string["yes"]': "type.string",
        'map_int32_kinds["1"].a_string': "type.string", 'map_int32_kinds["one"]': "type.integer",
        "many_string": "type.array", "map_int64_string": "type.object", "that": "oneof",
    }  # fmt: skip


def test_bytes_are_encoded_as_base64() -> None:
    message = GetMessageClass(ALL_TYPES)(a_bytes=b"\xff\x00")
    assert codec.encoder(ALL_TYPES)(message)["a_bytes"] == base64.b64encode(b"\xff\x00").decode()
