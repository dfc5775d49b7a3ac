"""Valid requests to every RPC, made from the descriptors.

A request has the example of its REST route, or the one in EXAMPLES; required fields without an example get one by their
rules. Ids are those of a world, by their prefix.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final
from uuid import uuid4

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from contract import openapi, routes
from contract.field_rules import disallowed_numbers, rules_of
from tests.contract import contract

ID: Final = re.compile(r"\b([a-z]{3})_[0-9a-f]{32}\b")
_PREFIX: Final = re.compile(r"\b([a-z]{3})_\[0-9a-f\]\{32\}")
KEYS: Final[Mapping[str, str]] = {"GetCharge": "request_id"}
"""RPCs that look a resource up by a key instead of its id, with the field."""
EXAMPLES: Final[Mapping[str, Any]] = {
    "GetRates": {"conversions": [{"from_currency": "EUR", "to_currency": "USD", "conversion_date": "2026-10-01"}]},
    "CheckApprovalNeed": {"request_type": "CONTRACT"},
    "OpenApproval": {
        "entity_id": f"ent_{'0' * 32}", "request_type": "PURCHASE", "title": "Laptops",
        "amount": {"currency_code": "EUR", "amount": "1.00"},
    },
    "HoldForApproval": {"round": 1, "amount": {"currency_code": "EUR", "amount": "1.00"}},
    "ReleaseForApproval": {"round": 1},
    "ReviewFunds": {"amount": {"currency_code": "EUR", "amount": "1.00"}},
    **{
        name: {
            "lines": [{"line_id": f"iln_{'0' * 32}", "amount": {"currency_code": "EUR", "amount": "1.00"}}],
            **({"reason": "Outage"} if name == "CreateDisputeCreditNote" else {}),
        }
        for name in ("HoldLines", "ReleaseLines", "CreateDisputeCreditNote")
    },
    "SummarizeCosts": {"start_date": "2026-01-01", "end_date": "2027-01-01"},
    "RedriveDeadLetter": {"consumer": "budgets.x", "event_id": "019a5c7e-2f40-7b3c-8d1e-5a6f7b8c9d0e"},
    "DropDeadLetter": {"consumer": "budgets.x", "event_id": "019a5c7e-2f40-7b3c-8d1e-5a6f7b8c9d0e"},
}  # fmt: skip
"""Requests to RPCs whose proto has no example, without ids."""


def all_methods() -> list[MethodDescriptor]:
    """Return every RPC that we implement."""
    return contract.methods()


@lru_cache(maxsize=1)
def _bodies() -> Mapping[str, Any]:
    """Return the examples of the REST bodies by RPC."""
    operations = [operation for path in openapi.document()["paths"].values() for operation in path.values()]
    return {
        each["operationId"]: each["requestBody"]["content"]["application/json"]["example"]
        for each in operations
        if "requestBody" in each
    }


@lru_cache(maxsize=1)
def _body_fields() -> Mapping[str, str]:
    return {route.method.name: route.body for route in routes.routes()}


def new_request(method: MethodDescriptor, ids: Mapping[str, str], **fields: Any) -> Any:
    """Return a valid request with these ids by prefix, and a new idempotency key; `fields` replace others."""
    body, field = _bodies().get(method.name) or EXAMPLES.get(method.name, {}), _body_fields().get(method.name, "*")
    values = body if field in {"*", ""} else {field: body}
    text = ID.sub(lambda match: ids.get(match[1], match[0]), json.dumps(values))
    request: Any = json_format.ParseDict(json.loads(text), GetMessageClass(method.input_type)())
    if "update_mask" in method.input_type.fields_by_name:
        request.update_mask.paths[:] = list(values)
    for item in method.input_type.fields:
        if not _is_set(request, item) or item.name == "source_ref":
            _fill(request, item, ids)
        prefix = id_prefix(item)
        if prefix and item.name.startswith("to_"):  # another resource of the same kind
            setattr(request, item.name, ids.get(f"other {prefix}", ""))
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def _is_set(request: Message, item: FieldDescriptor) -> bool:
    return item.name in {field.name for field, _ in request.ListFields()}


def _fill(request: Any, item: FieldDescriptor, ids: Mapping[str, str]) -> None:
    """Set a required field that the example lacks, or an id."""
    rules, prefix = rules_of(item), id_prefix(item)
    if item.is_repeated:
        if prefix and rules.repeated.min_items:
            getattr(request, item.name).append(ids.get(prefix, ""))
        return
    if item.message_type is not None:
        return
    if item.name in {"request_id", "source_ref"}:
        setattr(request, item.name, uuid4().hex)
    elif prefix and (rules.required or rules.string.min_len):
        setattr(request, item.name, ids.get(prefix, ""))
    elif rules.required and rules.string.example:
        setattr(request, item.name, rules.string.example[0])
    elif rules.required and item.enum_type is not None:
        allowed = set(item.enum_type.values_by_number) - disallowed_numbers(item) - {0}
        setattr(request, item.name, min(allowed))


def id_prefix(item: FieldDescriptor) -> str:
    """Return the prefix of the ids in a field: "bud"; empty if it has no ids of one kind."""
    rules = rules_of(item)
    match = _PREFIX.search(rules.repeated.items.string.pattern if item.is_repeated else rules.string.pattern)
    return match[1] if match else ""


def with_id(request: Any, path: str, value: str) -> Any:
    """Return a copy of the request with the id in the field `path`, such as "lines.budget_id"."""
    copy = type(request)()
    copy.CopyFrom(request)
    target, *rest = copy, *path.split(".")
    for name in rest[:-1]:
        inner = getattr(target, name)
        if target.DESCRIPTOR.fields_by_name[name].is_repeated:
            inner = inner[0] if len(inner) else inner.add()
        target = inner
    last = rest[-1]
    if target.DESCRIPTOR.fields_by_name[last].is_repeated:
        getattr(target, last)[:] = [value]
    else:
        setattr(target, last, value)
    return copy


def id_fields(method: MethodDescriptor) -> Iterator[tuple[str, str]]:
    """Yield the path of each field of a request with an id, and the prefix; inner messages one level deep."""
    for item in method.input_type.fields:
        if id_prefix(item):
            yield item.name, id_prefix(item)
        elif item.message_type is not None and item.message_type.full_name.startswith("billing."):
            for inner in item.message_type.fields:
                if id_prefix(inner):
                    yield f"{item.name}.{inner.name}", id_prefix(inner)
