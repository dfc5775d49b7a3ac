"""How replies and errors of services become HTTP responses, and the routes of the gateway itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from uuid import uuid4

import httpx
import prometheus_client
import pytest
from google.protobuf.message import Message

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
from kit.settings import Settings
from tests.gateway.backend import Backend, ReceivedCall
from tests.gateway.conftest import BASE, BUDGET


class TestReplies:
    async def test_default_values_are_shown_and_unset_messages_omitted(
        self, client: httpx.AsyncClient, backend: Backend
    ) -> None:
        backend.replies["GetBudget"] = backend.message("budgets.v1.Budget", id=BUDGET, etag="7", state=99)
        response = await client.get(f"{BASE}/budgets/{BUDGET}")
        budget = response.json()
        assert (budget["utilisation_bp"], budget["name"], budget["alert_thresholds_bp"]) == (0, "", [])
        assert (budget["period_type"], budget["state"]) == ("PERIOD_TYPE_UNSPECIFIED", 99)
        assert "amount" not in budget
        assert response.headers["etag"] == '"7"'
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-content-type-options"] == "nosniff"

    async def test_created_resource_has_location(self, client: httpx.AsyncClient, backend: Backend) -> None:
        backend.replies["CreateBudget"] = backend.message("budgets.v1.Budget", id=BUDGET)
        response = await client.post(f"{BASE}/budgets", json={})
        assert (response.status_code, response.headers["location"]) == (201, f"{BASE}/budgets/{BUDGET}")

    async def test_replayed_response_is_marked(self, client: httpx.AsyncClient, backend: Backend) -> None:
        def replay(_: Any, received: ReceivedCall) -> Any:
            received.context.set_trailing_metadata((("idempotency-replayed", "true"),))
            return backend.message("budgets.v1.Charge", id="ety_1")

        backend.replies["Charge"] = replay
        response = await client.post(f"{BASE}/budgets/{BUDGET}/charge", json={})
        assert response.headers["idempotency-replayed"] == "true"

    async def test_head_is_served_like_get(self, client: httpx.AsyncClient) -> None:
        assert (await client.head(f"{BASE}/budgets/{BUDGET}")).status_code == 200


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (PermissionMissing("budgets.read"), 403), (NotFound("none"), 404), (FailedPrecondition("no"), 409),
            (Conflict(), 409), (EtagMismatch("1", "2"), 412), (IdempotencyMismatch("k"), 422), (Overloaded(), 429),
            (Unavailable("It"), 503), (BillingError("bad"), 500),
        ],
    )  # fmt: skip
    async def test_each_reason_has_its_http_status(
        self, client: httpx.AsyncClient, backend: Backend, error: BillingError, status: int
    ) -> None:
        backend.replies["GetBudget"] = error
        response = await client.get(f"{BASE}/budgets/{BUDGET}")
        problem = response.json()
        assert response.status_code == status == problem["status"]
        assert response.headers["content-type"] == "application/problem+json"
        assert (problem["code"], problem["type"], problem["detail"]) == (
            error.reason, f"/errors/{error.reason}", error.message,
        )  # fmt: skip
        assert problem["metadata"] == error.metadata
        assert problem["retryable"] == ("retry-after" in response.headers or error.reason == "CONFLICT")

    async def test_fields_have_their_rest_names(self, client: httpx.AsyncClient, backend: Backend) -> None:
        violations = [
            Violation("request_id", "value is required", "required"),
            Violation("amount.amount", "bad", "money"),
        ]
        backend.replies["Charge"] = InvalidFields(violations)
        response = await client.post(f"{BASE}/budgets/{BUDGET}/charge", json={})
        assert response.json()["errors"] == [
            {"field": "header Idempotency-Key", "code": "required", "detail": "value is required"},
            {"field": "amount.amount", "code": "money", "detail": "bad"},
        ]
        detail = "Invalid request: header Idempotency-Key: value is required; amount.amount: bad"
        assert response.json()["detail"] == detail

    async def test_internal_error_leaks_no_details(
        self, client: httpx.AsyncClient, backend: Backend, logs: list[dict[str, Any]]
    ) -> None:
        def fail(_: Any, __: ReceivedCall) -> Any:
            raise RuntimeError("password=hunter2")

        backend.replies["GetBudget"] = fail
        response = await client.get(f"{BASE}/budgets/{BUDGET}")
        assert (response.status_code, response.json()["code"]) == (500, "INTERNAL")
        assert "hunter2" not in response.text
        assert response.json()["metadata"]["incident"] in {line.get("incident") for line in logs}

    async def test_exceeded_deadline_is_504(self, client: httpx.AsyncClient, backend: Backend) -> None:
        backend.replies["GetBudget"] = lambda _, __: asyncio.sleep(5)
        response = await client.get(f"{BASE}/budgets/{BUDGET}", headers={"request-timeout": "0.1"})
        assert (response.status_code, response.json()["code"]) == (504, "DEADLINE_EXCEEDED")

    async def test_too_large_reply_is_413(self, client: httpx.AsyncClient, backend: Backend) -> None:
        backend.replies["GetBudget"] = backend.message("budgets.v1.Budget", name="x" * 200_000)
        response = await client.get(f"{BASE}/budgets/{BUDGET}")
        assert (response.status_code, response.json()["code"]) == (413, "MESSAGE_TOO_LARGE")

    async def test_unknown_route_is_404_and_unknown_verb_405(self, client: httpx.AsyncClient) -> None:
        response = await client.get(f"{BASE}/unicorns")
        assert (response.status_code, response.json()["code"]) == (404, "ROUTE_NOT_FOUND")
        response = await client.delete(f"{BASE}/budgets/{BUDGET}")
        assert (response.status_code, response.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
        assert response.headers["allow"] == "GET, PATCH"


class TestAuthentication:
    async def test_missing_token_is_rejected(self, anonymous: httpx.AsyncClient, backend: Backend) -> None:
        response = await anonymous.post(f"{BASE}/budgets", content=b"never read")
        assert (response.status_code, response.json()["code"]) == (401, "TOKEN_MISSING")
        assert response.headers["www-authenticate"] == "Bearer"
        assert not backend.received

    async def test_invalid_token_is_rejected(self, anonymous: httpx.AsyncClient) -> None:
        response = await anonymous.get(f"{BASE}/budgets", headers={"authorization": "Bearer a.b.c"})
        assert (response.status_code, response.json()["code"]) == (401, "TOKEN_INVALID")

    async def test_me_and_roles_are_returned(self, client: httpx.AsyncClient, tenant: Any) -> None:
        me = (await client.get(f"{BASE}/me")).json()
        assert (me["tenant_id"], me["subject"], me["roles"]) == (str(tenant), "alice", ["finance"])
        assert "budgets.charge" in me["permissions"]
        roles = (await client.get(f"{BASE}/roles")).json()["roles"]
        assert "viewer" in {role["role"] for role in roles}
        assert [role["role"] for role in roles if role["needs_scope"]] == ["department_manager"]

    async def test_request_is_logged_in_one_line(
        self, client: httpx.AsyncClient, tenant: Any, logs: list[dict[str, Any]]
    ) -> None:
        response = await client.get(f"{BASE}/budgets/{BUDGET}", headers={"x-request-id": uuid4().hex})
        line = next(line for line in logs if line.get("request_id") == response.headers["x-request-id"])
        assert line["route"] == f"{BASE}/budgets/{{id}}"
        assert (line["status"], line["tenant_id"], line["actor"]) == (200, tenant, "alice")
        assert line["trace_id"] == response.headers["traceparent"].split("-")[1]


def active_requests() -> float:
    labels = {"http_request_method": "GET", "url_scheme": "http"}
    return prometheus_client.REGISTRY.get_sample_value("http_server_active_requests", labels) or 0.0


@contextlib.asynccontextmanager
async def gateway_client(
    settings: Callable[..., Settings], addresses: Mapping[str, str]
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway of its own, for services at these addresses."""
    app = App(settings("gateway", addresses=addresses))
    await app.limits.open()
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
    await app.close()


