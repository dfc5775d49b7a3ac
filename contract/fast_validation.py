"""Fast path of validation: checks compiled once per message type that prove a request valid.

A request that passes satisfies every rule of its proto. If a message has a rule that is not supported here, or a check
fails, protovalidate decides and produces the violations. Decision 0017 has the measurement that justifies this module.
"""

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, Final

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from contract.field_rules import disallowed_numbers, rules_of

FieldCheck = Callable[[Any], object]
"""Returns a true value if the value of a field satisfies a rule."""
MessageCheck = Callable[[Any], bool]
"""Returns True if a message satisfies all its rules."""

_SUPPORTED_RULES: Final = {
    "": {"required", "cel", "string", "int32", "enum", "repeated"},
    "string": {"pattern", "min_len", "max_len", "example"},
    "int32": {"gte", "lte", "example"},
    "enum": {"defined_only", "not_in", "in"},
    "repeated": {"min_items", "max_items", "items"},
}
"""Supported rules by type; "" is for the rules of any field."""
_PORTABLE_PATTERN: Final = re.compile(r"(?:\\[.\-/+]|\[(?!:)|[^\\$?\[]|(?<!\()\?)*\$?")
"""Patterns with the same meaning in RE2 and Python: no named or escaped character classes, no flags, `$` only last."""
_MATCHES_EXPRESSION: Final = re.compile(r"this(?:\.([a-z_]+))?\.matches\('([^']*)'\)")


class _UnsupportedRule(Exception):
    """The fast path does not support this rule; only protovalidate can evaluate it."""


@cache
def compile_checks(descriptor: Descriptor) -> MessageCheck | None:
    """Return a check that accepts only valid messages of this type; None if only protovalidate can decide."""
    if descriptor.GetOptions().HasExtension(validate_pb2.message):
        return None
    try:
        if any(oneof.GetOptions().HasExtension(validate_pb2.oneof) for oneof in descriptor.oneofs):
            return None
        checks_by_field = [(field, list(_field_checks(field))) for field in descriptor.fields]
    except _UnsupportedRule:
        return None
    implicit = [(field.name, check) for field, checks in checks_by_field if not field.has_presence for check in checks]
    optional = [_presence_check(field, checks) for field, checks in checks_by_field if field.has_presence]
    return partial(
        _is_valid,
        _values_getter([name for name, _ in implicit]),
        [check for _, check in implicit],
        list(filter(None, optional)),
    )


def _is_valid(
    values: Callable[[Message], Sequence[object]],
    value_checks: Sequence[FieldCheck],
    presence_checks: Sequence[MessageCheck],
    message: Message,
) -> bool:
    for check, value in zip(value_checks, values(message), strict=True):
        if not check(value):
            return False
    for presence_check in presence_checks:  # noqa: SIM110 - a generator doubles the cost
        if not presence_check(message):
            return False
    return True


def _values_getter(names: Sequence[str]) -> Callable[[Message], Sequence[object]]:
    """Return a function that reads these fields of a message in one call."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda message: [getattr(message, name) for name in names]


def _presence_check(field: FieldDescriptor, checks: Sequence[FieldCheck]) -> MessageCheck | None:
    """Return the check of a field with presence; None if it has no rules."""
    name, required = field.name, rules_of(field).required
    if not checks and not required:
        return None

    def is_valid(message: Message) -> bool:
        if not message.HasField(name):
            return not required
        value = getattr(message, name)
        for check in checks:  # noqa: SIM110 - as above
            if not check(value):
                return False
        return True

    return is_valid


def _field_checks(field: FieldDescriptor) -> Iterator[FieldCheck]:
    rules = rules_of(field)
    if rules.required and not field.has_presence:
        yield bool
    yield from (_repeated_checks if field.is_repeated else _value_checks)(field, rules)


def _value_checks(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Iterator[FieldCheck]:
    """Yield the checks of one value of the field; `required` is checked elsewhere."""
    _require_supported(rules, "")
    nested = field.message_type
    if nested and nested.full_name.startswith("billing."):
        check = compile_checks(nested)
        if check is None:
            raise _UnsupportedRule
        yield check
    yield from map(_cel_check, rules.cel)
    kind = rules.WhichOneof("type")
    if kind == "string":
        yield from _string_checks(rules.string)
    elif kind == "int32":
        yield from _int32_checks(rules.int32)
    elif kind == "enum":
        yield _enum_check(field, rules.enum)
    elif kind:
        raise _UnsupportedRule


def _require_supported(rules: Any, kind: str) -> None:
    if {field.name for field, _ in rules.ListFields()} - _SUPPORTED_RULES[kind]:
        raise _UnsupportedRule


def _repeated_checks(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Iterator[FieldCheck]:
    _require_supported(rules, "")
    if rules.cel or rules.WhichOneof("type") not in {None, "repeated"}:
        raise _UnsupportedRule
    if field.message_type and field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].message_type:
            raise _UnsupportedRule
        return
    repeated = rules.repeated
    _require_supported(repeated, "repeated")
    minimum, maximum = repeated.min_items, repeated.max_items if repeated.HasField("max_items") else None
    if minimum or maximum is not None:
        yield lambda values: minimum <= len(values) and (maximum is None or len(values) <= maximum)
    checks = list(_value_checks(field, repeated.items))
    if repeated.items.required:
        raise _UnsupportedRule
    if checks:
        yield partial(_all_items_valid, checks)


def _all_items_valid(checks: Sequence[FieldCheck], values: Sequence[object]) -> bool:
    for value in values:
        for check in checks:
            if not check(value):
                return False
    return True


def _string_checks(rules: validate_pb2.StringRules) -> Iterator[FieldCheck]:
    _require_supported(rules, "string")
    if rules.HasField("pattern"):
        yield _pattern_check(rules.pattern)
    minimum, maximum = rules.min_len, rules.max_len if rules.HasField("max_len") else None
    if minimum:
        yield lambda text: len(text) >= minimum
    if maximum is not None:
        yield lambda text: len(text) <= maximum


def _pattern_check(pattern: str) -> FieldCheck:
    if not _PORTABLE_PATTERN.fullmatch(pattern):
        raise _UnsupportedRule
    anchored = re.sub(r"\$$", r"\\Z", pattern)  # Python's `$` also matches before a final line feed, RE2's does not
    return re.compile(anchored, re.ASCII).search


def _cel_check(rule: validate_pb2.Rule) -> FieldCheck:
    """Return the check of the one supported CEL expression, `this.matches('…')` or `this.field.matches('…')`."""
    match = _MATCHES_EXPRESSION.fullmatch(rule.expression)
    if not match:
        raise _UnsupportedRule
    name, check = match[1], _pattern_check(match[2])
    return (lambda value: check(getattr(value, name))) if name else check


def _int32_checks(rules: validate_pb2.Int32Rules) -> Iterator[FieldCheck]:
    _require_supported(rules, "int32")
    if rules.HasField("gte"):
        yield partial(operator.le, rules.gte)
    if rules.HasField("lte"):
        yield partial(operator.ge, rules.lte)


def _enum_check(field: FieldDescriptor, rules: validate_pb2.EnumRules) -> FieldCheck:
    _require_supported(rules, "enum")
    if field.enum_type is None or not (rules.defined_only or getattr(rules, "in")):
        raise _UnsupportedRule
    return frozenset(set(field.enum_type.values_by_number) - disallowed_numbers(field)).__contains__
