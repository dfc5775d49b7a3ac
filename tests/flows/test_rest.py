"""REST as clients meet it on the running stack: what is refused and how, changes with etags, pages, keys, limits."""

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
    answer = finance.post("/entities", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"].endswith(f"/entities/{answer.json()['id']}")
    return dict(answer.json())


@pytest.fixture(scope="module")
def budget(finance: httpx.Client, entity: dict[str, Any]) -> dict[str, Any]:
    return _budget(finance, entity)


def _budget(finance: httpx.Client, entity: dict[str, Any], name: str = "Cloud") -> dict[str, Any]:
    body = {
        "entity_id": entity["id"], "name": name, "category": "cloud", "period_type": "CUSTOM",
        "period_start_date": YEAR, "period_end_date": "2100-01-01",
        "amount": {"currency_code": "EUR", "amount": "1000.00"},
    }  # fmt: skip
    answer = finance.post("/budgets", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem of the answer, which has to be one in full."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said = dict(answer.json())
    assert said["code"] == code
    assert {"type", "title", "status", "detail", "code", "request_id", "trace_id", "errors"} <= set(said)
    assert said["request_id"] == answer.headers["x-request-id"]
    return said


EUR_1 = {"currency_code": "EUR", "amount": "1.00"}


class TestRefusals:
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
    def test_a_bad_charge_names_its_field(
        self, finance: httpx.Client, budget: dict[str, Any], body: dict[str, Any], field: str
    ) -> None:
        answer = finance.post(f"/budgets/{budget['id']}/charge", json=body, headers={"Idempotency-Key": "k"})
        said = problem(answer, 400, "INVALID_FIELDS")
        assert [error["field"] for error in said["errors"]] == [field]

    def test_a_charge_without_a_key_names_the_header(self, finance: httpx.Client, budget: dict[str, Any]) -> None:
        answer = finance.post(f"/budgets/{budget['id']}/charge", json={"amount": EUR_1})
        assert problem(answer, 400, "INVALID_FIELDS")["errors"][0]["field"] == "header Idempotency-Key"

    def test_a_key_with_another_body_is_refused(self, finance: httpx.Client, budget: dict[str, Any]) -> None:
        route, key = f"/budgets/{budget['id']}/charge", {"Idempotency-Key": uuid4().hex}
        first = finance.post(route, json={"amount": EUR_1}, headers=key)
        again = finance.post(route, json={"amount": EUR_1}, headers=key)
        assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
        other = finance.post(route, json={"amount": {**EUR_1, "amount": "2.00"}}, headers=key)
        problem(other, 422, "IDEMPOTENCY_MISMATCH")

    @pytest.mark.parametrize(
        ("content", "code"),
        [(b"{", "MALFORMED_BODY"), (b"[]", "MALFORMED_BODY"), (b'{"a": 1, "a": 2}', "MALFORMED_BODY")],
    )
    def test_a_body_that_is_no_object_is_refused(self, finance: httpx.Client, content: bytes, code: str) -> None:
        answer = finance.post("/budgets", content=content, headers={"content-type": "application/json"})
        problem(answer, 400, code)

    def test_five_megabytes_are_refused(self, finance: httpx.Client) -> None:
        content = b'{"name": "' + b"x" * 5_000_000 + b'"}'
        answer = finance.post("/budgets", content=content, headers={"content-type": "application/json"})
        assert problem(answer, 413, "MESSAGE_TOO_LARGE")["metadata"]["bytes_max"] == str(4 * 1024 * 1024)

    def test_another_media_type_is_refused(self, finance: httpx.Client) -> None:
        problem(
            finance.post("/budgets", content=b"a=1", headers={"content-type": "text/plain"}),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
        )

    def test_another_kind_of_id_is_refused_by_name(self, finance: httpx.Client, entity: dict[str, Any]) -> None:
        said = problem(finance.get(f"/budgets/{entity['id']}"), 400, "INVALID_FIELDS")
        assert "this is the id of an entity" in said["errors"][0]["detail"]

    def test_the_token_of_another_filter_is_refused(self, finance: httpx.Client, entity: dict[str, Any]) -> None:
        for name in ("a", "b"):
            _budget(finance, entity, name)
        token = finance.get("/budgets", params={"page_size": 1}).json()["next_page_token"]
        assert token
        said = problem(
            finance.get("/budgets", params={"page_size": 1, "page_token": token, "state": "ACTIVE"}),
            400,
            "PAGE_TOKEN_INVALID",
        )
        assert said["errors"][0]["field"] == "page_token"

    def test_bad_tokens_and_missing_permissions(
        self, stack: Stack, finance: httpx.Client, budget: dict[str, Any]
    ) -> None:
        route = f"{finance.base_url}budgets/{budget['id']}"
        missing = httpx.get(route)
        problem(missing, 401, "TOKEN_MISSING")
        assert missing.headers["www-authenticate"].startswith("Bearer")
        problem(httpx.get(route, headers={"Authorization": "Bearer nonsense"}), 401, "TOKEN_INVALID")
        with stack.client(ROLE="viewer", TENANT="rest") as viewer:
            answer = viewer.post(f"/budgets/{budget['id']}/close", json={})
            assert problem(answer, 403, "PERMISSION_MISSING")["metadata"]["permission"] == "budgets.write"

    def test_another_tenants_budget_is_as_one_that_is_not_there(self, stack: Stack, budget: dict[str, Any]) -> None:
        with stack.client(ROLE="finance", TENANT="stranger") as stranger:
            theirs = problem(stranger.get(f"/budgets/{budget['id']}"), 404, "BUDGET_NOT_FOUND")
            nobodys = problem(stranger.get("/budgets/bud_" + "0" * 32), 404, "BUDGET_NOT_FOUND")
        assert set(theirs) == set(nobodys)

    def test_an_unknown_route_and_an_unknown_verb(self, finance: httpx.Client) -> None:
        problem(finance.get("/nothing"), 404, "ROUTE_NOT_FOUND")
        answer = finance.delete("/budgets")
        problem(answer, 405, "METHOD_NOT_ALLOWED")
        assert set(answer.headers["allow"].split(", ")) >= {"GET", "POST"}


class TestChanges:
    def test_a_patch_changes_what_its_body_names_and_null_clears(
        self, finance: httpx.Client, entity: dict[str, Any]
    ) -> None:
        made = _budget(finance, entity, "patched")
        changed = finance.patch(f"/budgets/{made['id']}", json={"name": "Servers", "category": None}).json()
        assert (changed["name"], changed["category"], changed["amount"]) == ("Servers", "", made["amount"])

    def test_a_stale_etag_is_refused_and_the_current_one_is_taken(
        self, finance: httpx.Client, entity: dict[str, Any]
    ) -> None:
        made = _budget(finance, entity, "tagged")
        route = f"/budgets/{made['id']}"
        etag = finance.get(route).headers["etag"]
        changed = finance.patch(route, json={"name": "Mine"}, headers={"If-Match": etag})
        assert changed.status_code == 200
        problem(finance.patch(route, json={"name": "Yours"}, headers={"If-Match": etag}), 412, "ETAG_MISMATCH")
        assert finance.patch(route, json={"name": "Yours"}, headers={"If-Match": changed.headers["etag"]}).is_success

    def test_an_entity_is_shown_with_what_lies_below(self, finance: httpx.Client, entity: dict[str, Any]) -> None:
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

    def test_every_answer_says_what_is_left_of_the_limit(self, finance: httpx.Client) -> None:
        headers = finance.get("/budgets").headers
        assert headers["ratelimit-policy"] == '"default";q=60000;w=60'
        assert headers["ratelimit"].startswith('"default";r=')


class TestWhoIAm:
    def test_me_and_roles(self, stack: Stack) -> None:
        with stack.client(ROLE="viewer,approver", TENANT="rest", SUB="vera") as viewer:
            me = viewer.get("/me").json()
            assert (me["subject"], sorted(me["roles"])) == ("vera", ["approver", "viewer"])
            assert "budgets.read" in me["permissions"]
            assert "billing_admin" in viewer.get("/roles").text