NOWHERE = "127.0.0.1:1"


class TestReadiness:
    async def test_a_gateway_is_ready_but_degraded_while_one_service_is_away(
        self, settings: Callable[..., Settings], backend: Backend
    ) -> None:
        addresses = {"entities": backend.address, "budgets": backend.address, "approvals": NOWHERE}
        async with gateway_client(settings, addresses) as client:
            response = await client.get("/readyz")
        assert response.status_code == 200
        assert response.json() == {
            "ready": True,
            "degraded": True,
            "draining": False,
            "services": {"approvals": "UNREACHABLE", "budgets": "SERVING", "entities": "SERVING"},
            "not_ready": ["approvals"],
        }

    async def test_a_gateway_without_any_service_is_not_ready(self, settings: Callable[..., Settings]) -> None:
        async with gateway_client(settings, dict.fromkeys(("entities", "budgets", "approvals"), NOWHERE)) as client:
            response = await client.get("/readyz")
        assert (response.status_code, response.json()["ready"]) == (503, False)
        assert response.json()["not_ready"] == ["approvals", "budgets", "entities"]


class TestBuiltinRoutes:
    async def test_readiness_fails_while_draining(self, anonymous: httpx.AsyncClient, app: App) -> None:
        assert (await anonymous.get("/healthz")).status_code == 200
        response = await anonymous.get("/readyz")
        assert (response.status_code, response.json()["ready"], response.json()["degraded"]) == (200, True, False)
        app.draining = True
        try:
            response = await anonymous.get("/readyz")
            assert (response.status_code, response.headers["connection"]) == (503, "close")
        finally:
            app.draining = False

    async def test_metrics_are_labelled_by_route_template(self, client: httpx.AsyncClient) -> None:
        await client.get(f"{BASE}/budgets/{BUDGET}")
        text = prometheus_client.generate_latest().decode()
        labels = f'http_request_method="GET",http_response_status_code="200",http_route="{BASE}/budgets/{{id}}"'
        assert f'http_server_request_duration_seconds_count{{{labels},url_scheme="http"}}' in text
        assert BUDGET not in text

    async def test_metrics_are_not_served_on_the_public_port(self, anonymous: httpx.AsyncClient) -> None:
        assert (await anonymous.get("/metrics")).status_code == 404

    async def test_requests_in_progress_are_counted_by_method(
        self, client: httpx.AsyncClient, backend: Backend
    ) -> None:
        reply, arrived = asyncio.Event(), asyncio.Event()

        async def get_budget(*_: Any) -> Message:
            arrived.set()
            await reply.wait()
            return backend.message("budgets.v1.Budget", id=BUDGET)

        backend.replies["GetBudget"] = get_budget
        before = active_requests()
        request = asyncio.create_task(client.get(f"{BASE}/budgets/{BUDGET}"))
        await arrived.wait()
        assert active_requests() == before + 1
        reply.set()
        assert (await request).status_code == 200
        assert active_requests() == before

    async def test_docs_load_nothing_from_other_hosts(self, anonymous: httpx.AsyncClient) -> None:
        page = await anonymous.get("/docs")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "http" not in page.text.replace("/docs/", "").replace("<!doctype html>", "")
        for file in ("swagger-ui-bundle.js", "swagger-ui.css", "start.js", "favicon.png"):
            assert f"/docs/{file}" in page.text
            assert (await anonymous.get(f"/docs/{file}")).status_code == 200
        assert (await anonymous.get("/docs/..%2f..%2fcore.py")).status_code == 404
        assert (await anonymous.get("/openapi.json")).json()["openapi"] == "3.1.0"

    async def test_each_error_reason_has_a_page(self, anonymous: httpx.AsyncClient) -> None:
        assert "Read it again" in (await anonymous.get("/errors/ETAG_MISMATCH")).text
        assert (await anonymous.get("/errors/NOTHING")).status_code == 404
