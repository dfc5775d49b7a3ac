"""Whether a request surely keeps the rules of its proto, by looks that are made of them once.

The validator tells everything about a request that breaks a rule. That one keeps them all, as nearly every request
does, is found out here at a fraction of its price. Only rules that are understood without a doubt are: where a message
has any other, or a look is not pleased, the validator decides.
"""

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, Final

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

Look = Callable[[Any], object]
"""Whether a value, or a message, is fine: true in the sense of Python."""

_UNDERSTOOD: Final = {
    "": {"required", "cel", "string", "int32", "enum", "repeated"},
    "string": {"pattern", "min_len", "max_len", "example"},
    "int32": {"gte", "lte", "example"},
    "enum": {"defined_only", "not_in", "in"},
    "repeated": {"min_items", "max_items", "items"},
}
_PLAIN_PATTERN: Final = re.compile(r"(?:\\[.\-/+]|\[(?!:)|[^\\$?\[]|(?<!\()\?)*\$?")
"""Patterns that mean the same to every engine: no classes by letter or name, no flags, `$` at the end only."""
_MATCHES: Final = re.compile(r"this(?:\.([a-z_]+))?\.matches\('([^']*)'\)")


class _Unknown(Exception):
    """A rule that is not understood here."""


@cache
def look_at(descriptor: Descriptor) -> Look | None:
    """A look that is pleased only with messages that keep all their rules; None where the validator must decide."""
    if descriptor.GetOptions().HasExtension(validate_pb2.message):
        return None
    try:
        if any(oneof.GetOptions().HasExtension(validate_pb2.oneof) for oneof in descriptor.oneofs):
            return None
        asked = [(field, list(_looks(field))) for field in descriptor.fields]
    except _Unknown:
        return None
    plain = [(field.name, look) for field, looks in asked if not field.has_presence for look in looks]
    there = [_look_if_there(field, looks) for field, looks in asked if field.has_presence]
    return partial(
        _pleased, _values_of([name for name, _ in plain]), [look for _, look in plain], list(filter(None, there))
    )


def _pleased(
    values: Callable[[Message], Sequence[object]], looks: Sequence[Look], others: Sequence[Look], message: Message
) -> bool:
    for look, value in zip(looks, values(message), strict=True):
        if not look(value):
            return False
    for look in others:  # noqa: SIM110 - a generator costs as much again
        if not look(message):
            return False
    return True


def _values_of(names: Sequence[str]) -> Callable[[Message], Sequence[object]]:
    """Reads these fields of a message, all at once."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda message: [getattr(message, name) for name in names]


def _look_if_there(field: FieldDescriptor, looks: Sequence[Look]) -> Look | None:
    """A look at a field that says whether it was given."""
    name, required = field.name, rules_of(field).required
    if not looks and not required:
        return None

    def pleased(message: Message) -> bool:
        if not message.HasField(name):
            return not required
        value = getattr(message, name)
        for look in looks:  # noqa: SIM110 - as above
            if not look(value):
                return False
        return True

    return pleased


def _looks(field: FieldDescriptor) -> Iterator[Look]:
    rules = rules_of(field)
    if rules.required and not field.has_presence:
        yield bool
    yield from (_items_looks if field.is_repeated else _value_looks)(field, rules)


def rules_of(field: Any) -> validate_pb2.FieldRules:
    """What the proto asks of a field; of whichever class its descriptor is."""
    rules: validate_pb2.FieldRules = field.GetOptions().Extensions[validate_pb2.field]
    return rules


def refused_numbers(field: Any) -> set[int]:
    """The values of an enum that a request may not give."""
    rules = rules_of(field)
    asked = rules.repeated.items.enum if field.is_repeated else rules.enum
    allowed = getattr(asked, "in")  # a word of Python's
    return set(field.enum_type.values_by_number) - set(allowed) if allowed else set(asked.not_in)


def choices(field: Any) -> str:
    """What a request may give where an enum stands, as a refusal tells it."""
    refused = refused_numbers(field) | {0}
    return f"must be one of {', '.join(value.name for value in field.enum_type.values if value.number not in refused)}"


def such_as(field: Any) -> str:
    """An example of a text, as a refusal tells it; empty where the proto has none."""
    rules = rules_of(field)
    examples = (rules.repeated.items.string if field.is_repeated else rules.string).example
    return f' such as "{examples[0]}"' if examples else ""


def _value_looks(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Iterator[Look]:
    """What is asked of a value of the field, but for whether it must be given."""
    _check_understood(rules, "")
    nested = field.message_type
    if nested and nested.full_name.startswith("billing."):
        look = look_at(nested)
        if look is None:
            raise _Unknown
        yield look
    yield from map(_matches, rules.cel)
    kind = rules.WhichOneof("type")
    if kind == "string":
        yield from _text_looks(rules.string)
    elif kind == "int32":
        yield from _number_looks(rules.int32)
    elif kind == "enum":
        yield _choice_look(field, rules.enum)
    elif kind:
        raise _Unknown


def _check_understood(rules: Any, kind: str) -> None:
    if {field.name for field, _ in rules.ListFields()} - _UNDERSTOOD[kind]:
        raise _Unknown


def _items_looks(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Iterator[Look]:
    _check_understood(rules, "")
    if rules.cel or rules.WhichOneof("type") not in {None, "repeated"}:
        raise _Unknown
    if field.message_type and field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].message_type:
            raise _Unknown
        return
    asked = rules.repeated
    _check_understood(asked, "repeated")
    least, most = asked.min_items, asked.max_items if asked.HasField("max_items") else None
    if least or most is not None:
        yield lambda values: least <= len(values) and (most is None or len(values) <= most)
    looks = list(_value_looks(field, asked.items))
    if asked.items.required:
        raise _Unknown
    if looks:
        yield partial(_each_pleases, looks)


def _each_pleases(looks: Sequence[Look], values: Sequence[object]) -> bool:
    for value in values:
        for look in looks:
            if not look(value):
                return False
    return True


def _text_looks(asked: validate_pb2.StringRules) -> Iterator[Look]:
    _check_understood(asked, "string")
    if asked.HasField("pattern"):
        yield _pattern_look(asked.pattern)
    least, most = asked.min_len, asked.max_len if asked.HasField("max_len") else None
    if least:
        yield lambda text: len(text) >= least
    if most is not None:
        yield lambda text: len(text) <= most


def _pattern_look(pattern: str) -> Look:
    if not _PLAIN_PATTERN.fullmatch(pattern):
        raise _Unknown
    closed = re.sub(r"\$$", r"\\Z", pattern)  # a `$` of Python also stands before a last line feed
    return re.compile(closed, re.ASCII).search


def _matches(rule: validate_pb2.Rule) -> Look:
    """The one form of expression that is understood: a text matches a pattern."""
    found = _MATCHES.fullmatch(rule.expression)
    if not found:
        raise _Unknown
    name, look = found[1], _pattern_look(found[2])
    return (lambda value: look(getattr(value, name))) if name else look


def _number_looks(asked: validate_pb2.Int32Rules) -> Iterator[Look]:
    _check_understood(asked, "int32")
    if asked.HasField("gte"):
        yield partial(operator.le, asked.gte)
    if asked.HasField("lte"):
        yield partial(operator.ge, asked.lte)


def _choice_look(field: FieldDescriptor, asked: validate_pb2.EnumRules) -> Look:
    _check_understood(asked, "enum")
    if field.enum_type is None or not (asked.defined_only or getattr(asked, "in")):
        raise _Unknown
    return frozenset(set(field.enum_type.values_by_number) - refused_numbers(field)).__contains__
