"""The OpenAPI document: valid, complete, and the same as docs/openapi.json."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import validate
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from contract import openapi
from contract.routes import routes
from tests.gateway.backend import PROBE_ROUTES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads(json.dumps(openapi.document()))  # type: ignore[no-any-return]


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_document_is_valid_openapi(document: dict[str, Any]) -> None:
    validate(document)


def test_committed_document_is_current(document: dict[str, Any]) -> None:
    committed = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert committed == document, "run `python -m contract.openapi`"


def test_every_route_is_documented(document: dict[str, Any]) -> None:
    for route in routes():
        operation = document["paths"][route.template][route.verb.lower()]
        assert operation["operationId"] == route.method.name
        assert f"Permission: `{route.access.permission}`" in operation["description"]
        described = {name for response in operation["responses"].values() for name in _examples(response)}
        assert set(route.reasons) <= described


def test_operations_have_unique_ids_summary_and_tags(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for operation in operations(document)]
    assert len(ids) == len(set(ids))
    for operation in operations(document):
        assert operation["summary"], operation["operationId"]
        assert operation["tags"], operation["operationId"]


def test_examples_are_valid_by_their_schemas(document: dict[str, Any]) -> None:
    registry: Registry[Any] = Registry().with_resource("urn:api", DRAFT202012.create_resource(document))
    for operation in operations(document):
        bodies = [operation.get("requestBody", {}), *(a for s, a in operation["responses"].items() if s < "300")]
        for content in (content for body in bodies for content in body.get("content", {}).values()):
            if "example" in content:
                validator = Draft202012Validator(_absolute(content["schema"]), registry=registry)
                errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(content["example"])]
                assert not errors, operation["operationId"]


def test_charge_requires_an_idempotency_key(document: dict[str, Any]) -> None:
    path = document["paths"]["/api/enterprise-billing/budgets/{id}/charge"]["post"]
    keys = [parameter for parameter in path["parameters"] if parameter["name"] == "Idempotency-Key"]
    assert keys[0]["required"]
    body = document["components"]["schemas"]["budgets.ChargeRequest"]
    assert not {"id", "request_id"} & set(body["properties"])
    assert body["required"] == ["amount"]


def test_charge_in_a_batch_has_its_budget_and_key(document: dict[str, Any]) -> None:
    items = document["components"]["schemas"]["budgets.BatchChargeRequest"]["properties"]["charges"]["items"]
    item = document["components"]["schemas"][items["$ref"].rpartition("/")[2]]
    assert {"id", "request_id", "amount"} == set(item["required"])


def test_query_parameters_are_plain_values(document: dict[str, Any]) -> None:
    """A form can fill them: no query parameter is an object."""
    for operation in operations(document):
        for parameter in operation.get("parameters", ()):
            schema = parameter["schema"].get("items", parameter["schema"])
            assert schema["type"] in {"string", "integer", "boolean"}, (operation["operationId"], parameter["name"])


def test_amount_filters_are_documented_by_their_fields(document: dict[str, Any]) -> None:
    parameters = document["paths"]["/api/enterprise-billing/approvals"]["get"]["parameters"]
    amounts = {each["name"]: each for each in parameters if each["name"].startswith("amount_")}
    assert set(amounts) == {f"amount_{end}.{field}" for end in ("from", "to") for field in ("amount", "currency_code")}
    assert not any(each["required"] for each in amounts.values())
    assert amounts["amount_from.amount"]["schema"]["examples"] == ["1250.00"]
    assert "together with `amount_from.currency_code`" in amounts["amount_from.amount"]["description"]


def test_stream_is_documented_by_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "contract.routes.routes", lambda: [route for route in PROBE_ROUTES if route.streams and not route.returns_file]
    )
    document = openapi.document()
    operation = document["paths"]["/api/enterprise-billing/probes/watch"]["get"]
    events = operation["responses"]["200"]
    assert "Server-sent events" in events["description"]
    assert set(events["content"]) == {"text/event-stream"}
    item = events["content"]["text/event-stream"]["schema"]["$ref"].rpartition("/")[2]
    assert set(document["components"]["schemas"][item]["properties"]) == {"event_id", "done", "line"}
    places = {(parameter["in"], parameter["name"]) for parameter in operation["parameters"]}
    assert places == {("query", "name"), ("query", "last_event_id"), ("header", "Last-Event-ID")}
    assert {"401", "403", "503"} <= set(operation["responses"])


def test_file_is_documented_by_its_media_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contract.routes.routes", lambda: [route for route in PROBE_ROUTES if route.returns_file])
    document = openapi.document()
    operation = document["paths"]["/api/enterprise-billing/probes/{id}/file"]["get"]
    file = operation["responses"]["200"]
    assert file["content"] == {
        "application/pdf": {"schema": {"type": "string", "format": "binary"}},
        "application/json": {"schema": {}},
    }
    assert {"Content-Disposition", "ETag"} <= set(file["headers"])
    assert "HttpBody" not in str(document["components"]["schemas"])


def test_gateway_contains_no_term_of_billing() -> None:
    """All that the gateway knows of billing comes from the protos."""
    replies = {route.method.output_type.name for route in routes() if not route.returns_file}
    messages = {name.removesuffix("Response").removeprefix("List") for name in replies}
    words_of = {word.lower() for name in messages for word in re.findall("[A-Z][a-z]+", name)}
    generic = {
        "list",
        "all",
        "set",
        "event",
        "check",
        "contract",
        "lock",
        "on",
        "rule",
        "rate",
        "billing",
        "line",
        "item",
    }
    nouns = words_of - generic
    assert nouns
    for file in (ROOT / "gateway").glob("*.py"):
        code = re.sub(r'"""(?:.|\n)*?"""|#.*|HTTPStatus\.\w+|transfer-encoding', "", file.read_text())
        words = {word.rstrip("s") for word in re.findall("[a-z]+", code.lower())}
        assert not words & nouns, (file.name, words & nouns)


def _absolute(schema: dict[str, Any]) -> dict[str, Any]:
    return {"$ref": f"urn:api{schema['$ref']}"} if "$ref" in schema else schema


def _examples(response: dict[str, Any]) -> list[str]:
    return [name for content in response.get("content", {}).values() for name in content.get("examples", {})]
