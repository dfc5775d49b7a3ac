"""From the reply, or the refusal, to REST."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest

from gateway.app import App
from kit.errors import (
    BillingError,
    Conflict,
    EtagMismatch,
    FailedPrecondition,
    IdempotencyMismatch,
    InvalidFields,
    NotFound,
    Overloaded,
    PermissionMissing,
    Unavailable,
    Violation,
)
from tests.gateway.backend import Asked, Backend
from tests.gateway.conftest import BASE, BUDGET


class TestReplies:
    async def test_defaults_are_shown_and_what_is_not_set_is_left_out(
        self, client: httpx.AsyncClient, backend: Backend
    ) -> None:
        backend.replies["GetBudget"] = backend.message("budgets.v1.Budget", id=BUDGET, etag="7", state=99)
        answer = await client.get(f"{BASE}/budgets/{BUDGET}")
        budget = answer.json()
        assert (budget["utilisation_bp"], budget["name"], budget["alert_thresholds_bp"]) == (0, "", [])
        assert (budget["period_type"], budget["state"]) == ("PERIOD_TYPE_UNSPECIFIED", 99)
        assert "amount" not in budget
        assert answer.headers["etag"] == '"7"'
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"

    async def test_a_new_resource_is_located(self, client: httpx.AsyncClient, backend: Backend) -> None:
        backend.replies["CreateBudget"] = backend.message("budgets.v1.Budget", id=BUDGET)
        answer = await client.post(f"{BASE}/budgets", json={})
        assert (answer.status_code, answer.headers["location"]) == (201, f"{BASE}/budgets/{BUDGET}")

    async def test_a_replay_says_so(self, client: httpx.AsyncClient, backend: Backend) -> None:
        def replayed(_: Any, asked: Asked) -> Any:
            asked.context.set_trailing_metadata((("idempotency-replayed", "true"),))
            return backend.message("budgets.v1.Charge", id="ety_1")

        backend.replies["Charge"] = replayed
        answer = await client.post(f"{BASE}/budgets/{BUDGET}/charge", json={})
        assert answer.headers["idempotency-replayed"] == "true"

    async def test_a_head_is_answered_like_a_get(self, client: httpx.AsyncClient) -> None:
        assert (await client.head(f"{BASE}/budgets/{BUDGET}")).status_code == 200


class TestRefusals:
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (PermissionMissing("budgets.read"), 403), (NotFound("none"), 404), (FailedPrecondition("no"), 409),
            (Conflict(), 409), (EtagMismatch("1", "2"), 412), (IdempotencyMismatch("k"), 422), (Overloaded(), 429),
            (Unavailable("It"), 503), (BillingError("bad"), 500),
        ],
    )  # fmt: skip
    async def test_the_status_that_goes_with_a_reason(
        self, client: httpx.AsyncClient, backend: Backend, error: BillingError, status: int
    ) -> None:
        backend.replies["GetBudget"] = error
        answer = await client.get(f"{BASE}/budgets/{BUDGET}")
        problem = answer.json()
        assert answer.status_code == status == problem["status"]
        assert answer.headers["content-type"] == "application/problem+json"
        assert (problem["code"], problem["type"], problem["detail"]) == (
            error.reason, f"/errors/{error.reason}", error.message,
        )  # fmt: skip
        assert problem["metadata"] == error.metadata
        assert problem["retryable"] == ("retry-after" in answer.headers or error.reason == "CONFLICT")

    async def test_fields_are_named_as_rest_has_them(self, client: httpx.AsyncClient, backend: Backend) -> None:
        wrong = [Violation("request_id", "value is required", "required"), Violation("amount.amount", "bad", "money")]
        backend.replies["Charge"] = InvalidFields(wrong)
        answer = await client.post(f"{BASE}/budgets/{BUDGET}/charge", json={})
        assert answer.json()["errors"] == [
            {"field": "header Idempotency-Key", "code": "required", "detail": "value is required"},
            {"field": "amount.amount", "code": "money", "detail": "bad"},
        ]
        told = "Invalid request: header Idempotency-Key: value is required; amount.amount: bad"
        assert answer.json()["detail"] == told

    async def test_nothing_internal_leaves(
        self, client: httpx.AsyncClient, backend: Backend, logs: list[dict[str, Any]]
    ) -> None:
        def broken(_: Any, __: Asked) -> Any:
            raise RuntimeError("password=hunter2")

        backend.replies["GetBudget"] = broken
        answer = await client.get(f"{BASE}/budgets/{BUDGET}")
        assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
        assert "hunter2" not in answer.text
        assert logs

    async def test_a_deadline(self, client: httpx.AsyncClient, backend: Backend) -> None:
        backend.replies["GetBudget"] = lambda _, __: asyncio.sleep(5)
        answer = await client.get(f"{BASE}/budgets/{BUDGET}", headers={"request-timeout": "0.1"})
        assert (answer.status_code, answer.json()["code"]) == (504, "DEADLINE_EXCEEDED")

    async def test_a_reply_that_is_too_large(self, client: httpx.AsyncClient, backend: Backend) -> None:
        backend.replies["GetBudget"] = backend.message("budgets.v1.Budget", name="x" * 200_000)
        answer = await client.get(f"{BASE}/budgets/{BUDGET}")
        assert (answer.status_code, answer.json()["code"]) == (413, "MESSAGE_TOO_LARGE")

    async def test_unknown_routes_and_verbs(self, client: httpx.AsyncClient) -> None:
        answer = await client.get(f"{BASE}/unicorns")
        assert (answer.status_code, answer.json()["code"]) == (404, "ROUTE_NOT_FOUND")
        answer = await client.delete(f"{BASE}/budgets/{BUDGET}")
        assert (answer.status_code, answer.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
        assert answer.headers["allow"] == "GET, PATCH"


class TestWhoCalls:
    async def test_without_a_token(self, anonymous: httpx.AsyncClient, backend: Backend) -> None:
        answer = await anonymous.post(f"{BASE}/budgets", content=b"not even read")
        assert (answer.status_code, answer.json()["code"]) == (401, "TOKEN_MISSING")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert not backend.asked

    async def test_with_a_token_that_is_not_ours(self, anonymous: httpx.AsyncClient) -> None:
        answer = await anonymous.get(f"{BASE}/budgets", headers={"authorization": "Bearer a.b.c"})
        assert (answer.status_code, answer.json()["code"]) == (401, "TOKEN_INVALID")

    async def test_me_and_roles(self, client: httpx.AsyncClient, tenant: Any) -> None:
        me = (await client.get(f"{BASE}/me")).json()
        assert (me["tenant_id"], me["subject"], me["roles"]) == (str(tenant), "alice", ["finance"])
        assert "budgets.charge" in me["permissions"]
        roles = (await client.get(f"{BASE}/roles")).json()["roles"]
        assert "viewer" in {role["role"] for role in roles}

    async def test_one_log_line_tells_it_all(
        self, client: httpx.AsyncClient, tenant: Any, logs: list[dict[str, Any]]
    ) -> None:
        answer = await client.get(f"{BASE}/budgets/{BUDGET}", headers={"x-request-id": uuid4().hex})
        line = next(line for line in logs if line.get("request_id") == answer.headers["x-request-id"])
        assert line["route"] == f"{BASE}/budgets/{{id}}"
        assert (line["status"], line["tenant_id"], line["actor"]) == (200, tenant, "alice")
        assert line["trace_id"] == answer.headers["traceparent"].split("-")[1]


class TestPages:
    async def test_health_and_readiness(self, anonymous: httpx.AsyncClient, app: App) -> None:
        assert (await anonymous.get("/healthz")).status_code == 200
        answer = await anonymous.get("/readyz")
        assert (answer.status_code, answer.json()["ready"]) == (200, True)
        app.draining = True
        try:
            answer = await anonymous.get("/readyz")
            assert (answer.status_code, answer.headers["connection"]) == (503, "close")
        finally:
            app.draining = False

    async def test_metrics_name_the_template(self, client: httpx.AsyncClient) -> None:
        await client.get(f"{BASE}/budgets/{BUDGET}")
        text = (await client.get("/metrics")).text
        labels = f'http_request_method="GET",http_response_status_code="200",http_route="{BASE}/budgets/{{id}}"'
        assert f"http_server_request_duration_seconds_count{{{labels}}}" in text
        assert BUDGET not in text

    async def test_docs_need_nothing_from_elsewhere(self, anonymous: httpx.AsyncClient) -> None:
        page = await anonymous.get("/docs")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "http" not in page.text.replace("/docs/", "").replace("<!doctype html>", "")
        for file in ("swagger-ui-bundle.js", "swagger-ui.css", "start.js", "favicon.png"):
            assert f"/docs/{file}" in page.text
            assert (await anonymous.get(f"/docs/{file}")).status_code == 200
        assert (await anonymous.get("/docs/..%2f..%2fcore.py")).status_code == 404
        assert (await anonymous.get("/openapi.json")).json()["openapi"] == "3.1.0"

    async def test_a_page_for_each_reason(self, anonymous: httpx.AsyncClient) -> None:
        assert "Read it again" in (await anonymous.get("/errors/ETAG_MISMATCH")).text
        assert (await anonymous.get("/errors/NOTHING")).status_code == 404
