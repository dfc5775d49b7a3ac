"""Contracts over REST: the whole life cycle, and validation errors."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.flows.conftest import Stack

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


@pytest.fixture(scope="module")
def procurement(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client(ROLE="procurement", TENANT="contracts") as client:
        yield client


@pytest.fixture(scope="module")
def entity_id(stack: Stack) -> str:
    body = {
        "code": f"E{uuid4().hex[:8]}", "legal_name": "Acme SE", "entity_type": "HOLDING", "currency_code": "EUR",
        "country_code": "DE",
    }  # fmt: skip
    with stack.client(ROLE="finance", TENANT="contracts") as finance:
        return str(finance.post("/entities", json=body).json()["id"])


def day(days: int) -> str:
    return (datetime.now(UTC).date() + timedelta(days=days)).isoformat()


def test_life_cycle_from_draft_to_termination(procurement: httpx.Client, entity_id: str) -> None:
    draft = _draft(procurement, entity_id)
    route = f"/contracts/{draft['id']}"

    def act(verb: str, body: dict[str, Any] | None = None, *, method: str = "POST") -> dict[str, Any]:
        response = procurement.request(
            method, f"{route}/{verb}", json=body or {}, headers={"Idempotency-Key": uuid4().hex}
        )
        assert response.status_code in {200, 201}, response.text
        return dict(response.json())

    renamed = procurement.patch(route, json={"name": "Cloud platform"}, headers={"If-Match": draft["etag"]})
    assert (renamed.status_code, renamed.json()["name"]) == (200, "Cloud platform")
    assert act("submit")["state"] == "PENDING_SIGNATURE"
    rejected = procurement.patch(route, json={"name": "Other"})
    assert (rejected.status_code, rejected.json()["code"]) == (409, "CONTRACT_STATE")
    act("signatures", {"party": "OURS", "signer_name": "Ada", "signer_title": "CFO", "document_digest": DIGEST})
    unsigned = procurement.put(f"{route}/activate", json={})
    assert (unsigned.status_code, unsigned.json()["code"]) == (409, "CONTRACT_SIGNATURE_MISSING")
    signed = act("signatures", {"party": "COUNTERPARTY", "signer_name": "Bob", "document_digest": DIGEST})
    assert [signature["party"] for signature in signed["signatures"]] == ["OURS", "COUNTERPARTY"]
    active = act("activate", method="PUT")
    assert (active["state"], active["license_state"]) == ("ACTIVE", "REQUESTED")
    assert act("suspend", {"reason": "not paid"})["state"] == "SUSPENDED"
    assert act("resume")["state"] == "ACTIVE"
    check = procurement.get(f"{route}/renewal-check").json()
    assert (check["days_to_end"], check["notice_date"]) == (100, day(70))
    assert (check["recommendation"], check["reasons"][0]["kind"]) == ("RENEW", "AS_AGREED")
    successor = act("renew", {"uplift_bp": 500})
    assert (successor["state"], successor["renewed_from_id"]) == ("DRAFT", draft["id"])
    assert successor["start_date"] == day(100)
    scheduled = act("terminate", {"reason": "too expensive"})
    assert (scheduled["state"], scheduled["termination_date"]) == ("ACTIVE", day(30))
    ended = act("terminate", {"reason": "breach", "for_cause": True})
    assert (ended["state"], ended["termination_date"]) == ("TERMINATED", day(0))
    page = procurement.get("/contracts", params={"entity_id": entity_id, "state": "DRAFT", "q": "cloud"}).json()
    assert [contract["id"] for contract in page["contracts"]] == [successor["id"]]


def _draft(client: httpx.Client, entity_id: str) -> dict[str, Any]:
    body = {
        "entity_id": entity_id, "name": "Cloud", "contract_type": "ENTERPRISE_LICENSE", "start_date": day(-200),
        "end_date": day(100), "total_value": {"currency_code": "EUR", "amount": "12000.00"},
        "billing_frequency": "MONTHLY", "license_tier": "gold", "seats": 50, "renewal_uplift_bp": 300,
        "sla_terms": {"uptime_bp": 9990, "response_hours": 4, "credit_bp": 1000},
    }  # fmt: skip
    response = client.post("/contracts", json=body)
    assert response.status_code == 201, response.text
    assert response.headers["location"].endswith(f"/contracts/{response.json()['id']}")
    return dict(response.json())


def test_all_inconsistent_terms_are_reported_at_once(procurement: httpx.Client, entity_id: str) -> None:
    body = {
        "entity_id": entity_id, "name": "Cloud", "contract_type": "USAGE_COMMITMENT", "start_date": "2026-01-01",
        "end_date": "2025-01-01", "total_value": {"currency_code": "EUR", "amount": "1.00"},
        "billing_frequency": "MONTHLY",
        "phases": [{"start_date": "2026-02-01", "fee": {"currency_code": "USD", "amount": "1.00"}}],
    }  # fmt: skip
    response = procurement.post("/contracts", json=body)
    assert (response.status_code, response.json()["code"]) == (400, "INVALID_FIELDS")
    assert {error["field"] for error in response.json()["errors"]} == {
        "end_date", "minimum_commitment", "phases[0].start_date", "phases[0].fee.currency_code",
    }  # fmt: skip
