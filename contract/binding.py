"""Builds the request message of an RPC from path, query, headers and body of an HTTP request."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from contract import codec, json_body, validation
from contract.field_rules import rules_of, unknown
from contract.routes import LAST_EVENT_ID, Route
from contract.violations import TooManyViolations, Violations
from kit.errors import InvalidFields, MalformedBody, MalformedRequest, UnsupportedMediaType, Violation

PARAMETERS_MAX = 200
_QUOTED = re.compile(r'"[^"]*"')
_NEVER_MASKED = {"etag", "request_id", "update_mask"}


class Binding:
    """Builds the request messages of one route."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._decode = codec.decoder(route.method.input_type)
        fields = route.method.input_type.fields_by_name
        self._generates_key = "request_id" in route.headers and not rules_of(fields["request_id"]).required

    def request(
        self,
        variables: Mapping[str, str],
        query: str,
        headers: Mapping[str, str],
        body: bytes,
        names: int | None = None,
    ) -> Message:
        """Return the request message; `names` is the result of `json_body.count_names`.

        Raises InvalidFields with all invalid fields, or with the first ones if there are too many, MalformedBody or
        UnsupportedMediaType.
        """
        values = self._body_values(headers, body, names)
        violations = Violations()
        try:
            request = self._decode_request(variables, query, headers, values, violations)
        except TooManyViolations:
            raise InvalidFields(self.with_header_names(violations)) from None
        if violations:
            violations.extend(validation.further_violations(request, violations))
            raise InvalidFields(self.with_header_names(violations))
        if self._generates_key and not request.request_id:  # type: ignore[attr-defined]
            # gRPC retries a call with an idempotency key when a replica goes away; with a key it takes effect once.
            request.request_id = uuid4().hex  # type: ignore[attr-defined]
        return request

    def _decode_request(
        self,
        variables: Mapping[str, str],
        query: str,
        headers: Mapping[str, str],
        values: dict[str, Any],
        violations: Violations,
    ) -> Message:
        if self._route.has_update_mask and "update_mask" not in values:
            names = [name for name in values if name not in _NEVER_MASKED and name not in self._route.variables]
            values["update_mask"] = ",".join(names)
        _merge(values, variables, "the path", violations)
        if self._route.headers:
            _merge(values, self._header_values(headers), "the header", violations)
        if query:
            for violation in self._merge_query(values, query):
                violations.append(violation)
        request = self._route.request()
        self._decode(request, values, "", violations)
        return request

    def with_header_names(self, violations: Sequence[Violation]) -> list[Violation]:
        """Return the violations; a field that REST sends as a header is named "header <name>"."""
        headers = self._route.headers
        return [
            Violation(f"header {headers[v.field]}", v.description, v.rule) if v.field in headers else v
            for v in violations
        ]

    def _body_values(self, headers: Mapping[str, str], body: bytes, names: int | None) -> dict[str, Any]:
        if not body:
            return {}
        if headers.get("content-type", "application/json").partition(";")[0].strip().lower() != "application/json":
            raise UnsupportedMediaType("Send the body as application/json.")
        value = json_body.parse(body, names)
        if self._route.body not in {"", "*"}:
            return {self._route.body: value}
        if not isinstance(value, dict):
            raise MalformedBody("The body must be a JSON object.")
        if value and not self._route.body:
            raise MalformedBody("This route has no body.")
        return value

    def _header_values(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the values of the request fields that come from a header."""
        sent = {field: headers[name.lower()] for field, name in self._route.headers.items() if name.lower() in headers}
        unquoted = {field: value[1:-1] if _QUOTED.fullmatch(value) else value for field, value in sent.items()}
        return {field: value for field, value in unquoted.items() if value != "*"}  # `If-Match: *` means any version

    def _merge_query(self, values: dict[str, Any], query: str) -> Iterator[Violation]:
        """Add the query parameters to the values; yield the violations."""
        parameters = self._route.query_parameters
        if query.count("&") >= PARAMETERS_MAX:
            raise MalformedRequest(f"The query may have {PARAMETERS_MAX} parameters at most.")
        for name, text in parse_qsl(query, keep_blank_values=True):
            if name not in parameters:
                yield unknown("", name, "is not a query parameter of this route", parameters)
                continue
            *outer, field = parameters[name]
            value = codec.parse_bool(text) if field.type == FieldDescriptor.TYPE_BOOL else text
            target = values.setdefault(outer[0].name, {}) if outer else values
            if field.is_repeated:
                target.setdefault(field.name, []).append(value)
            elif field.name in target and name == LAST_EVENT_ID:
                continue  # a browser that reconnects sends the header; its URL still has the value of the first call
            elif field.name in target:
                yield Violation(name, "is set more than once", "field.repeated")
            else:
                target[field.name] = value


def _merge(values: dict[str, Any], more: Mapping[str, str], place: str, violations: Violations) -> None:
    """Add values from another part of the request; a value that the body has too must be equal."""
    for name, value in more.items():
        if values.get(name) is None:
            values[name] = value
        elif values[name] != value:
            violations.append(Violation(name, f"differs between the body and {place}", "field.repeated"))
