"""Validates requests by the `buf.validate` rules of their protos and the conventions of the contract.

The conventions cover what no pattern can: an amount of Money has at most the digits of its currency, a `*_date` is a
day of the calendar, `currency_code`, `country_code` and `time_zone` exist, and no text contains a NUL character, which
PostgreSQL can't store. Up to 50 invalid fields are reported at once. The limits of lists and maps are checked first:
the items of one that is too long are not visited.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import cache, lru_cache, partial
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, Any
from zoneinfo import available_timezones

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from contract import fast_validation
from contract.field_rules import UNKNOWN, LimitedField, allowed_values, example_suffix, limited_fields, too_many
from kit import ids, money
from kit.errors import VIOLATIONS_MAX, InvalidFields, Violation

if TYPE_CHECKING:
    import protovalidate

_ID_PATTERN = re.compile(r"\^\(?([a-z]{3})_\[0-9a-f\]")
_YEAR_MIN, _YEAR_MAX = 1990, 2200
"""Wide enough for any contract in force. Earlier dates are typos; far later, time zone data and periods fail."""
_YEARS = f"from the year {_YEAR_MIN} to {_YEAR_MAX - 1}"
_SECONDS_MIN, _SECONDS_MAX = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (_YEAR_MIN, _YEAR_MAX))
_NANOS = 10**9
_NUL = "must not contain a NUL character"

ConventionCheck = Callable[[Message, str], Iterator[Violation]]
"""Yields the violations in a message; the text is the path of the message, which prefixes field names."""


def check(request: Message) -> None:
    """Raise InvalidFields with the invalid fields of `request`, at most VIOLATIONS_MAX of them."""
    violations = _first(_violations(request))
    if violations:
        raise InvalidFields(violations)


def further_violations(request: Message, known: Sequence[Violation]) -> list[Violation]:
    """Return the violations of a request that could be decoded only in part, beside those `known` from decoding.

    Left out is what may only be a consequence: a rule of a value that could not be decoded, or of its message or list.
    """
    undecoded = [violation.field for violation in known if violation.rule != UNKNOWN]
    return _first(
        violation
        for violation in _violations(request)
        if not any(_is_part(violation.field, path) or _is_part(path, violation.field) for path in undecoded)
    )


def _first(violations: Iterator[Violation]) -> list[Violation]:
    """Return as many violations as an error lists, and one more if there is one."""
    return list(islice(violations, VIOLATIONS_MAX + 1))


def _is_part(path: str, whole: str) -> bool:
    """Return True if `path` names `whole` or a part of it; an item stands for its list, whose other items may shift."""
    whole = whole.rpartition("[")[0] if whole.endswith("]") else whole
    return not whole or path == whole or path.startswith((f"{whole}.", f"{whole}["))


def _violations(request: Message) -> Iterator[Violation]:
    is_valid = fast_validation.compile_checks(request.DESCRIPTOR)
    reported: set[str] = set()
    if not is_valid or not is_valid(request):
        request, long_lists = _without_long_lists(request)
        yield from long_lists
        paths = [violation.field for violation in long_lists]
        for rule_violation in _validator().collect_violations(_without_excess(request)):
            violation = _to_violation(request, rule_violation)
            if not any(_is_part(violation.field, path) for path in paths):
                reported.add(violation.field)
                yield violation
    may_have_nul = b"\0" in request.SerializeToString()
    for convention_check in _convention_checks(request.DESCRIPTOR, nul=may_have_nul):
        for violation in convention_check(request, ""):
            if violation.field not in reported:
                yield violation


def _without_long_lists(request: Message) -> tuple[Message, list[Violation]]:
    """Return the request without the lists and maps that are longer than their limits, and their violations."""
    fields = limited_fields(request.DESCRIPTOR)
    if not _first(_long_lists(fields, request, "")):
        return request, []
    rest = type(request)()
    rest.CopyFrom(request)
    return rest, _first(_long_lists(fields, rest, "", clear=True))


def _long_lists(
    fields: Mapping[int, LimitedField], message: Message, path: str, *, clear: bool = False
) -> Iterator[Violation]:
    """Yield the violation of each list or map that is too long; with `clear`, empty it."""
    for field in fields.values():
        if field.repeated:
            items = getattr(message, field.name)
            if field.limit and len(items) > field.limit[0]:
                yield too_many(path + field.name, field.limit)
                if clear:
                    message.ClearField(field.name)
            elif field.inner:
                for index, item in enumerate(items):
                    yield from _long_lists(field.inner, item, f"{path}{field.name}[{index}].", clear=clear)
        elif message.HasField(field.name):
            yield from _long_lists(field.inner, getattr(message, field.name), f"{path}{field.name}.", clear=clear)


def _without_excess(request: Message) -> Message:
    """Return the request with each list cut after as many invalid items as an error lists, and one more."""
    ends: dict[str, int] = {}
    for field in request.DESCRIPTOR.fields:
        items = getattr(request, field.name) if field.is_repeated else ()
        if field.message_type and not field.message_type.GetOptions().map_entry and len(items) > VIOLATIONS_MAX:
            is_valid = fast_validation.compile_checks(field.message_type) or _is_valid
            invalid = (index for index, item in enumerate(items) if not is_valid(item))
            last = next(islice(invalid, VIOLATIONS_MAX, None), None)
            if last is not None:
                ends[field.name] = last + 1
    if not ends:
        return request
    cut = type(request)()
    cut.CopyFrom(request)
    for name, end in ends.items():
        del getattr(cut, name)[end:]
    return cut


def _is_valid(message: Message) -> bool:
    return not _validator().collect_violations(message, fail_fast=True)


def preload() -> None:
    """Load protovalidate at the start of a process, so that its first invalid request does not delay others."""
    _validator()


@lru_cache(maxsize=1)
def _validator() -> "protovalidate.Validator":
    """Return the validator, imported on first use: it takes 14 MiB and 0.1 s, and most processes never need it."""
    import protovalidate

    return protovalidate.Validator()


def _to_violation(request: Message, rule_violation: "protovalidate.Violation") -> Violation:
    proto = rule_violation.proto
    elements = proto.field.elements if proto.field else ()
    choice = _choice_at(request, elements)
    if choice:
        return Violation(_path(elements[:-1]), f"must have exactly one of {', '.join(choice)}", "oneof")
    return Violation(_path(elements), _description(_field_at(request, elements), rule_violation), proto.rule_id)


def _description(field: FieldDescriptor | None, rule_violation: "protovalidate.Violation") -> str:
    """Return the error text: our own for enums, ids and patterns, where protovalidate's is hard to understand."""
    proto = rule_violation.proto
    if field is not None and field.enum_type is not None:
        return allowed_values(field)
    id_pattern = _ID_PATTERN.search(proto.message)
    if id_pattern and id_pattern[1] in ids.KINDS:
        return ids.KINDS[id_pattern[1]].describe(str(rule_violation.field_value or ""))
    if field is not None and proto.rule_id == "string.pattern":
        pattern = proto.message.partition("`")[2].rstrip("`")
        return f"must be a text{example_suffix(field)} that matches {pattern}"
    if proto.rule_id == "string.in":
        return f"must be one of {proto.message.partition('[')[2].rstrip(']')}"
    return proto.message


