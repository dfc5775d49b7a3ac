"""Outside systems and the suite, on the running stack: what they say has its effect, and it shows who did what."""

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.flows.conftest import Stack, eventually


@pytest.fixture(scope="module")
def acme(stack: Stack) -> Iterator[httpx.Client]:
    """An administrator of the tenant that has the sample data."""
    with stack.client() as client:
        yield client


def department(acme: httpx.Client, code: str) -> dict[str, Any]:
    listed = acme.get("/departments").json()["departments"]
    return next(department for department in listed if department["code"] == code)


class TestSampleData:
    def test_it_is_what_is_promised_and_loading_it_again_adds_nothing(self, stack: Stack, acme: httpx.Client) -> None:
        assert "sample data: 0 created, 12 existed" in stack.local("seed")
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

    def test_its_contract_is_in_force_and_licensed(self, acme: httpx.Client) -> None:
        (contract,) = acme.get("/contracts").json()["contracts"]
        assert (contract["contract_type"], contract["state"]) == ("ENTERPRISE_LICENSE", "ACTIVE")
        route = f"/contracts/{contract['id']}"
        eventually(lambda: acme.get(route).json()["license_state"] == "PROVISIONED")
        assert acme.get(route).json()["license_id"]


class TestUsage:
    def test_each_record_is_allocated_once_and_bad_ones_are_left_out(self, stack: Stack, acme: httpx.Client) -> None:
        said = stack.run(
            [sys.executable, "-m", "deploy.simulators.usage"],
            COUNT="40", RATE="0", DUPLICATES="20", BAD="10", RUN="flow-", DEPARTMENTS="SALES",
        )  # fmt: skip
        assert "0 that can't be allocated" not in said
        bad = int(said.split(", ")[-1].split()[0])
        route = f"/departments/{department(acme, 'SALES')['id']}/allocations?page_size=1000&source=USAGE"

        def allocated() -> list[str]:
            listed = acme.get(route).json()["allocations"]
            return [each["source_ref"] for each in listed if each["source_ref"].startswith("flow-")]

        assert bad > 0
        eventually(lambda: len(allocated()) >= 40 - bad)
        assert len(set(allocated())) == len(allocated()) == 40 - bad


class TestWhoLeaves:
    def test_their_departments_go_to_their_manager_and_the_audit_log_says_so(
        self, stack: Stack, acme: httpx.Client
    ) -> None:
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
    def test_the_services_logs_are_one_in_the_order_of_time(self, acme: httpx.Client) -> None:
        told, token = [], ""
        while True:
            page = acme.get("/audit-events", params={"page_size": 7, "page_token": token}).json()
            assert page["unavailable_services"] == []
            told += page["audit_events"]
            token = page["next_page_token"]
            if not token:
                break
        assert {event["service"] for event in told} == {"entities", "budgets", "approvals"}
        times = [event["change_time"] for event in told]
        assert times == sorted(times, reverse=True)
        assert len({(event["service"], event["event_id"]) for event in told}) == len(told)

    def test_a_service_that_stands_still_is_named_and_the_others_are_told(
        self, stack: Stack, acme: httpx.Client
    ) -> None:
        pid = stack.processes()["budgets"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            answer = acme.get("/audit-events", timeout=15.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert answer.status_code == httpx.codes.OK
        page = answer.json()
        assert page["unavailable_services"] == ["budgets"]
        assert {event["service"] for event in page["audit_events"]} == {"entities", "approvals"}
        eventually(lambda: acme.get("/audit-events").json()["unavailable_services"] == [])
