"""The `buf.validate` rules of a field, and the texts that error messages derive from them."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, NamedTuple

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor

from kit.errors import Violation

_NAME_SHOWN_MAX = 100
UNKNOWN = "field.unknown"
"""The rule that an unknown field violates."""


def rules_of(field: Any) -> validate_pb2.FieldRules:
    """Return the rules of a field descriptor, of whichever class it is."""
    rules: validate_pb2.FieldRules = field.GetOptions().Extensions[validate_pb2.field]
    return rules


def disallowed_numbers(field: Any) -> set[int]:
    """Return the values of an enum field that a request must not contain."""
    rules = rules_of(field)
    enum_rules = rules.repeated.items.enum if field.is_repeated else rules.enum
    allowed = getattr(enum_rules, "in")  # `in` is a keyword of Python
    return set(field.enum_type.values_by_number) - set(allowed) if allowed else set(enum_rules.not_in)


def allowed_values(field: Any) -> str:
    """Return the error text of an enum field: "must be one of A, B"."""
    hidden = disallowed_numbers(field) | {0}
    return f"must be one of {', '.join(value.name for value in field.enum_type.values if value.number not in hidden)}"


def count_limit(field: Any) -> tuple[int, str] | None:
    """Return the maximum number of items of a list or entries of a map, with the id of the rule; None without one."""
    rules = rules_of(field)
    if rules.repeated.HasField("max_items"):
        return rules.repeated.max_items, "repeated.max_items"
    if rules.map.HasField("max_pairs"):
        return rules.map.max_pairs, "map.max_pairs"
    return None


class LimitedField(NamedTuple):
    """A field that is a list or map with a limit, or that has such fields in its messages."""

    name: str
    limit: tuple[int, str] | None
    repeated: bool
    inner: "Mapping[int, LimitedField]"


@cache
def limited_fields(descriptor: Descriptor) -> Mapping[int, LimitedField]:
    """Return the limited fields of a message type by their numbers."""
    fields = {}
    for field in descriptor.fields:
        nested, limit = field.message_type, count_limit(field)
        inner = limited_fields(nested) if nested and nested.full_name.startswith("billing.") else {}
        if limit or inner:
            fields[field.number] = LimitedField(field.name, limit, field.is_repeated, inner)
    return fields


def too_many(path: str, limit: tuple[int, str]) -> Violation:
    """Return the violation of a list or map with more items than its limit."""
    return Violation(path, f"must have at most {limit[0]} items", limit[1])


def example_suffix(field: Any) -> str:
    """Return ' such as "EUR"' with the example from the proto of a string field, or "" if it has none."""
    rules = rules_of(field)
    examples = (rules.repeated.items.string if field.is_repeated else rules.string).example
    return f' such as "{examples[0]}"' if examples else ""


def shorten(name: str) -> str:
    """Return a name that the caller chose, cut to the length at which errors show it."""
    return name if len(name) <= _NAME_SHOWN_MAX else f"{name[:_NAME_SHOWN_MAX]}…"


def unknown(path: str, name: str, problem: str, known: Iterable[str]) -> Violation:
    """Return the violation of an unknown field or parameter; its text lists the known names, the nearest one first.

    `path` is that of the message around it; empty for the request itself.
    """
    names, name = list(known), shorten(name)
    words = set(name.split("_"))
    near = get_close_matches(name, names, n=1) or [each for each in names if set(each.split("_")) < words]
    suggestion = f"; did you mean {near[0]}?" if near else ";"
    path = f"{path}.{name}" if path else name
    return Violation(path, f"{problem}{suggestion} known are: {', '.join(names) or 'none'}", UNKNOWN)
