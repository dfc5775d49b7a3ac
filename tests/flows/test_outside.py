"""Events of outside systems on the running stack take effect and are audited."""

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.flows.conftest import Stack, eventually


@pytest.fixture(scope="module")
def acme(stack: Stack) -> Iterator[httpx.Client]:
    """A client of an administrator of the tenant with the sample data."""
    with stack.client() as client:
        yield client


def department(acme: httpx.Client, code: str) -> dict[str, Any]:
    listed = acme.get("/departments").json()["departments"]
    return next(department for department in listed if department["code"] == code)


def post(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    response = client.post(path, json=body, headers={"Idempotency-Key": uuid4().hex})
    assert response.is_success, response.text
    created: dict[str, Any] = response.json()
    return created


class TestSampleData:
    def test_sample_data_is_complete_and_loaded_once(self, stack: Stack, acme: httpx.Client) -> None:
        assert "sample data: 0 created, 13 existed" in stack.local("seed")
        entities = acme.get("/entities").json()["entities"]
        assert [bool(entity["parent_id"]) for entity in entities] == [False, True, True]
        assert len({entity["currency_code"] for entity in entities}) == 3
        departments = acme.get("/departments").json()["departments"]
        assert {department["name"] for department in departments} == {"Engineering", "Sales", "Finance"}
        budgets = acme.get("/budgets").json()["budgets"]
        assert {budget["period_type"] for budget in budgets} == {"QUARTERLY", "ANNUAL"}
        assert len(budgets) == 2
        rules = acme.get("/approval-rules").json()["approval_rules"]
        assert {rule["name"] for rule in rules} == {"Purchases", "Large purchases", "Large contracts"}

    def test_sample_contract_is_active_and_licensed(self, acme: httpx.Client) -> None:
        (contract,) = acme.get("/contracts").json()["contracts"]
        assert (contract["contract_type"], contract["state"]) == ("ENTERPRISE_LICENSE", "ACTIVE")
        route = f"/contracts/{contract['id']}"
        eventually(lambda: acme.get(route).json()["license_state"] == "PROVISIONED")
        assert acme.get(route).json()["license_id"]


class TestUsage:
    def test_each_valid_usage_record_is_allocated_once(self, stack: Stack, acme: httpx.Client) -> None:
        problem_body = stack.run(
            [sys.executable, "-m", "deploy.simulators.usage"],
            COUNT="40", RATE="0", DUPLICATES="20", BAD="10", RUN="flow-", DEPARTMENTS="SALES",
        )  # fmt: skip
        assert "0 that can't be allocated" not in problem_body
        bad = int(problem_body.split(", ")[-1].split()[0])
        route = f"/departments/{department(acme, 'SALES')['id']}/allocations?page_size=1000&source=USAGE"

        def allocated() -> list[str]:
            listed = acme.get(route).json()["allocations"]
            return [each["source_ref"] for each in listed if each["source_ref"].startswith("flow-")]

        assert bad > 0
        eventually(lambda: len(allocated()) >= 40 - bad)
        assert len(set(allocated())) == len(allocated()) == 40 - bad


class TestPayments:
    def test_an_invoice_is_paid_and_a_credit_note_of_it_is_paid_back(self, stack: Stack) -> None:
        tenant = f"payments-{uuid4().hex[:8]}"
        with stack.client(ROLE="billing_admin", TENANT=tenant) as client:
            invoice = self._issue(client)
            stack.run(
                [sys.executable, "-m", "deploy.simulators.payments", "pay", invoice["id"], "120.00"], TENANT=tenant
            )
            eventually(lambda: client.get(f"/invoices/{invoice['id']}").json()["state"] == "PAID")
            paid = client.get(f"/invoices/{invoice['id']}").json()
            assert (paid["open"]["amount"], paid["overpaid"]["amount"]) == ("0.00", "20.00")
            refund = {"currency_code": "EUR", "amount": "100.00"}
            note = post(client, f"/invoices/{invoice['id']}/credit-notes", full=True, reason="Outage", refund=refund)
            route = f"/credit-notes/{note['id']}"
            eventually(lambda: client.get(route).json()["refunds"][0]["state"] == "COMPLETED")
            assert client.get(route).json()["refunds"][0]["difference"]["amount"] == "0.00"

    def _issue(self, client: httpx.Client) -> dict[str, Any]:
        """Issue an invoice of 100.00 EUR."""
        address = {"country_code": "DE"}
        post(client, "/billing-profiles", name="Issuer", legal_name="Issuer SE", address=address, currency_code="EUR")
        entity = post(
            client, "/entities", code="ACME", legal_name="Acme SE", entity_type="HOLDING", currency_code="EUR",
            country_code="DE",
        )  # fmt: skip
        unit = post(client, "/departments", entity_id=entity["id"], code="IT", name="IT")
        cost = {"currency_code": "EUR", "amount": "100.00"}
        post(client, f"/departments/{unit['id']}/allocations", amount=cost, allocation_date="2026-10-05")
        period = {"period_start_date": "2026-10-01", "period_end_date": "2026-11-01"}
        draft = post(client, f"/entities/{entity['id']}/consolidated-invoice", **period)
        return post(client, f"/invoices/{draft['id']}/issue")


class TestUserDeactivation:
    def test_departments_are_reassigned_to_the_manager_and_audited(self, stack: Stack, acme: httpx.Client) -> None:
        finance = department(acme, "FIN")
        assert finance["manager_user_id"] == "frank"
        stack.run([sys.executable, "-m", "deploy.simulators.directory", "deactivate", "frank"])
        eventually(lambda: department(acme, "FIN")["manager_user_id"] == "grace")
        refused = acme.patch(f"/departments/{finance['id']}", json={"manager_user_id": "frank"})
        assert (refused.status_code, refused.json()["code"]) == (409, "MANAGER_INACTIVE")
        stack.run([sys.executable, "-m", "deploy.simulators.directory", "activate", "frank"])
        newest = acme.get("/audit-events", params={"resource_id": finance["id"]}).json()["audit_events"][0]
        assert (newest["actor"], newest["action"]) == ("/platform/users", "CHANGED")
        assert newest["changes"] == [{"field": "manager_user_id", "before": "frank", "after": "grace"}]


class TestAudit:
    def test_audit_logs_of_all_services_are_merged_by_time(self, acme: httpx.Client) -> None:
        events, token = [], ""
        while True:
            page = acme.get("/audit-events", params={"page_size": 7, "page_token": token}).json()
            assert page["unavailable_services"] == []
            events += page["audit_events"]
            token = page["next_page_token"]
            if not token:
                break
        assert {event["service"] for event in events} == {"entities", "budgets", "approvals"}
        times = [event["change_time"] for event in events]
        assert times == sorted(times, reverse=True)
        assert len({(event["service"], event["event_id"]) for event in events}) == len(events)

    def test_unresponsive_service_is_named_and_the_others_are_listed(self, stack: Stack, acme: httpx.Client) -> None:
        pid = stack.processes()["budgets"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            response = acme.get("/audit-events", timeout=15.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert response.status_code == httpx.codes.OK
        page = response.json()
        assert page["unavailable_services"] == ["budgets"]
        assert {event["service"] for event in page["audit_events"]} == {"entities", "approvals"}
        eventually(lambda: acme.get("/audit-events").json()["unavailable_services"] == [])
