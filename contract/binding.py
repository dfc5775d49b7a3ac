"""From an HTTP request to the request message: path, query, headers and body together, all that is wrong at once."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

import orjson
from buf.validate import validate_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from contract import codec
from contract.routes import RESUMED, Route
from kit.errors import InvalidFields, MalformedBody, UnsupportedMediaType, Violation

DEPTH_MAX = 32
_QUOTED = re.compile(r'"[^"]*"')
_NOT_CHANGED = {"etag", "request_id", "update_mask"}


class Binding:
    """Fills the request message of one route."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._decode = codec.decoder(route.method.input_type)
        self._fields: Mapping[str, FieldDescriptor] = route.method.input_type.fields_by_name
        self._invents_key = "request_id" in route.headers and not _is_required(self._fields["request_id"])

    def request(self, variables: Mapping[str, str], query: str, headers: Mapping[str, str], body: bytes) -> Message:
        """The request message; raises InvalidFields, MalformedBody or UnsupportedMediaType."""
        bad: list[Violation] = []
        given = self._of_body(headers, body)
        if self._route.masked and "update_mask" not in given:
            names = [name for name in given if name not in _NOT_CHANGED and name not in self._route.variables]
            given["update_mask"] = ",".join(names)
        _merge(given, variables, "the path", bad)
        if self._route.headers:
            _merge(given, self._of_headers(headers), "the header", bad)
        if query:
            bad += self._merge_query(given, query)
        request = self._route.request()
        self._decode(request, given, "", bad)
        if bad:
            raise InvalidFields(self.located(bad))
        if self._invents_key and not request.request_id:  # type: ignore[attr-defined]
            # The channel sends a keyed call again when a replica goes away: with a key it is still done once.
            request.request_id = uuid4().hex  # type: ignore[attr-defined]
        return request

    def located(self, violations: list[Violation]) -> list[Violation]:
        """The violations with the header named where a field is given by header."""
        headers = self._route.headers
        return [
            Violation(f"header {headers[v.field]}", v.description, v.rule) if v.field in headers else v
            for v in violations
        ]

    def _of_body(self, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        if not body:
            return {}
        if headers.get("content-type", "application/json").partition(";")[0].strip().lower() != "application/json":
            raise UnsupportedMediaType("Send the body as application/json.")
        value = parsed(body)
        if self._route.body not in {"", "*"}:
            return {self._route.body: value}
        if not isinstance(value, dict):
            raise MalformedBody("The body must be a JSON object.")
        if value and not self._route.body:
            raise MalformedBody("This route takes no body.")
        return value

    def _of_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """What fields are given by header."""
        given = {field: headers[name.lower()] for field, name in self._route.headers.items() if name.lower() in headers}
        unquoted = {field: value[1:-1] if _QUOTED.fullmatch(value) else value for field, value in given.items()}
        return {field: value for field, value in unquoted.items() if value != "*"}  # `If-Match: *`: any version

    def _merge_query(self, given: dict[str, Any], query: str) -> Iterator[Violation]:
        """Add the parameters of the query to what is given."""
        taken = {} if self._route.body == "*" else self._fields
        allowed = [name for name in taken if name not in self._route.variables and name != self._route.body]
        for name, text in parse_qsl(query, keep_blank_values=True):
            if name not in allowed:
                known = ", ".join(allowed) or "none"
                yield Violation(name, f"is no query parameter here; known are: {known}", "field.unknown")
                continue
            value = codec.boolean(text) if taken[name].type == FieldDescriptor.TYPE_BOOL else text
            if taken[name].is_repeated:
                given.setdefault(name, []).append(value)
            elif name in given and name == RESUMED:
                continue  # who comes back says by the header how far it was; its address is still that of the beginning
            elif name in given:
                yield Violation(name, "is given more than once", "field.repeated")
            else:
                given[name] = value


def _merge(given: dict[str, Any], values: Mapping[str, str], place: str, bad: list[Violation]) -> None:
    """Add values to what is given; the body may say the same, but nothing else."""
    for name, value in values.items():
        if given.get(name) is None:
            given[name] = value
        elif given[name] != value:
            bad.append(Violation(name, f"is another one in the body than in {place}", "field.repeated"))


def _is_required(field: FieldDescriptor) -> bool:
    return bool(field.GetOptions().Extensions[validate_pb2.field].required)


def parsed(body: bytes) -> Any:
    """The JSON value; raises MalformedBody, also where an object has a name twice and one of them would be lost."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"The body is not JSON: {error}.") from None
    if body.count(b"{") + body.count(b"[") > DEPTH_MAX and _depth(value) > DEPTH_MAX:
        raise MalformedBody(f"The body is nested deeper than {DEPTH_MAX} levels.")
    if body.count(b":") != _names(value):  # texts have colons too: only then is it worth a closer look
        json.loads(body, object_pairs_hook=_unique, parse_int=str)
    return value


def _depth(value: object) -> int:
    """How many objects and arrays are nested into one another."""
    level, depth = [value], -1
    while level:
        depth += 1
        level = [inner for outer in level for inner in _inside(outer)]
    return depth


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _names(value: object) -> int:
    """How many names of fields there are in a JSON value."""
    if isinstance(value, dict):
        return len(value) + sum(map(_names, value.values()))
    return sum(map(_names, value)) if isinstance(value, list) else 0


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MalformedBody(f"The body has the field {twice} twice in one object.")
    return found
