"""OpenAPI 3.1, from the protos: their comments, rules, permissions and errors. The rest is in openapi.base.json.

`python -m contract.openapi` writes it to docs/openapi.json.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from pydantic import TypeAdapter

from contract import codec, descriptors, routes
from contract.acceptance import refused_numbers, rules_of
from contract.descriptors import Reason
from contract.routes import RESUMED, Route
from kit.auth import Principal

_FILE = Path(__file__).parent.parent / "docs" / "openapi.json"
_BASE_FILE = Path(__file__).parent / "openapi.base.json"
_PROBLEM = "application/problem+json"
_JSON = "application/json"
_EVENTS = "text/event-stream"

Json = dict[str, Any]

_ALWAYS = (
    "INVALID_FIELDS", "TOKEN_MISSING", "TOKEN_INVALID", "TOKEN_EXPIRED", "PERMISSION_MISSING", "RATE_LIMITED",
    "OVERLOADED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "INTERNAL",
)  # fmt: skip
_WITH_BODY = ("MALFORMED_BODY", "UNSUPPORTED_MEDIA_TYPE", "MESSAGE_TOO_LARGE")
_WITH_KEY = ("IDEMPOTENCY_MISMATCH", "CONFLICT")

_KINDS: dict[int, Json] = {
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
"""Rules of buf.validate that JSON Schema has too."""
_KEY_TEXT = (
    "Names this request. Repeated with the same key it is done once and answered the same; with another input it is"
    " refused as IDEMPOTENCY_MISMATCH. Repeat a call whose answer was lost with its key."
)
_STREAM_TEXT = (
    "Server-sent events, for as long as you listen. `data` of each is JSON of this schema, `event` says what it is,"
    " and `id`, where it has one, is what you send as `Last-Event-ID` to go on after it. Comments keep the connection"
    " alive. A refusal that comes later is an `event: error` with a problem as its data, and the end. A stream may end"
    " at any time: connect again."
)


def document() -> Json:
    """The whole description: what is written in `openapi.base.json`, and what the protos say."""
    made: Json = json.loads(_BASE_FILE.read_text())
    components = made["components"]
    schemas = _Schemas(components["schemas"])
    services = {}
    for route in routes.routes():
        service = route.method.containing_service
        services[service.name] = _comment(service.full_name)
        made["paths"].setdefault(route.template, {})[route.verb.lower()] = _operation(route, schemas)
    made["tags"] += [{"name": name, "description": text} for name, text in services.items()]
    schemas.made["Principal"] = TypeAdapter(Principal).json_schema()
    components["examples"] = {reason.name: _problem_example(reason) for reason in descriptors.reasons().values()}
    return made


def _comment(full_name: str) -> str:
    return descriptors.comments().get(full_name, "")


def _operation(route: Route, schemas: "_Schemas") -> Json:
    summary, _, text = _comment(route.method.full_name).partition("\n\n")
    operation: Json = {
        "operationId": route.method.name,
        "tags": [route.method.containing_service.name],
        "summary": re.split(r"(?<=[.:])\s", summary, maxsplit=1)[0].rstrip(".:"),
        "description": "\n\n".join(part for part in (summary, text, f"Permission: `{route.permission}`.") if part),
    }
    parameters = [*_parameters(route, schemas), *_header_parameters(route)]
    if parameters:
        operation["parameters"] = parameters
    if route.body:
        operation["requestBody"] = _body(route, schemas)
    reasons = [*_ALWAYS, *route.reasons]
    reasons += _WITH_BODY if route.body else ()
    reasons += _WITH_KEY if "request_id" in route.headers else ()
    operation["responses"] = {**_success(route, schemas), **_refusals(reasons)}
    return operation


def _parameters(route: Route, schemas: "_Schemas") -> Iterator[Json]:
    for item in route.method.input_type.fields:
        in_path = item.name in route.variables
        if not in_path and (route.body == "*" or item.name in {route.body, *route.headers} - {RESUMED}):
            continue
        yield {
            "name": item.name,
            "in": "path" if in_path else "query",
            "required": in_path or _is_required(item),
            "description": _comment(item.full_name),
            "schema": schemas.of_field(item, asked=True),
        }


def _header_parameters(route: Route) -> Iterator[Json]:
    for name, header in route.headers.items():
        item = route.method.input_type.fields_by_name[name]
        schema = {
            key: value
            for key, value in _of_rules(rules_of(item)).items()
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
        left_out = {*route.variables, *route.headers, "update_mask"}
        schema = schemas.of_request(request, [item for item in request.fields if item.name not in left_out])
    else:
        schema = schemas.of_field(request.fields_by_name[route.body], asked=True)
    content = schemas.resolved(schema)
    example = schemas.example(schema, asked=not route.masked)
    if route.masked:
        content["properties"] = {name: _clearable(value) for name, value in content["properties"].items()}
    return {
        "required": bool(content.get("required")),
        "content": {_JSON: {"schema": schema, "example": example}},
    }


def _clearable(schema: Json) -> Json:
    """The schema of a field that null clears."""
    described = {"description": schema["description"]} if "description" in schema else {}
    return {
        "anyOf": [{key: value for key, value in schema.items() if key != "description"}, {"type": "null"}],
        **described,
    }


def _success(route: Route, schemas: "_Schemas") -> Json:
    headers = ["X-Request-Id", "traceparent", "RateLimit-Policy", "RateLimit"]
    headers += ["ETag"] if route.tagged else []
    headers += ["Idempotency-Replayed"] if "request_id" in route.headers else []
    headers += ["Location"] if route.creates else []
    answer: Json = {"description": "Done.", "headers": _header_refs(headers)}
    if route.empty:
        return {"204": answer}
    schema = schemas.of_message(route.method.output_type)
    answer["content"] = {_EVENTS if route.streams else _JSON: {"schema": schema, "example": schemas.example(schema)}}
    if route.streams:
        answer["description"] = _STREAM_TEXT
    return {"201" if route.creates else "200": answer}


def _header_refs(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _refusals(names: Iterable[str]) -> Json:
    """The responses with which a call may be refused, by HTTP status."""
    reasons = sorted((descriptors.reasons()[name] for name in dict.fromkeys(names)), key=lambda reason: reason.status)
    answers: Json = {}
    for status, group in groupby(reasons, key=lambda reason: reason.status):
        listed = list(group)
        headers = ["X-Request-Id", "traceparent", *(["Retry-After"] if status.value in {429, 503} else [])]
        answers[str(status.value)] = {
            "description": "\n".join(f"- `{reason.name}`: {reason.text}" for reason in listed),
            "headers": _header_refs(headers),
            "content": {
                _PROBLEM: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {reason.name: {"$ref": f"#/components/examples/{reason.name}"} for reason in listed},
                }
            },
        }
    return answers


def _problem_example(reason: Reason) -> Json:
    wrong = {"field": "amount.amount", "code": "type.string", "detail": 'must be a string such as "1250.00"'}
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
        "errors": [wrong] if reason.name == "INVALID_FIELDS" else [],
    }
    return {"summary": reason.title, "value": value}


def _is_required(item: FieldDescriptor) -> bool:
    """Whether a request without the field is refused: by `required`, or by a rule that its zero value breaks."""
    rules = rules_of(item)
    if rules.required:
        return True
    if item.is_repeated:
        return rules.repeated.min_items > 0
    text = rules.string
    broken = text.min_len > 0 or text.uuid or (item.enum_type is not None and 0 in refused_numbers(item))
    return not item.has_presence and (broken or bool(text.pattern and not re.search(text.pattern, "")))


def _of_rules(rules: validate_pb2.FieldRules) -> Json:
    """What the rules of a value say, as JSON Schema."""
    kind = rules.WhichOneof("type")
    given = getattr(rules, kind).ListFields() if kind in {"string", "int32", "int64"} else ()
    found: Json = {_KEYWORDS[rule.name]: value for rule, value in given if rule.name in _KEYWORDS}
    if "examples" in found:
        found["examples"] = list(found["examples"])
    return found | ({"format": "uuid"} if rules.string.uuid else {})


@dataclass
class _Schemas:
    """The schemas of messages, made as they are asked for."""

    made: Json = field(default_factory=dict)

    def of_request(self, message: Descriptor, fields: Iterable[FieldDescriptor]) -> Json:
        """The schema of a request's body."""
        name = _name(message)
        self.made[name] = self._object(message, fields, asked=True)
        return {"$ref": f"#/components/schemas/{name}"}

    def of_message(self, message: Descriptor, *, asked: bool = False) -> Json:
        """The schema of a message; `asked` where a request has it, so that unknown fields are refused."""
        if message.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[message.full_name])
        name = _name(message)
        if name not in self.made:
            self.made[name] = {}  # being made: a message may contain itself
            self.made[name] = self._object(message, message.fields, asked=asked)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, message: Descriptor, fields: Iterable[FieldDescriptor], *, asked: bool) -> Json:
        fields = list(fields)
        schema: Json = {"type": "object", "description": _comment(message.full_name), "properties": {}}
        for item in fields:
            text = _comment(item.full_name)
            described = {"description": text} if text else {}
            only_out = {"readOnly": True} if text.startswith("Output only") else {}
            schema["properties"][item.name] = {**self.of_field(item, asked=asked), **described, **only_out}
        required = [item.name for item in fields if (_is_required(item) if asked else not item.has_presence)]
        if required:
            schema["required"] = required
        if asked:
            schema["additionalProperties"] = False
        return schema

    def of_field(self, item: FieldDescriptor, *, asked: bool) -> Json:
        """The schema of a field's value."""
        rules = rules_of(item)
        entry = codec.entry_of(item)
        if entry:
            value = {**self._one(entry[1], asked=asked), **_of_rules(rules.map.values)}
            names = _given(propertyNames=_of_rules(rules.map.keys), maxProperties=rules.map.max_pairs)
            return {"type": "object", "additionalProperties": value} | names
        if item.is_repeated:
            each = {**self._one(item, asked=asked), **_of_rules(rules.repeated.items)}
            sizes = _given(minItems=rules.repeated.min_items, maxItems=rules.repeated.max_items)
            return {"type": "array", "items": each} | sizes | _given(uniqueItems=rules.repeated.unique)
        return {**self._one(item, asked=asked), **_of_rules(rules)}

    def _one(self, item: FieldDescriptor, *, asked: bool) -> Json:
        if item.message_type is not None:
            return self.of_message(item.message_type, asked=asked)
        if item.enum_type is not None:
            return _enum(item.enum_type, but=refused_numbers(item) if asked else set())
        return dict(_KINDS[item.type])

    def resolved(self, schema: Json) -> Json:
        """The schema that a reference means."""
        name = schema.get("$ref", "").rpartition("/")[2]
        return self.made[name] if name else schema

    def example(self, schema: Json, name: str = "", *, asked: bool = False, depth: int = 0) -> Any:
        """A value that fits the schema."""
        full = {**self.resolved(schema), **schema}
        if "examples" in full:
            return full["examples"][0]
        if "enum" in full:
            return next(value for value in full["enum"] if not value.endswith("_UNSPECIFIED"))
        if "properties" in full:
            wanted = full.get("required", []) if asked else full["properties"]
            return {
                key: self.example(value, key, asked=asked, depth=depth + 1)
                for key, value in full["properties"].items()
                if key in wanted
            }
        if full.get("type") == "array":
            recursive = depth > 1 and "$ref" in full["items"] and not full.get("minItems")
            return [] if recursive else [self.example(full["items"], name, asked=asked, depth=depth + 1)]
        if full.get("type") == "string":
            return _text_example(name, full.get("description", ""))
        return {"integer": full.get("minimum", 1), "boolean": False, "number": 1.0}.get(full.get("type", ""), {})


