"""Checks every request against the rules in its proto, and our field conventions against what the world has.

The rules of the proto come from protovalidate. What no pattern can tell is checked here by the conventions
of the contract: Money has the digits of its currency, `*_date` is a day of the calendar, `currency_code`,
`country_code` and `time_zone` exist, and no text has a NUL, which PostgreSQL can't hold. All bad fields are
reported at once.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import cache, lru_cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from zoneinfo import available_timezones

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from contract import acceptance
from kit import ids, money
from kit.errors import InvalidFields, Violation

if TYPE_CHECKING:
    import protovalidate

_ID_PATTERN = re.compile(r"\^\(?([a-z]{3})_\[0-9a-f\]")
_YEAR_MIN, _YEAR_MAX = 1900, 2200
"""Far enough for any contract; beyond, periods and time zones run out of the calendar."""
_YEARS = f"from the year {_YEAR_MIN} to {_YEAR_MAX - 1}"
_SECONDS_MIN, _SECONDS_MAX = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (_YEAR_MIN, _YEAR_MAX))
_NANOS = 10**9
_NUL = "must not have a NUL character"

Look = Callable[[Message, str], Iterator[Violation]]
"""Finds what is wrong in a message, which stands at a path."""


def check(request: Message) -> None:
    """Raise InvalidFields with every field of `request` that is not acceptable."""
    fine = acceptance.look_at(request.DESCRIPTOR)
    told = () if fine and fine(request) else _validator().collect_violations(request)
    violations = [_violation(request, found) for found in told]
    wrong = {violation.field for violation in violations}
    nul = b"\0" in request.SerializeToString()  # else no text has one
    for look in _looks(request.DESCRIPTOR, nul=nul):
        violations += [violation for violation in look(request, "") if violation.field not in wrong]
    if violations:
        raise InvalidFields(violations)


@lru_cache(maxsize=1)
def _validator() -> "protovalidate.Validator":
    """Loaded with the first request that needs it: it takes 11 MiB and a tenth of a second, and most need it never."""
    import protovalidate

    return protovalidate.Validator()


def _violation(request: Message, found: "protovalidate.Violation") -> Violation:
    proto = found.proto
    elements = proto.field.elements if proto.field else ()
    return Violation(_path(elements), _told(_field_of(request, elements), found), proto.rule_id)


def _told(field: FieldDescriptor | None, found: "protovalidate.Violation") -> str:
    """What is wrong, in words of ours where the validator speaks of numbers and patterns."""
    proto = found.proto
    if field is not None and field.enum_type is not None:
        return acceptance.choices(field)
    id_pattern = _ID_PATTERN.search(proto.message)
    if id_pattern and id_pattern[1] in ids.KINDS:
        return ids.KINDS[id_pattern[1]].describe(str(found.field_value or ""))
    if field is not None and proto.rule_id == "string.pattern":
        pattern = proto.message.partition("`")[2].rstrip("`")
        return f"must be a text{acceptance.such_as(field)} that matches {pattern}"
    return proto.message


def _field_of(request: Message, elements: Sequence[object]) -> Any:
    """The field at a place; None where the place is the message itself."""
    descriptor, field = request.DESCRIPTOR, None
    for element in elements:
        field = descriptor.fields_by_name.get(getattr(element, "field_name"))  # noqa: B009 - see _path
        descriptor = field.message_type or descriptor if field else descriptor
    return field


def _path(elements: Sequence[object]) -> str:
    """The place of a field as callers write it: `lines[2].amount`, `metadata["team"]`."""
    path = ""
    for element in elements:
        path += f".{getattr(element, 'field_name')}" if path else str(getattr(element, "field_name"))  # noqa: B009
        subscript = getattr(element, "subscript", None)
        if subscript is not None:
            key = getattr(subscript, "value", subscript)
            path += f'["{key}"]' if isinstance(key, str) else f"[{key}]"
    return path


@cache
def _looks(descriptor: Descriptor, *, nul: bool) -> tuple[Look, ...]:
    """What is to be looked at in a message of this type, found out once; where there may be a `nul`, for that too."""
    if descriptor.full_name == "billing.type.v1.Money":
        return (_money,)
    return tuple(look for field in descriptor.fields for look in _looks_at(field, nul=nul))


def _looks_at(field: FieldDescriptor, *, nul: bool) -> Iterator[Look]:
    name, nested = field.name, field.message_type
    if field.type == FieldDescriptor.TYPE_STRING:
        if nul:
            yield partial(_texts if field.is_repeated else _text, name)
        problem = _text_problem_of(name)
        if problem and not field.is_repeated:
            yield partial(_known, problem, name)
    elif nested and nested.GetOptions().map_entry:
        if nul:
            yield partial(_labels, name)
    elif nested and nested.full_name == "google.protobuf.Timestamp":
        yield partial(_moment, name)
    elif nested and nested.full_name.startswith("billing."):
        looks = _looks(nested, nul=nul)
        if looks:
            yield partial(_items if field.is_repeated else _item, name, looks)


def _item(name: str, looks: Sequence[Look], message: Message, path: str) -> Iterator[Violation]:
    if message.HasField(name):
        for look in looks:
            yield from look(getattr(message, name), f"{path}{name}.")


def _items(name: str, looks: Sequence[Look], message: Message, path: str) -> Iterator[Violation]:
    for index, item in enumerate(getattr(message, name)):
        for look in looks:
            yield from look(item, f"{path}{name}[{index}].")


def _text(name: str, message: Message, path: str) -> Iterator[Violation]:
    if "\0" in getattr(message, name):
        yield Violation(path + name, _NUL, "text.nul")


def _texts(name: str, message: Message, path: str) -> Iterator[Violation]:
    for index, item in enumerate(getattr(message, name)):
        if "\0" in item:
            yield Violation(f"{path}{name}[{index}]", _NUL, "text.nul")


def _labels(name: str, message: Message, path: str) -> Iterator[Violation]:
    """Of a map: its values are text in all our messages."""
    for key, value in getattr(message, name).items():
        if "\0" in key:
            yield Violation(path + name, _NUL, "text.nul")
        elif "\0" in value:
            yield Violation(f'{path}{name}["{key}"]', _NUL, "text.nul")


def _moment(name: str, message: Message, path: str) -> Iterator[Violation]:
    if message.HasField(name):
        stamp = getattr(message, name)
        if not _SECONDS_MIN <= stamp.seconds < _SECONDS_MAX or not 0 <= stamp.nanos < _NANOS:
            yield Violation(path + name, f"must be a moment {_YEARS}", "known.time")


def _money(message: Message, path: str) -> Iterator[Violation]:
    problem = money.invalid_reason(getattr(message, "amount"), getattr(message, "currency_code"))  # noqa: B009
    if problem:
        yield Violation(path + problem[0], problem[1], f"money.{problem[0]}")


def _known(problem: Callable[[str], str | None], name: str, message: Message, path: str) -> Iterator[Violation]:
    value: str = getattr(message, name)
    wrong = problem(value) if value else None
    if wrong:
        yield Violation(path + name, wrong, f"known.{name}")


def _text_problem_of(name: str) -> Callable[[str], str | None] | None:
    return _day_problem if name.endswith("_date") else _TEXTS.get(name)


def _day_problem(text: str) -> str | None:
    with suppress(ValueError):
        day = date.fromisoformat(text)
        if day.isoformat() == text and _YEAR_MIN <= day.year < _YEAR_MAX:  # it takes other forms of ISO 8601 as well
            return None
    return f"must be a day of the calendar {_YEARS} as YYYY-MM-DD, not {text!r}"


def _currency_problem(text: str) -> str | None:
    return None if money.exponent(text) is not None else f"must be an ISO 4217 currency code such as EUR, not {text!r}"


def _zone_problem(text: str) -> str | None:
    return None if text in _zones() else f'must be an IANA time zone such as "Europe/Berlin", not {text!r}'


def _country_problem(text: str) -> str | None:
    return None if text in _countries() else f"must be an ISO 3166-1 alpha-2 country code such as DE, not {text!r}"


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones() - {"localtime"})  # which some machines have, each its own


@lru_cache(maxsize=1)
def _countries() -> frozenset[str]:
    """The codes of ISO 3166-1, as the time zone database lists them."""
    listed = files("tzdata.zoneinfo").joinpath("iso3166.tab").read_text(encoding="utf-8")
    return frozenset(line[:2] for line in listed.splitlines() if line and not line.startswith("#"))


_TEXTS = {"currency_code": _currency_problem, "time_zone": _zone_problem, "country_code": _country_problem}
