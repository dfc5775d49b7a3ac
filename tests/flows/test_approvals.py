"""Approvals over REST, from the rule to the captured hold."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.flows.conftest import Stack, eventually

TENANT = "approvals"


@pytest.fixture(scope="module")
def company(stack: Stack) -> Iterator["Company"]:
    company = Company(stack)
    yield company
    for client in company.clients.values():
        client.close()


class Company:
    """An entity with clients for its users."""

    def __init__(self, stack: Stack, tenant: str = TENANT) -> None:
        self.stack, self.tenant = stack, tenant
        self.clients: dict[str, httpx.Client] = {}
        body = {
            "code": f"E{uuid4().hex[:8]}", "legal_name": "Acme SE", "entity_type": "HOLDING", "currency_code": "EUR",
            "country_code": "DE",
        }  # fmt: skip
        self.entity_id = str(self.of("finance", "fiona").post("/entities", json=body).json()["id"])

    def of(self, role: str, user: str) -> httpx.Client:
        name = f"{role} {user}"
        if name not in self.clients:
            self.clients[name] = self.stack.client(ROLE=role, TENANT=self.tenant, SUB=user)
        return self.clients[name]

    def do(self, role: str, user: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        response = self.of(role, user).request(method, path, json=body, headers={"Idempotency-Key": uuid4().hex})
        assert response.status_code in {200, 201}, response.text
        return dict(response.json())

    def budget(self, amount: str, policy: str = "BLOCK") -> dict[str, Any]:
        body = {
            "entity_id": self.entity_id, "name": f"Budget {uuid4().hex[:6]}", "period_type": "ANNUAL",
            "amount": {"currency_code": "EUR", "amount": amount}, "overspend_policy": policy,
            "period_start_date": f"{datetime.now(UTC).year}-01-01",
        }  # fmt: skip
        return self.do("finance", "fiona", "POST", "/budgets", body)


def test_purchase_from_the_rule_to_the_captured_hold(company: Company) -> None:
    rule = company.do("billing_admin", "root", "POST", "/approval-rules", {
        "name": "Purchases", "request_type": "PURCHASE", "condition": "amount_minor > 1000",
        "steps": [{"name": "Controlling", "approvers": [{"user_id": "frank"}]}],
    })  # fmt: skip
    budget = company.budget("1000.00")
    approval = company.do("procurement", "paul", "POST", "/approvals", {
        "request_type": "PURCHASE", "title": "Laptops", "budget_id": budget["id"],
        "amount": {"currency_code": "EUR", "amount": "400.00"},
    })  # fmt: skip
    assert (approval["state"], approval["funds"], approval["rules"][0]["rule_id"]) == ("PENDING", "HELD", rule["id"])
    assert approval["steps"][0]["seats"][0]["why"] == "named in the rule"

    until = (datetime.now(UTC) + timedelta(days=7)).isoformat()
    company.do("approver", "frank", "POST", "/delegations", {"delegate": "erin", "end_time": until, "reason": "away"})
    waiting = company.do("approver", "erin", "GET", "/approvals?mine=TO_DECIDE")["approvals"]
    assert [one["id"] for one in waiting] == [approval["id"]]
    shown = company.do("approver", "erin", "GET", f"/approvals/{approval['id']}")
    assert shown["budget_impact"]["available"]["amount"] == "600.00"

    own = company.of("finance", "paul").post(f"/approvals/{approval['id']}/action", json={"action": "APPROVE"})
    assert (own.status_code, own.json()["code"]) == (403, "NOT_AN_APPROVER")
    approved = company.do("approver", "erin", "POST", f"/approvals/{approval['id']}/action", {"action": "APPROVE"})
    assert (approved["state"], approved["decided_by"]) == ("APPROVED", "erin")
    late = company.of("approver", "frank").post(f"/approvals/{approval['id']}/action", json={"action": "APPROVE"})
    assert (late.status_code, late.json()["code"]) == (409, "APPROVAL_STATE")

    def committed() -> bool:
        return str(company.do("procurement", "paul", "GET", f"/approvals/{approval['id']}")["funds"]) == "COMMITTED"

    eventually(committed)
    hold = f"/budgets/{budget['id']}/holds/{approval['hold_id']}"
    captured = company.do("procurement", "paul", "POST", f"{hold}/capture", {})
    assert (captured["state"], captured["captured"]["amount"]) == ("CAPTURED", "400.00")
    history = company.do("auditor", "ada", "GET", f"/approvals/{approval['id']}/history")["actions"]
    assert [(one["action"], one["actor"], one["on_behalf_of"]) for one in history] == [
        ("REQUEST", "paul", ""), ("APPROVE", "erin", "frank"),
    ]  # fmt: skip


def test_hold_of_a_pending_request_can_not_be_used(company: Company) -> None:
    company.do("billing_admin", "root", "POST", "/approval-rules", {
        "name": "Others", "request_type": "OTHER", "steps": [{"name": "C", "approvers": [{"user_id": "frank"}]}],
    })  # fmt: skip
    budget = company.budget("100.00")
    approval = company.do("procurement", "paul", "POST", "/approvals", {
        "request_type": "OTHER", "title": "x", "budget_id": budget["id"],
        "amount": {"currency_code": "EUR", "amount": "60.00"},
    })  # fmt: skip
    hold = f"/budgets/{budget['id']}/holds/{approval['hold_id']}"
    for verb in ("capture", "commit", "release"):
        refused = company.of("procurement", "paul").post(
            f"{hold}/{verb}", json={}, headers={"Idempotency-Key": uuid4().hex}
        )
        assert (refused.status_code, refused.json()["code"]) == (409, "HOLD_AWAITS_APPROVAL")


def test_overspend_charge_opens_an_approval_and_is_captured_once_approved(company: Company) -> None:
    company.do("billing_admin", "root", "POST", "/approval-rules", {
        "name": "Overspending", "request_type": "BUDGET_OVERSPEND",
        "steps": [{"name": "CFO", "approvers": [{"role": "finance"}]}],
    })  # fmt: skip
    budget = company.budget("100.00", "REQUIRE_APPROVAL")
    charge = {"amount": {"currency_code": "EUR", "amount": "130.00"}, "open_approval": True, "description": "Servers"}
    key = {"Idempotency-Key": uuid4().hex}
    refused = company.of("procurement", "paul").post(f"/budgets/{budget['id']}/charge", json=charge, headers=key)
    assert (refused.status_code, refused.json()["code"]) == (409, "APPROVAL_REQUIRED")
    approval_id = refused.json()["metadata"]["approval_id"]
    repeated = company.of("procurement", "paul").post(f"/budgets/{budget['id']}/charge", json=charge, headers=key)
    assert repeated.json()["metadata"]["approval_id"] == approval_id
    company.do("finance", "fiona", "POST", f"/approvals/{approval_id}/action", {"action": "APPROVE"})

    def committed() -> bool:
        return str(company.do("procurement", "paul", "GET", f"/approvals/{approval_id}")["funds"]) == "COMMITTED"

    eventually(committed)
    hold_id = company.do("procurement", "paul", "GET", f"/approvals/{approval_id}")["hold_id"]
    captured = company.do("procurement", "paul", "POST", f"/budgets/{budget['id']}/holds/{hold_id}/capture", {})
    assert captured["captured"]["amount"] == "130.00"
    budget = company.do("finance", "fiona", "GET", f"/budgets/{budget['id']}")
    assert (budget["spent"]["amount"], budget["available"]["amount"]) == ("130.00", "-30.00")


def test_contract_waits_for_its_approval(company: Company) -> None:
    company.do("billing_admin", "root", "POST", "/approval-rules", {
        "name": "Large contracts", "request_type": "CONTRACT",
        "amount_above": {"currency_code": "EUR", "amount": "1000.00"},
        "steps": [{"name": "CFO", "approvers": [{"role": "finance"}]}],
    })  # fmt: skip
    small, large = (
        company.do("procurement", "paul", "POST", "/contracts", {
            "entity_id": company.entity_id, "name": "Cloud", "contract_type": "SUBSCRIPTION",
            "start_date": f"{datetime.now(UTC).year + 1}-01-01", "end_date": f"{datetime.now(UTC).year + 2}-01-01",
            "billing_frequency": "MONTHLY", "total_value": {"currency_code": "EUR", "amount": amount},
        })["id"]
        for amount in ("900.00", "90000.00")
    )  # fmt: skip
    assert company.do("procurement", "paul", "POST", f"/contracts/{small}/submit", {})["state"] == "PENDING_SIGNATURE"

    def submit_and_decide(action: str, state: str) -> None:
        submitted = company.do("procurement", "paul", "POST", f"/contracts/{large}/submit", {})
        assert submitted["state"] == "PENDING_APPROVAL"
        listed = f"/approvals?subject_type=contract&subject_id={large}&state=PENDING"
        eventually(lambda: bool(company.do("finance", "fiona", "GET", listed)["approvals"]))
        (approval,) = company.do("finance", "fiona", "GET", listed)["approvals"]
        assert (approval["requester"], approval["amount"]["amount"]) == ("paul", "90000.00")
        decision = {"action": action, "comment": "so be it"}
        company.do("finance", "fiona", "POST", f"/approvals/{approval['id']}/action", decision)
        eventually(lambda: company.do("finance", "fiona", "GET", f"/contracts/{large}")["state"] == state)

    submit_and_decide("REQUEST_CHANGES", "DRAFT")
    submit_and_decide("REJECT", "DRAFT")
    submit_and_decide("APPROVE", "PENDING_SIGNATURE")


@pytest.fixture
def automatic(stack: Stack) -> Iterator[Company]:
    """A company of its own tenant."""
    company = Company(stack, f"t{uuid4().hex[:8]}")
    yield company
    for client in company.clients.values():
        client.close()


def test_contract_and_amendment_of_a_rule_with_auto_approve_go_on(automatic: Company) -> None:
    company = automatic
    for request_type in ("CONTRACT", "AMENDMENT"):
        rule = {"name": request_type, "request_type": request_type, "auto_approve": True}
        company.do("billing_admin", "root", "POST", "/approval-rules", rule)
    contract = company.do("procurement", "paul", "POST", "/contracts", {
        "entity_id": company.entity_id, "name": "Cloud", "contract_type": "SUBSCRIPTION",
        "start_date": f"{datetime.now(UTC).year}-01-01", "end_date": f"{datetime.now(UTC).year + 2}-01-01",
        "billing_frequency": "MONTHLY", "total_value": {"currency_code": "EUR", "amount": "900.00"},
    })["id"]  # fmt: skip
    route = f"/contracts/{contract}"
    assert company.do("procurement", "paul", "POST", f"{route}/submit", {})["state"] == "PENDING_APPROVAL"
    eventually(lambda: company.do("procurement", "paul", "GET", route)["state"] == "PENDING_SIGNATURE")
    for party in ("OURS", "COUNTERPARTY"):
        signature = {"party": party, "signer_name": "Ada", "document_digest": "ab" * 32}
        company.do("procurement", "paul", "POST", f"{route}/signatures", signature)
    company.do("procurement", "paul", "PUT", f"{route}/activate", {})
    body = {
        "amendment_type": "PRICE", "effective_date": f"{datetime.now(UTC).year + 1}-01-01",
        "after": {"fee": {"currency_code": "EUR", "amount": "50.00"}}, "reason": "more",
    }  # fmt: skip
    amendment = company.do("procurement", "paul", "POST", f"{route}/amendments", body)["id"]
    listed = f"{route}/amendments/{amendment}"
    eventually(lambda: company.do("procurement", "paul", "GET", listed)["state"] == "APPROVED")


def test_amendment_waits_for_its_approval(company: Company) -> None:
    company.do("billing_admin", "root", "POST", "/approval-rules", {
        "name": "Amendments", "request_type": "AMENDMENT", "condition": "attributes['amendment_type'] == 'SEATS'",
        "steps": [{"name": "CFO", "approvers": [{"role": "finance"}]}],
    })  # fmt: skip
    contract = company.do("procurement", "paul", "POST", "/contracts", {
        "entity_id": company.entity_id, "name": "Licences", "contract_type": "ENTERPRISE_LICENSE",
        "start_date": f"{datetime.now(UTC).year}-01-01", "end_date": f"{datetime.now(UTC).year + 2}-01-01",
        "billing_frequency": "MONTHLY", "total_value": {"currency_code": "EUR", "amount": "240.00"},
        "license_tier": "team", "seats": 10,
    })["id"]  # fmt: skip
    company.do("procurement", "paul", "POST", f"/contracts/{contract}/submit", {})
    for party in ("OURS", "COUNTERPARTY"):
        signature = {"party": party, "signer_name": "Ada", "document_digest": "ab" * 32}
        company.do("procurement", "paul", "POST", f"/contracts/{contract}/signatures", signature)
    company.do("procurement", "paul", "PUT", f"/contracts/{contract}/activate", {})

    def amend(seats: int, action: str, state: str) -> dict[str, Any]:
        route, day = f"/contracts/{contract}/amendments", f"{datetime.now(UTC).year + 1}-01-01"
        body = {"amendment_type": "SEATS", "effective_date": day, "after": {"seats": seats}, "reason": "more people"}
        created = company.do("procurement", "paul", "POST", route, body)
        assert created["awaits_approval"] is True
        own = company.of("finance", "fiona").post(f"{route}/{created['id']}/approve", json={})
        assert (own.status_code, own.json()["code"]) == (409, "AMENDMENT_AWAITS_APPROVAL")
        listed = f"/approvals?subject_type=amendment&subject_id={created['id']}"
        eventually(lambda: bool(company.do("finance", "fiona", "GET", listed)["approvals"]))
        (approval,) = company.do("finance", "fiona", "GET", listed)["approvals"]
        company.do(
            "finance", "fiona", "POST", f"/approvals/{approval['id']}/action", {"action": action, "comment": "so"}
        )
        amendment = f"{route}/{created['id']}"
        eventually(lambda: company.do("finance", "fiona", "GET", amendment)["state"] == state)
        return company.do("finance", "fiona", "GET", amendment)

    assert amend(12, "REJECT", "REJECTED")["rejection_reason"] == "so"
    assert amend(15, "APPROVE", "APPROVED")["approved_by"] == "fiona"


def test_amounts_filter_the_list_of_approvals(stack: Stack) -> None:
    company = Company(stack, tenant=f"amounts-{uuid4().hex[:8]}")
    company.do("billing_admin", "root", "POST", "/approval-rules", {
        "name": "All", "is_default": True, "steps": [{"name": "Controlling", "approvers": [{"user_id": "frank"}]}],
    })  # fmt: skip
    for amount in ("99.99", "100.00", "200.00", "200.01"):
        company.do("procurement", "paul", "POST", "/approvals", {
            "request_type": "PURCHASE", "title": "Laptops", "entity_id": company.entity_id,
            "amount": {"currency_code": "EUR", "amount": amount},
        })  # fmt: skip
    lower = {"amount_from.amount": "100.00", "amount_from.currency_code": "EUR"}
    upper = {"amount_to.amount": "200.00", "amount_to.currency_code": "EUR"}

    def amounts(filters: dict[str, str]) -> list[str]:
        response = company.of("finance", "fiona").get("/approvals", params=filters)
        assert response.status_code == 200, response.text
        return [one["amount"]["amount"] for one in response.json()["approvals"]]

    assert amounts(lower) == ["200.01", "200.00", "100.00"]
    assert amounts(upper) == ["200.00", "100.00", "99.99"]
    assert amounts(lower | upper) == ["200.00", "100.00"]
    assert amounts({name: value.replace("EUR", "USD") for name, value in lower.items()}) == []
    for client in company.clients.values():
        client.close()