def _name(message: Descriptor) -> str:
    return re.sub(r"^billing\.|\bv\d+\.", "", message.full_name)


def _given(**values: int | bool | Json) -> Json:
    return {name: value for name, value in values.items() if value}


def _enum(enum: EnumDescriptor, but: set[int]) -> Json:
    values = [value.name for value in enum.values if value.number not in but]
    told = {value: _comment(f"{enum.full_name}.{value}") for value in values}
    texts = [_comment(enum.full_name), *(f"- `{value}`: {text}" for value, text in told.items() if text)]
    described = {"description": "\n".join(text for text in texts if text)} if any(texts) else {}
    return {"type": "string", "enum": values, **described}


def _text_example(name: str, comment: str) -> str:
    """An example of a text: what the comment gives, or what the name tells."""
    prefix = re.search(r'"([a-z]{3}_)" and 32 hexadecimal digits', comment)
    if prefix:
        return f"{prefix[1]}019a5c7e2f407b3c8d1e5a6f7b8c9d0e"
    told = re.search(r'(?:for example|defaults to) "([^"]+)"', comment)
    if told:
        return told[1]
    known = {"etag": "7", **_known_examples()}
    return known.get(name) or ("2026-10-01" if name.endswith("_date") else name.replace("_", " "))


@lru_cache(maxsize=1)
def _known_examples() -> dict[str, str]:
    """Examples that the rules of any request give for a field, by its name."""
    fields = (item for route in routes.routes() for item in route.method.input_type.fields if item.name != "id")
    return {item.name: example for item in fields for example in rules_of(item).string.example}


def main() -> None:
    """Write the description to its file."""
    _FILE.parent.mkdir(exist_ok=True)
    _FILE.write_text(json.dumps(document(), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
