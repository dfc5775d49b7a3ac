"""An allocation rule and its cost splits over REST, from creation to deletion."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.flows.conftest import Stack


@pytest.fixture(scope="module")
def finance(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client(ROLE="finance", TENANT="splits") as client:
        yield client


@pytest.fixture(scope="module")
def departments(finance: httpx.Client) -> list[str]:
    """The ids of three departments of an entity."""
    entity = {
        "code": f"E{uuid4().hex[:8]}", "legal_name": "Acme SE", "entity_type": "HOLDING", "currency_code": "EUR",
        "country_code": "DE",
    }  # fmt: skip
    entity_id = _created(finance.post("/entities", json=entity))["id"]
    created = [
        _created(finance.post("/departments", json={"entity_id": entity_id, "code": code, "name": code}))
        for code in ("IT", "ENG", "SALES")
    ]
    return [department["id"] for department in created]


def _created(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 201, response.text
    return dict(response.json())


def _problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    return dict(response.json())


def test_allocation_rule_splits_costs_until_it_is_deleted(finance: httpx.Client, departments: list[str]) -> None:
    it, eng, sales = departments
    body = {
        "name": "IT", "rule_type": "FIXED_PERCENT", "source_department_id": it, "effective_from_date": "2026-01-01",
        "targets": [{"department_id": eng, "percent_bp": 9500}, {"department_id": sales, "percent_bp": 400}],
    }  # fmt: skip
    wrong = _problem(finance.post("/allocation-rules", json=body), 400, "INVALID_FIELDS")
    assert [error["field"] for error in wrong["errors"]] == ["targets"]
    assert "9900" in wrong["errors"][0]["detail"]

    body["targets"][1]["percent_bp"] = 500  # type: ignore[index]
    response = finance.post("/allocation-rules", json=body)
    rule = _created(response)
    assert response.headers["location"].endswith(f"/allocation-rules/{rule['id']}")
    at = f"/allocation-rules/{rule['id']}"

    cost = {
        "rule_id": rule["id"], "amount": {"currency_code": "EUR", "amount": "0.01"}, "allocation_date": "2026-03-10",
        "category": "cloud", "source_ref": "bill-1",
    }  # fmt: skip
    key = {"Idempotency-Key": f"split-{uuid4()}"}
    preview = finance.post("/allocations/split", json={**cost, "validate_only": True}, headers=key)
    split = finance.post("/allocations/split", json=cost, headers=key)
    repeated = finance.post("/allocations/split", json=cost, headers=key)
    assert (preview.status_code, split.status_code, repeated.json()) == (200, 200, split.json())
    shares = [(share["amount"]["amount"], share["fraction"]) for share in split.json()["shares"]]
    assert shares == [("0.01", "19/20"), ("0.00", "1/20")]
    assert shares == [(share["amount"]["amount"], share["fraction"]) for share in preview.json()["shares"]]
    other_key = {"Idempotency-Key": f"split-{uuid4()}"}
    _problem(finance.post("/allocations/split", json=cost, headers=other_key), 409, "COST_ALREADY_SPLIT")
    borne = finance.get(f"/departments/{eng}/allocations").json()["allocations"]
    assert [(each["source"], each["id"]) for each in borne] == [("SPLIT", split.json()["shares"][0]["allocation_id"])]

    back = {**body, "source_department_id": eng, "rule_type": "EVEN", "targets": [{"department_id": it}]}
    chained = _problem(finance.post("/allocation-rules", json=back), 409, "ALLOCATION_RULES_CHAIN")
    assert f"{eng} → {it} → {eng}" in chained["detail"]

    changed = finance.patch(at, json={"source_department_id": None}, headers={"If-Match": '"1"'})
    assert (changed.json()["source_department_id"], changed.headers["etag"]) == ("", '"2"')
    _problem(finance.patch(at, json={"name": "X"}, headers={"If-Match": '"1"'}), 412, "ETAG_MISMATCH")
    key = {"Idempotency-Key": f"end-{uuid4()}"}
    _problem(finance.delete(at, headers={"If-Match": '"1"'}), 412, "ETAG_MISMATCH")
    ended = finance.delete(at, headers={"If-Match": '"2"', **key})
    assert (ended.status_code, ended.json()["state"]) == (200, "ENDED")
    assert finance.delete(at, headers={"If-Match": '"2"', **key}).json() == ended.json()
    _problem(finance.delete(at), 409, "ALLOCATION_RULE_STATE")
    assert finance.get(at).json() == ended.json()
    [stored] = finance.get("/allocations/split", params={"rule_id": rule["id"]}).json()["cost_splits"]
    assert (stored, stored["rule_etag"]) == (split.json(), "1")