def _choice_at(request: Message, elements: Sequence[object]) -> Sequence[str]:
    """Return the fields of the oneof at a path; none if the path is not that of a oneof, which callers don't know."""
    if not elements:
        return ()
    parent = _field_at(request, elements[:-1])
    descriptor = parent.message_type if parent else request.DESCRIPTOR
    oneof = descriptor.oneofs_by_name.get(getattr(elements[-1], "field_name")) if descriptor else None  # noqa: B009
    return [field.name for field in oneof.fields] if oneof else ()


def _field_at(request: Message, elements: Sequence[object]) -> Any:
    """Return the descriptor of the field at a path; None if the path is the message itself."""
    descriptor, field = request.DESCRIPTOR, None
    for element in elements:
        field = descriptor.fields_by_name.get(getattr(element, "field_name"))  # noqa: B009 - see _path
        descriptor = field.message_type or descriptor if field else descriptor
    return field


def _path(elements: Sequence[object]) -> str:
    """Return the path of a field as callers write it: `lines[2].amount`, `metadata["team"]`."""
    path = ""
    for element in elements:
        path += f".{getattr(element, 'field_name')}" if path else str(getattr(element, "field_name"))  # noqa: B009
        subscript = getattr(element, "subscript", None)
        if subscript is not None:
            key = getattr(subscript, "value", subscript)
            path += f'["{key}"]' if isinstance(key, str) else f"[{key}]"
    return path


@cache
def _convention_checks(descriptor: Descriptor, *, nul: bool) -> tuple[ConventionCheck, ...]:
    """Return the checks of a message type; with `nul` also those for NUL characters, which few requests need."""
    if descriptor.full_name == "billing.type.v1.Money":
        return (_check_money,)
    return tuple(check for field in descriptor.fields for check in _field_checks(field, nul=nul))


