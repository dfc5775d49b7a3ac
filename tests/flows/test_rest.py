"""REST on the running stack: errors, updates with etags, pagination, idempotency keys and rate limits."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.flows.conftest import Stack

YEAR = "2026-01-01"


@pytest.fixture(scope="module")
def finance(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client(ROLE="finance", TENANT="rest") as client:
        yield client


@pytest.fixture(scope="module")
def entity(finance: httpx.Client) -> dict[str, Any]:
    body = {
        "code": f"E{uuid4().hex[:8]}", "legal_name": "Acme SE", "entity_type": "HOLDING", "currency_code": "EUR",
        "country_code": "DE", "tax_id": "DE111111125",
    }  # fmt: skip
    response = finance.post("/entities", json=body)
    assert response.status_code == 201, response.text
    assert response.headers["location"].endswith(f"/entities/{response.json()['id']}")
    return dict(response.json())


@pytest.fixture(scope="module")
def budget(finance: httpx.Client, entity: dict[str, Any]) -> dict[str, Any]:
    return _budget(finance, entity)


def _budget(finance: httpx.Client, entity: dict[str, Any], name: str = "Cloud") -> dict[str, Any]:
    body = {
        "entity_id": entity["id"], "name": name, "category": "cloud", "period_type": "CUSTOM",
        "period_start_date": YEAR, "period_end_date": "2100-01-01",
        "amount": {"currency_code": "EUR", "amount": "1000.00"},
    }  # fmt: skip
    response = finance.post("/budgets", json=body)
    assert response.status_code == 201, response.text
    return dict(response.json())


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the problem of the response after checking that it is complete."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem_body = dict(response.json())
    assert problem_body["code"] == code
    assert {"type", "title", "status", "detail", "code", "request_id", "trace_id", "errors"} <= set(problem_body)
    assert problem_body["request_id"] == response.headers["x-request-id"]
    return problem_body


EUR_1 = {"currency_code": "EUR", "amount": "1.00"}


class TestErrors:
    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"amount": {"currency_code": "EUR", "amount": 1.5}}, "amount.amount"),
            ({"amount": {"currency_code": "EUR", "amount": "1.005"}}, "amount.amount"),
            ({"amount": {"currency_code": "JPY", "amount": "1.5"}}, "amount.amount"),
            ({"amount": {"amount": "1.00"}}, "amount.currency_code"),
            ({"amount": {"currency_code": "EURO", "amount": "1.00"}}, "amount.currency_code"),
            ({"amount": EUR_1, "colour": "red"}, "colour"),
            ({"amount": {**EUR_1, "cents": 1}}, "amount.cents"),
            ({"amount": EUR_1, "charge_time": "yesterday"}, "charge_time"),
            ({}, "amount"),
        ],
    )
    def test_invalid_charge_names_its_field(
        self, finance: httpx.Client, budget: dict[str, Any], body: dict[str, Any], field: str
    ) -> None:
        response = finance.post(f"/budgets/{budget['id']}/charge", json=body, headers={"Idempotency-Key": "k"})
        problem_body = problem(response, 400, "INVALID_FIELDS")
        assert [error["field"] for error in problem_body["errors"]] == [field]

    def test_charge_without_key_names_the_header(self, finance: httpx.Client, budget: dict[str, Any]) -> None:
        response = finance.post(f"/budgets/{budget['id']}/charge", json={"amount": EUR_1})
        assert problem(response, 400, "INVALID_FIELDS")["errors"][0]["field"] == "header Idempotency-Key"

    def test_reused_key_with_another_body_is_rejected(self, finance: httpx.Client, budget: dict[str, Any]) -> None:
        route, key = f"/budgets/{budget['id']}/charge", {"Idempotency-Key": uuid4().hex}
        first = finance.post(route, json={"amount": EUR_1}, headers=key)
        repeated = finance.post(route, json={"amount": EUR_1}, headers=key)
        assert (repeated.json(), repeated.headers["idempotency-replayed"]) == (first.json(), "true")
        other = finance.post(route, json={"amount": {**EUR_1, "amount": "2.00"}}, headers=key)
        problem(other, 422, "IDEMPOTENCY_MISMATCH")

    @pytest.mark.parametrize(
        ("content", "code"),
        [(b"{", "MALFORMED_BODY"), (b"[]", "MALFORMED_BODY"), (b'{"a": 1, "a": 2}', "MALFORMED_BODY")],
    )
    def test_malformed_body_is_rejected(self, finance: httpx.Client, content: bytes, code: str) -> None:
        response = finance.post("/budgets", content=content, headers={"content-type": "application/json"})
        problem(response, 400, code)

    def test_body_of_five_megabytes_is_rejected(self, finance: httpx.Client) -> None:
        content = b'{"name": "' + b"x" * 5_000_000 + b'"}'
        response = finance.post("/budgets", content=content, headers={"content-type": "application/json"})
        assert problem(response, 413, "MESSAGE_TOO_LARGE")["metadata"]["bytes_max"] == str(4 * 1024 * 1024)

    def test_other_media_type_is_rejected(self, finance: httpx.Client) -> None:
        problem(
            finance.post("/budgets", content=b"a=1", headers={"content-type": "text/plain"}),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
        )

    def test_id_of_another_kind_is_named(self, finance: httpx.Client, entity: dict[str, Any]) -> None:
        problem_body = problem(finance.get(f"/budgets/{entity['id']}"), 400, "INVALID_FIELDS")
        assert "this is the id of an entity" in problem_body["errors"][0]["detail"]

    def test_page_token_of_another_filter_is_rejected(self, finance: httpx.Client, entity: dict[str, Any]) -> None:
        for name in ("a", "b"):
            _budget(finance, entity, name)
        token = finance.get("/budgets", params={"page_size": 1}).json()["next_page_token"]
        assert token
        problem_body = problem(
            finance.get("/budgets", params={"page_size": 1, "page_token": token, "state": "ACTIVE"}),
            400,
            "PAGE_TOKEN_INVALID",
        )
        assert problem_body["errors"][0]["field"] == "page_token"

    def test_invalid_tokens_and_missing_permissions_are_rejected(
        self, stack: Stack, finance: httpx.Client, budget: dict[str, Any]
    ) -> None:
        route = f"{finance.base_url}budgets/{budget['id']}"
        missing = httpx.get(route)
        problem(missing, 401, "TOKEN_MISSING")
        assert missing.headers["www-authenticate"].startswith("Bearer")
        problem(httpx.get(route, headers={"Authorization": "Bearer nonsense"}), 401, "TOKEN_INVALID")
        with stack.client(ROLE="viewer", TENANT="rest") as viewer:
            response = viewer.post(f"/budgets/{budget['id']}/close", json={})
            assert problem(response, 403, "PERMISSION_MISSING")["metadata"]["permission"] == "budgets.write"

    def test_budget_of_another_tenant_is_not_found(self, stack: Stack, budget: dict[str, Any]) -> None:
        with stack.client(ROLE="finance", TENANT="stranger") as stranger:
            theirs = problem(stranger.get(f"/budgets/{budget['id']}"), 404, "BUDGET_NOT_FOUND")
            nobodys = problem(stranger.get("/budgets/bud_" + "0" * 32), 404, "BUDGET_NOT_FOUND")
        assert set(theirs) == set(nobodys)

    def test_unknown_route_is_404_and_unknown_verb_405(self, finance: httpx.Client) -> None:
        problem(finance.get("/nothing"), 404, "ROUTE_NOT_FOUND")
        response = finance.delete("/budgets")
        problem(response, 405, "METHOD_NOT_ALLOWED")
        assert set(response.headers["allow"].split(", ")) >= {"GET", "POST"}


class TestUpdates:
    def test_patch_changes_the_fields_of_its_body_and_null_clears(
        self, finance: httpx.Client, entity: dict[str, Any]
    ) -> None:
        created = _budget(finance, entity, "patched")
        changed = finance.patch(f"/budgets/{created['id']}", json={"name": "Servers", "category": None}).json()
        assert (changed["name"], changed["category"], changed["amount"]) == ("Servers", "", created["amount"])

    def test_stale_etag_is_rejected_and_the_current_one_accepted(
        self, finance: httpx.Client, entity: dict[str, Any]
    ) -> None:
        created = _budget(finance, entity, "tagged")
        route = f"/budgets/{created['id']}"
        etag = finance.get(route).headers["etag"]
        changed = finance.patch(route, json={"name": "Mine"}, headers={"If-Match": etag})
        assert changed.status_code == 200
        problem(finance.patch(route, json={"name": "Yours"}, headers={"If-Match": etag}), 412, "ETAG_MISMATCH")
        assert finance.patch(route, json={"name": "Yours"}, headers={"If-Match": changed.headers["etag"]}).is_success

    def test_entity_is_returned_with_its_descendants(self, finance: httpx.Client, entity: dict[str, Any]) -> None:
        body = {
            "code": f"S{uuid4().hex[:8]}", "legal_name": "Acme UK Ltd", "entity_type": "SUBSIDIARY",
            "currency_code": "GBP", "country_code": "GB", "parent_id": entity["id"],
        }  # fmt: skip
        below = finance.post("/entities", json=body).json()
        tree = finance.get(f"/entities/{entity['id']}").json()
        assert (tree["entity"]["id"], [child["entity"]["id"] for child in tree["children"]]) == (
            entity["id"],
            [below["id"]],
        )

    def test_every_response_has_ratelimit_headers(self, finance: httpx.Client) -> None:
        headers = finance.get("/budgets").headers
        assert headers["ratelimit-policy"] == '"default";q=60000;w=60'
        assert headers["ratelimit"].startswith('"default";r=')


class TestIdentity:
    def test_me_and_roles_are_returned(self, stack: Stack) -> None:
        with stack.client(ROLE="viewer,approver", TENANT="rest", SUB="vera") as viewer:
            me = viewer.get("/me").json()
            assert (me["subject"], sorted(me["roles"])) == ("vera", ["approver", "viewer"])
            assert "budgets.read" in me["permissions"]
            assert "billing_admin" in viewer.get("/roles").text
