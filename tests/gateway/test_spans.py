"""Spans of the gateway: one for the request and one for the call to the service, with status codes and reasons."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from opentelemetry.trace import SpanKind, StatusCode

from kit.errors import BillingError, Conflict, Unavailable
from tests.gateway.backend import Backend
from tests.gateway.conftest import BASE, BUDGET
from tests.harness.spans import RecordedSpans, outcome, parent_id


@pytest.fixture
def spans() -> RecordedSpans:
    return RecordedSpans(uuid4().hex)


async def get(client: httpx.AsyncClient, spans: RecordedSpans, path: str) -> httpx.Response:
    headers = {"traceparent": f"00-{spans.trace_id}-{'1' * 16}-01"}
    return await client.get(f"{BASE}{path}", headers=headers)


async def test_service_continues_the_span_of_the_call(
    client: httpx.AsyncClient, backend: Backend, spans: RecordedSpans
) -> None:
    await get(client, spans, f"/budgets/{BUDGET}")
    server, call = await spans.of(SpanKind.SERVER), await spans.of(SpanKind.CLIENT)
    assert (server.name, outcome(server)) == (f"GET {BASE}/budgets/{{id}}", (StatusCode.UNSET, 200, None))
    assert (call.name, outcome(call)) == (
        "billing.budgets.v1.BudgetService/GetBudget", (StatusCode.UNSET, "OK", None),
    )  # fmt: skip
    assert parent_id(call) == server.context.span_id
    assert int(backend.received[0].metadata["traceparent"].split("-")[2], 16) == call.context.span_id


@pytest.mark.parametrize(
    ("error", "status", "http", "code", "reason"),
    [
        (Conflict(), StatusCode.UNSET, 409, "ABORTED", "CONFLICT"),
        (Unavailable("The database"), StatusCode.ERROR, 503, "UNAVAILABLE", "UNAVAILABLE"),
    ],
)
async def test_faults_are_errors_and_refusals_are_not(
    client: httpx.AsyncClient, backend: Backend, spans: RecordedSpans,
    error: BillingError, status: StatusCode, http: int, code: str, reason: str,
) -> None:  # fmt: skip
    backend.replies["GetBudget"] = lambda *_: error
    await get(client, spans, f"/budgets/{BUDGET}")
    assert outcome(await spans.of(SpanKind.SERVER)) == (status, http, reason)
    assert outcome(await spans.of(SpanKind.CLIENT)) == (status, code, reason)
    assert [span.events for span in spans.all()] == [(), ()]


async def test_request_that_the_gateway_rejects_is_no_error(client: httpx.AsyncClient, spans: RecordedSpans) -> None:
    await get(client, spans, "/budgets?page_size=many")
    assert outcome(await spans.of(SpanKind.SERVER)) == (StatusCode.UNSET, 400, "INVALID_FIELDS")


async def test_each_service_of_a_common_list_has_a_span(
    client: httpx.AsyncClient, backend: Backend, spans: RecordedSpans
) -> None:
    await get(client, spans, "/audit-events")
    calls: list[Any] = [span for span in spans.all() if span.kind is SpanKind.CLIENT]
    assert len(calls) == len(backend.received) == 3
    parents = {int(call.metadata["traceparent"].split("-")[2], 16) for call in backend.received}
    assert {call.context.span_id for call in calls} == parents
