"""Values of requests, rows and events are found in no log and no span of the running stack."""

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import nats
from outside.usage.v1.usage_pb2 import UsageRecorded

from deploy.local.keys import tenant_id
from tests.flows.conftest import Stack, eventually
from tests.harness.events import headers_of

NAME = "Canary"
AMOUNTS = ("13579.13", "97531.97")
"""The amount of the budget, and a charge that it rejects."""
PLANTED = (NAME.lower(), *AMOUNTS, *(amount.partition(".")[0] for amount in AMOUNTS))
PLANTED_VALUE = re.compile(rf"(?<![0-9a-z])(?:{'|'.join(map(re.escape, PLANTED))})(?![0-9a-z])")
"""A planted value that is not a part of a longer number or id, such as the microseconds of a time."""


def _text(name: str) -> str:
    return f"{NAME} {name}"


def _money(amount: str) -> dict[str, str]:
    return {"currency_code": "EUR", "amount": amount}


def _entity(client: httpx.Client, code: str) -> httpx.Response:
    body = {
        "code": code, "legal_name": _text("SE"), "entity_type": "HOLDING", "currency_code": "EUR",
        "country_code": "DE",
    }  # fmt: skip
    return client.post("/entities", json=body)


def _budget(client: httpx.Client, entity_id: str) -> dict[str, Any]:
    body = {
        "entity_id": entity_id, "name": _text("budget"), "period_type": "ANNUAL", "amount": _money(AMOUNTS[0]),
        "period_start_date": f"{time.gmtime().tm_year}-01-01", "overspend_policy": "BLOCK",
    }  # fmt: skip
    response = client.post("/budgets", json=body)
    assert response.is_success, response.text
    return dict(response.json())


def _refusals(client: httpx.Client, budget_id: str) -> list[httpx.Response]:
    """Requests that are refused for a reason of each kind, with planted values wherever a caller can put them."""
    charge = {"amount": _money(AMOUNTS[1]), "description": _text("charge"), "reference": _text("reference")}
    key = {"Idempotency-Key": _text("key").replace(" ", "-")}
    return [
        _entity(client, "CANARY-1"),  # a second one with its code
        client.post(f"/budgets/{budget_id}/charge", json=charge, headers=key),
        client.post(f"/budgets/{budget_id}/charge", json={"amount": _money(NAME)}, headers=key),
        client.post(f"/budgets/{budget_id}/charge", json={NAME: NAME}, headers=key),
        client.post(f"/budgets/{budget_id}/charge", content=f'{{"{NAME}'.encode(), headers=key),
        client.patch(f"/budgets/{budget_id}", json={"name": _text("other")}, headers={"If-Match": f'"{NAME}"'}),
        client.get(f"/budgets/{NAME}"),
        client.get(f"/budgets?{NAME}={NAME}"),
        client.get(f"/{NAME}"),
        client.post("/approval-rules", json={"name": _text("rule"), "condition": f"{NAME} >"}),
        client.get("/me", headers={"Authorization": f"Bearer {NAME}"}),
    ]


async def _publish_failing_event(url: str, tenant: str) -> None:
    """Publish a usage record of an unknown entity, and one that can't be parsed; return when both were delivered."""
    client = await nats.connect(url)
    jetstream = client.jetstream()
    subject = f"{UsageRecorded.DESCRIPTOR.full_name}.{tenant_id(tenant).hex}"
    record = {
        "record_id": NAME, "entity_code": NAME, "amount": _money(AMOUNTS[1]), "description": NAME, "category": NAME,
        "usage_time": "2026-10-01T00:00:00Z",
    }  # fmt: skip
    for body in (json.dumps(record), json.dumps({"usage_time": NAME}), NAME):
        await jetstream.publish(subject, body.encode(), headers=headers_of(UsageRecorded, ce_actor="alice"))
    await jetstream.publish(subject, b"{}", headers=headers_of(UsageRecorded, ce_actor=f"{NAME}\x01"))
    await jetstream.publish(subject, b"{}", headers=headers_of(UsageRecorded, ce_source=f"/{NAME}"))
    await client.close()


def _admin_url(stack: Stack) -> str:
    home = Path(stack.environment["BILLING_HOME"])
    port = json.loads((home / "run" / "ports.json").read_bytes())["NATS_PORT"]
    return f"nats://admin:{(home / 'secrets' / 'nats-admin').read_text()}@127.0.0.1:{port}"


def test_planted_values_are_in_no_log_and_no_span(stack: Stack, collector: tuple[str, Path]) -> None:
    trace_id, tenant = uuid4().hex, "silent"
    with stack.client(TENANT=tenant) as client:
        client.headers["traceparent"] = f"00-{trace_id}-{uuid4().hex[:16]}-01"
        entity = _entity(client, "CANARY-1").json()
        budget = _budget(client, entity["id"])
        refusals = _refusals(client, budget["id"])
    assert all(400 <= response.status_code < 500 for response in refusals), [each.text for each in refusals]
    assert "BUDGET_EXCEEDED" in refusals[1].text
    assert NAME in refusals[1].text  # the caller sees what the log does not have
    asyncio.run(_publish_failing_event(_admin_url(stack), tenant))

    logs = Path(stack.environment["BILLING_HOME"]) / "logs"
    entities = logs / "entities.log"
    eventually(lambda: entities.read_text().count("event failed") >= 3)
    eventually(lambda: entities.read_text().count("invalid event dropped") >= 2)
    spans = collector[1]
    eventually(lambda: spans.exists() and _services(spans, trace_id) == {"gateway", "budgets", "entities", "approvals"})
    with stack.client(TENANT=tenant) as client:
        _wait_for_output(client, logs, spans)
    for file in [*logs.iterdir(), spans]:
        text = file.read_text(encoding="utf-8", errors="replace").lower()
        match = PLANTED_VALUE.search(text)
        assert match is None, f"{file.name}: …{text[max(0, match.start() - 500) : match.end() + 100]}…"


def _wait_for_output(client: httpx.Client, logs: Path, spans: Path) -> None:
    """Wait for the lines and spans of one more call to each service; those of all earlier calls come before them."""
    last = uuid4().hex
    client.headers["traceparent"] = f"00-{last}-{uuid4().hex[:16]}-01"
    assert all(client.get(f"/{resources}").is_success for resources in ("entities", "budgets", "approvals"))
    services = {"gateway", "entities", "budgets", "approvals"}
    eventually(lambda: all(last in (logs / f"{service}.log").read_text() for service in services))
    eventually(lambda: _services(spans, last) == services)


def _services(spans: Path, trace_id: str) -> set[str]:
    lines = map(json.loads, spans.read_text(encoding="utf-8").splitlines())
    return {span["service"] for span in lines if span["trace_id"] == trace_id}