def _field_checks(field: FieldDescriptor, *, nul: bool) -> Iterator[ConventionCheck]:
    name, nested = field.name, field.message_type
    if field.type == FieldDescriptor.TYPE_STRING:
        if nul:
            yield partial(_check_texts if field.is_repeated else _check_text, name)
        find_problem = _convention_of(name)
        if find_problem and not field.is_repeated:
            yield partial(_check_convention, find_problem, name)
    elif nested and nested.GetOptions().map_entry:
        if nul:
            yield partial(_check_map, name)
    elif nested and nested.full_name == "google.protobuf.Timestamp":
        yield partial(_check_timestamp, name)
    elif nested and nested.full_name.startswith("billing."):
        checks = _convention_checks(nested, nul=nul)
        if checks:
            yield partial(_check_messages if field.is_repeated else _check_message, name, checks)


def _check_message(name: str, checks: Sequence[ConventionCheck], message: Message, path: str) -> Iterator[Violation]:
    if message.HasField(name):
        for check in checks:
            yield from check(getattr(message, name), f"{path}{name}.")


def _check_messages(name: str, checks: Sequence[ConventionCheck], message: Message, path: str) -> Iterator[Violation]:
    for index, item in enumerate(getattr(message, name)):
        for check in checks:
            yield from check(item, f"{path}{name}[{index}].")


def _check_text(name: str, message: Message, path: str) -> Iterator[Violation]:
    if "\0" in getattr(message, name):
        yield Violation(path + name, _NUL, "text.nul")


def _check_texts(name: str, message: Message, path: str) -> Iterator[Violation]:
    for index, item in enumerate(getattr(message, name)):
        if "\0" in item:
            yield Violation(f"{path}{name}[{index}]", _NUL, "text.nul")


def _check_map(name: str, message: Message, path: str) -> Iterator[Violation]:
    """Yield the violations of a map; all maps of the contract have text values."""
    for key, value in getattr(message, name).items():
        if "\0" in key:
            yield Violation(path + name, _NUL, "text.nul")
        elif "\0" in value:
            yield Violation(f'{path}{name}["{key}"]', _NUL, "text.nul")


def _check_timestamp(name: str, message: Message, path: str) -> Iterator[Violation]:
    if message.HasField(name):
        stamp = getattr(message, name)
        if not _SECONDS_MIN <= stamp.seconds < _SECONDS_MAX or not 0 <= stamp.nanos < _NANOS:
            yield Violation(path + name, f"must be a time {_YEARS}", "known.time")


def _check_money(message: Message, path: str) -> Iterator[Violation]:
    problem = money.invalid_reason(getattr(message, "amount"), getattr(message, "currency_code"))  # noqa: B009
    if problem:
        yield Violation(path + problem[0], problem[1], f"money.{problem[0]}")


def _check_convention(
    find_problem: Callable[[str], str | None], name: str, message: Message, path: str
) -> Iterator[Violation]:
    value: str = getattr(message, name)
    problem = find_problem(value) if value else None
    if problem:
        yield Violation(path + name, problem, f"known.{name}")


def _convention_of(name: str) -> Callable[[str], str | None] | None:
    """Return the convention for text fields of this name: a function that returns the error text, or None if valid."""
    if name.endswith("_currency"):
        return _currency_problem
    return _date_problem if name.endswith("_date") else _CONVENTIONS.get(name)


def _date_problem(text: str) -> str | None:
    with suppress(ValueError):
        day = date.fromisoformat(text)
        # The comparison rejects the other ISO 8601 forms that `fromisoformat` accepts.
        if day.isoformat() == text and _YEAR_MIN <= day.year < _YEAR_MAX:
            return None
    return f"must be a day of the calendar {_YEARS} as YYYY-MM-DD, not {text!r}"


def _currency_problem(text: str) -> str | None:
    return None if money.exponent(text) is not None else f"must be an ISO 4217 currency code such as EUR, not {text!r}"


def _time_zone_problem(text: str) -> str | None:
    return None if text in _time_zones() else f'must be an IANA time zone such as "Europe/Berlin", not {text!r}'


def _country_problem(text: str) -> str | None:
    return None if text in _countries() else f"must be an ISO 3166-1 alpha-2 country code such as DE, not {text!r}"


@lru_cache(maxsize=1)
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones() - {"localtime"})  # exists on some machines only, with different meanings


@lru_cache(maxsize=1)
def _countries() -> frozenset[str]:
    """Return the country codes of ISO 3166-1, as listed by the time zone database."""
    table = files("tzdata.zoneinfo").joinpath("iso3166.tab").read_text(encoding="utf-8")
    return frozenset(line[:2] for line in table.splitlines() if line and not line.startswith("#"))


_CONVENTIONS = {
    "currency_code": _currency_problem,
    "time_zone": _time_zone_problem,
    "country_code": _country_problem,
}
