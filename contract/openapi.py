"""Generates the OpenAPI 3.1 document from the comments, rules, permissions and errors of the protos.

openapi.base.json has the parts that no proto describes. `python -m contract.openapi` writes docs/openapi.json.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from pydantic import TypeAdapter

from contract import codec, descriptors, routes
from contract.access import ScopePolicy
from contract.descriptors import Reason
from contract.field_rules import disallowed_numbers, rules_of
from contract.methods import methods
from contract.routes import LAST_EVENT_ID, Route
from kit.auth import Principal
from kit.version import VERSION

_FILE = Path(__file__).parent.parent / "docs" / "openapi.json"
_BASE_FILE = Path(__file__).parent / "openapi.base.json"
_PROBLEM = "application/problem+json"
_JSON = "application/json"
_EVENTS = "text/event-stream"
_BINARY = {"type": "string", "format": "binary"}

Json = dict[str, Any]

_COMMON_REASONS = (
    "INVALID_FIELDS", "TOKEN_MISSING", "TOKEN_INVALID", "TOKEN_EXPIRED", "PERMISSION_MISSING", "SCOPE_MISSING",
    "RATE_LIMITED", "CONCURRENCY_LIMITED", "OVERLOADED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "INTERNAL",
)  # fmt: skip
_BODY_REASONS = ("MALFORMED_BODY", "UNSUPPORTED_MEDIA_TYPE", "MESSAGE_TOO_LARGE")
_KEY_REASONS = ("IDEMPOTENCY_MISMATCH", "CONFLICT")

_SCALARS: dict[int, Json] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "int32", "minimum": 0},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"},
    FieldDescriptor.TYPE_UINT64: {"type": "string", "format": "int64", "pattern": "^[0-9]+$"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
}
_WELL_KNOWN: dict[str, Json] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time", "examples": ["2026-10-01T12:00:00Z"]},
    "google.protobuf.Duration": {"type": "string", "examples": ["1.5s"]},
    "google.protobuf.FieldMask": {"type": "string", "examples": ["name"]},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
}
_KEYWORDS = {
    "pattern": "pattern", "example": "examples", "min_len": "minLength", "max_len": "maxLength",
    "gte": "minimum", "lte": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum",
}  # fmt: skip
"""Rules of buf.validate and the keywords of JSON Schema that mean the same."""
_KEY_TEXT = (
    "Identifies this request: send a new key with each new request and the same key with each retry. A request with a"
    " known key takes effect once and gets the first response again; with different input it fails with"
    " IDEMPOTENCY_MISMATCH. Keys don't expire."
)
_STREAM_TEXT = (
    "Server-sent events until the client disconnects. `data` is JSON of this schema, `event` is its type, and `id`, if"
    " present, is the value to send as `Last-Event-ID` to resume after this event. Comments keep the connection alive."
    " An error after the start of the stream is sent as `event: error` with a problem as `data` and ends the stream. A"
    " stream may end at any time: connect again."
)


def document() -> Json:
    """Return the complete document: openapi.base.json with everything that the protos describe."""
    result: Json = json.loads(_BASE_FILE.read_text())
    result["info"]["version"] = VERSION
    components = result["components"]
    schemas = _Schemas(components["schemas"])
    services = {}
    for route in routes.routes():
        service = route.method.containing_service
        services[service.name] = _comment(service.full_name)
        result["paths"].setdefault(route.template, {})[route.verb.lower()] = _operation(route, schemas)
    result["tags"] += [{"name": name, "description": text} for name, text in services.items()]
    schemas.by_name["Principal"] = TypeAdapter(Principal).json_schema()
    components["examples"] = {reason.name: _problem_example(reason) for reason in descriptors.reasons().values()}
    return result


def _comment(full_name: str) -> str:
    return descriptors.comments().get(full_name, "")


def _operation(route: Route, schemas: "_Schemas") -> Json:
    summary, _, text = _comment(route.method.full_name).partition("\n\n")
    operation: Json = {
        "operationId": route.method.name,
        "tags": [route.method.containing_service.name],
        "summary": re.split(r"(?<=[.:])\s", summary, maxsplit=1)[0].rstrip(".:"),
        "description": "\n\n".join(part for part in (summary, text, *_access_texts(route)) if part),
    }
    parameters = [*_parameters(route, schemas), *_header_parameters(route)]
    if parameters:
        operation["parameters"] = parameters
    if route.body:
        operation["requestBody"] = _body(route, schemas)
    reasons = [*_COMMON_REASONS, *route.reasons]
    reasons += ["TENANT_SCOPE_REQUIRED"] if route.access.scope_policy is ScopePolicy.TENANT_ONLY else ()
    reasons += _BODY_REASONS if route.body else ()
    reasons += _KEY_REASONS if "request_id" in route.headers else ()
    operation["responses"] = {**_success(route, schemas), **_error_responses(reasons)}
    return operation


def _access_texts(route: Route) -> Iterator[str]:
    yield f"Permission: `{route.access.permission}`."
    if route.access.scope_policy is ScopePolicy.TENANT_ONLY:
        yield "It concerns the whole tenant: a token that is confined to a part of it is refused."


def _parameters(route: Route, schemas: "_Schemas") -> Iterator[Json]:
    for item in route.method.input_type.fields:
        if item.name in route.variables:
            yield _parameter(item.name, "path", {item.name: (item,)}, schemas)
    for name in route.query_parameters:
        if name == LAST_EVENT_ID or name not in route.headers:
            yield _parameter(name, "query", route.query_parameters, schemas)


def _parameter(name: str, place: str, parameters: Mapping[str, Sequence[FieldDescriptor]], schemas: "_Schemas") -> Json:
    """Return one of the path or query parameters. A field of a message is required only together with the others."""
    path = parameters[name]
    texts = [_comment(item.full_name) for item in path]
    if len(path) > 1:
        others = [f"`{other}`" for other, (first, *_) in parameters.items() if first is path[0] and other != name]
        texts[1:] = [re.sub(r"^Required\. ", "", texts[1]), f"Send it together with {', '.join(others)}."]
    return {
        "name": name,
        "in": place,
        "required": place == "path" or all(map(_is_required, path)),
        "description": " ".join(filter(None, texts)),
        "schema": schemas.of_field(path[-1], is_request=True),
    }


def _header_parameters(route: Route) -> Iterator[Json]:
    for name, header in route.headers.items():
        item = route.method.input_type.fields_by_name[name]
        schema = {
            key: value
            for key, value in _rule_keywords(rules_of(item)).items()
            if key in {"pattern", "maxLength", "examples"}
        }
        yield {
            "name": header,
            "in": "header",
            "required": _is_required(item),
            "description": _KEY_TEXT if name == "request_id" else _comment(item.full_name),
            "schema": {"type": "string", **schema},
        }


def _body(route: Route, schemas: "_Schemas") -> Json:
    request = route.method.input_type
    if route.body == "*":
        excluded = {*route.variables, *route.headers, "update_mask"}
        schema = schemas.of_request(request, [item for item in request.fields if item.name not in excluded])
    else:
        schema = schemas.of_field(request.fields_by_name[route.body], is_request=True)
    content = schemas.resolved(schema)
    example = route.example or schemas.example(schema, _Examples.of(route), is_request=not route.has_update_mask)
    if route.has_update_mask:
        content["properties"] = {name: _clearable(value) for name, value in content["properties"].items()}
    return {
        "required": bool(content.get("required")),
        "content": {_JSON: {"schema": schema, "example": example}},
    }


def _clearable(schema: Json) -> Json:
    """Return the schema of a field that `null` clears."""
    description = {"description": schema["description"]} if "description" in schema else {}
    return {
        "anyOf": [{key: value for key, value in schema.items() if key != "description"}, {"type": "null"}],
        **description,
    }


def _success(route: Route, schemas: "_Schemas") -> Json:
    headers = ["X-Request-Id", "traceparent", "RateLimit-Policy", "RateLimit"]
    headers += ["ETag"] if route.has_etag else []
    headers += ["Idempotency-Replayed"] if "request_id" in route.headers else []
    headers += ["Location"] if route.creates else []
    response: Json = {"description": "Success.", "headers": _header_refs(headers)}
    if route.returns_nothing:
        return {"204": response}
    if route.returns_file:
        response["headers"] |= _header_refs(["Content-Disposition"]) | {"ETag": _header_refs(["FileETag"])["FileETag"]}
        response["content"] = {each: {"schema": {} if each == _JSON else _BINARY} for each in route.media_types}
        return {"200": {**response, "description": "The file."}}
    schema = schemas.of_message(route.method.output_type)
    example = schemas.example(schema, _Examples.of(route))
    response["content"] = {_EVENTS if route.streams else _JSON: {"schema": schema, "example": example}}
    if route.streams:
        response["description"] = _STREAM_TEXT
    return {"201" if route.creates else "200": response}


def _header_refs(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _error_responses(names: Iterable[str]) -> Json:
    """Return the error responses for these reasons by HTTP status."""
    reasons = sorted((descriptors.reasons()[name] for name in dict.fromkeys(names)), key=lambda reason: reason.status)
    responses: Json = {}
    for status, group in groupby(reasons, key=lambda reason: reason.status):
        same_status = list(group)
        headers = ["X-Request-Id", "traceparent", *(["Retry-After"] if status.value in {429, 503} else [])]
        responses[str(status.value)] = {
            "description": "\n".join(f"- `{reason.name}`: {reason.text}" for reason in same_status),
            "headers": _header_refs(headers),
            "content": {
                _PROBLEM: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {
                        reason.name: {"$ref": f"#/components/examples/{reason.name}"} for reason in same_status
                    },
                }
            },
        }
    return responses


def _problem_example(reason: Reason) -> Json:
    violation = {"field": "amount.amount", "code": "type.string", "detail": 'must be a string such as "1250.00"'}
    value: Json = {
        "type": f"/errors/{reason.name}",
        "title": reason.title,
        "status": reason.status.value,
        "detail": reason.text,
        "code": reason.name,
        "request_id": "4f1c2d7e9a",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "retryable": False,
        "metadata": {},
        "errors": [violation] if reason.name == "INVALID_FIELDS" else [],
    }
    return {"summary": reason.title, "value": value}


def _is_required(item: FieldDescriptor) -> bool:
    """Return True if a request without the field is invalid: by `required`, or a rule that zero violates."""
    rules = rules_of(item)
    if rules.required:
        return True
    if item.is_repeated:
        return rules.repeated.min_items > 0
    text = rules.string
    zero_invalid = text.min_len > 0 or text.uuid or (item.enum_type is not None and 0 in disallowed_numbers(item))
    return not item.has_presence and (zero_invalid or bool(text.pattern and not re.search(text.pattern, "")))


def _rule_keywords(rules: validate_pb2.FieldRules) -> Json:
    """Return the JSON Schema keywords that express the rules of a value."""
    kind = rules.WhichOneof("type")
    type_rules = getattr(rules, kind).ListFields() if kind in {"string", "int32", "int64"} else ()
    keywords: Json = {_KEYWORDS[rule.name]: value for rule, value in type_rules if rule.name in _KEYWORDS}
    if "examples" in keywords:
        keywords["examples"] = list(keywords["examples"])
    return keywords | ({"format": "uuid"} if rules.string.uuid else {})


@dataclass
class _Schemas:
    """The schemas of messages, built on first use."""

    by_name: Json = field(default_factory=dict)

    def of_request(self, message: Descriptor, fields: Iterable[FieldDescriptor]) -> Json:
        """Return a reference to the schema of a request body with these fields."""
        name = _name(message)
        self.by_name[name] = self._object(message, fields, is_request=True)
        return {"$ref": f"#/components/schemas/{name}"}

    def of_message(self, message: Descriptor, *, is_request: bool = False) -> Json:
        """Return a reference to the schema of a message; in a request unknown fields are invalid."""
        if message.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[message.full_name])
        # A request inside another one has all its fields, also those that its own route has in the path or a header.
        name = _name(message) + ("Item" if message.full_name in methods() else "")
        if name not in self.by_name:
            self.by_name[name] = {}  # marks it as in progress: a message may contain itself
            self.by_name[name] = self._object(message, message.fields, is_request=is_request)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, message: Descriptor, fields: Iterable[FieldDescriptor], *, is_request: bool) -> Json:
        fields = list(fields)
        schema: Json = {"type": "object", "description": _comment(message.full_name), "properties": {}}
        for item in fields:
            text = _comment(item.full_name)
            description = {"description": text} if text else {}
            read_only = {"readOnly": True} if text.startswith("Output only") else {}
            schema["properties"][item.name] = {**self.of_field(item, is_request=is_request), **description, **read_only}
        required = [item.name for item in fields if (_is_required(item) if is_request else not item.has_presence)]
        if required:
            schema["required"] = required
        if is_request:
            schema["additionalProperties"] = False
        return schema

    def of_field(self, item: FieldDescriptor, *, is_request: bool) -> Json:
        """Return the schema of the value of a field."""
        rules = rules_of(item)
        entry = codec.map_entry(item)
        if entry:
            value = {**self._of_value(entry[1], is_request=is_request), **_rule_keywords(rules.map.values)}
            keys = _without_empty(propertyNames=_rule_keywords(rules.map.keys), maxProperties=rules.map.max_pairs)
            return {"type": "object", "additionalProperties": value} | keys
        if item.is_repeated:
            items = {**self._of_value(item, is_request=is_request), **_rule_keywords(rules.repeated.items)}
            sizes = _without_empty(minItems=rules.repeated.min_items, maxItems=rules.repeated.max_items)
            return {"type": "array", "items": items} | sizes | _without_empty(uniqueItems=rules.repeated.unique)
        return {**self._of_value(item, is_request=is_request), **_rule_keywords(rules)}

    def _of_value(self, item: FieldDescriptor, *, is_request: bool) -> Json:
        if item.message_type is not None:
            return self.of_message(item.message_type, is_request=is_request)
        if item.enum_type is not None:
            return _enum(item.enum_type, hidden=disallowed_numbers(item) if is_request else set())
        return dict(_SCALARS[item.type])

    def resolved(self, schema: Json) -> Json:
        """Return the schema that a reference points to; any other schema as it is."""
        name = schema.get("$ref", "").rpartition("/")[2]
        return self.by_name[name] if name else schema

    def example(
        self, schema: Json, texts: "_Examples", name: str = "", *, is_request: bool = False, depth: int = 0
    ) -> Any:
        """Return a value that is valid by the schema, with texts of the resource."""
        full = {**self.resolved(schema), **schema}
        if "examples" in full:
            return full["examples"][0]
        if "enum" in full:
            return next(value for value in full["enum"] if not value.endswith("_UNSPECIFIED"))
        if "properties" in full:
            names = full.get("required", []) if is_request else full["properties"]
            return {
                key: self.example(value, texts, key, is_request=is_request, depth=depth + 1)
                for key, value in full["properties"].items()
                if key in names
            }
        if full.get("type") == "array":
            recursive = depth > 1 and "$ref" in full["items"] and not full.get("minItems")
            return (
                [] if recursive else [self.example(full["items"], texts, name, is_request=is_request, depth=depth + 1)]
            )
        if full.get("type") == "string":
            return texts.text(name, full.get("description", ""))
        return {"integer": full.get("minimum", 1), "boolean": False, "number": 1.0}.get(full.get("type", ""), {})


def _name(message: Descriptor) -> str:
    return re.sub(r"^billing\.|\bv\d+\.", "", message.full_name)


def _without_empty(**values: int | bool | Json) -> Json:
    return {name: value for name, value in values.items() if value}


def _enum(enum: EnumDescriptor, hidden: set[int]) -> Json:
    values = [value.name for value in enum.values if value.number not in hidden]
    comments = {value: _comment(f"{enum.full_name}.{value}") for value in values}
    texts = [_comment(enum.full_name), *(f"- `{value}`: {text}" for value, text in comments.items() if text)]
    description = {"description": "\n".join(text for text in texts if text)} if any(texts) else {}
    return {"type": "string", "enum": values, **description}


@dataclass(frozen=True)
class _Examples:
    """Examples of the text fields of a resource: those of the requests of its service, then those of all services."""

    by_name: Mapping[str, str]

    @classmethod
    def of(cls, route: Route) -> "_Examples":
        """Return the examples for a route."""
        return _examples_of(route.method.containing_service.full_name)

    def text(self, name: str, comment: str) -> str:
        """Return an example of a text: the one in the comment, or one by the field name."""
        prefix = re.search(r'"([a-z]{3}_)" and 32 hexadecimal digits', comment)
        if prefix:
            return f"{prefix[1]}019a5c7e2f407b3c8d1e5a6f7b8c9d0e"
        quoted = re.search(r'(?:for example|defaults to) "([^"]+)"', comment)
        if quoted:
            return quoted[1]
        known = self.by_name.get(name)
        return known or ("2026-10-01" if name.endswith("_date") else name.replace("_", " "))


@lru_cache(maxsize=64)
def _examples_of(service: str) -> _Examples:
    own: dict[str, str] = {}
    others: dict[str, set[str]] = {}
    for route in routes.routes():
        texts = dict(_texts(route.example))
        for item in route.method.input_type.fields:
            for text in rules_of(item).string.example:
                texts.setdefault(item.name, text)
        texts.pop("id", None)
        for name, text in texts.items():
            others.setdefault(name, set()).add(text)
            if route.method.containing_service.full_name == service:
                own.setdefault(name, text)
    # A name with different examples means different things in different resources, such as "name" and "code".
    common = {name: next(iter(texts)) for name, texts in others.items() if len(texts) == 1}
    return _Examples({"etag": "7", **common, **own})


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """Yield the texts in a JSON value with the names of their fields, inner ones first."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
        yield from ((name, text) for name, text in value.items() if isinstance(text, str))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def main() -> None:
    """Write docs/openapi.json."""
    _FILE.parent.mkdir(exist_ok=True)
    _FILE.write_text(json.dumps(document(), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
