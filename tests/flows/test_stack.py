"""The running stack: one trace through all processes, crashes, second start, documentation."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.flows.conftest import ROOT, Stack, eventually


def _post(client: httpx.Client, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    response = client.post(path, json=body, headers=headers)
    assert response.is_success, response.text
    return dict(response.json())


def _budget(client: httpx.Client, entity_id: str, amount: str = "100.00") -> dict[str, Any]:
    body = {
        "entity_id": entity_id, "name": "Cloud", "period_type": "ANNUAL",
        "period_start_date": f"{time.gmtime().tm_year}-01-01", "amount": {"currency_code": "EUR", "amount": amount},
    }  # fmt: skip
    return _post(client, "/budgets", body)


def _entity(client: httpx.Client) -> dict[str, Any]:
    body = {
        "code": f"E{uuid4().hex[:8]}", "legal_name": "Acme SE", "entity_type": "HOLDING", "currency_code": "EUR",
        "country_code": "DE",
    }  # fmt: skip
    return _post(client, "/entities", body)


def _charge(client: httpx.Client, budget: dict[str, Any], amount: str, key: str, **headers: str) -> dict[str, Any]:
    body = {"amount": {"currency_code": "EUR", "amount": amount}}
    return _post(client, f"/budgets/{budget['id']}/charge", body, **{"Idempotency-Key": key, **headers})


def _log_lines(stack: Stack, name: str) -> list[dict[str, Any]]:
    paths = [path for path in Path(stack.environment["BILLING_HOME"]).rglob("*.log*") if name in path.name]
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
    return [json.loads(line) for line in re.findall(r'^\{.*"trace_id".*\}$', text, re.MULTILINE)]


class TestTracing:
    def test_trace_id_is_in_logs_audit_row_event_and_spans_of_a_charge(
        self, stack: Stack, collector: tuple[str, Path]
    ) -> None:
        trace_id = uuid4().hex
        tenant = f"t{trace_id[:8]}"
        with stack.client(ROLE="finance", TENANT=tenant) as finance:
            entity = _entity(finance)
            budget = _budget(finance, entity["id"])
        with stack.client(ROLE="department_manager", TENANT=tenant, SUB="mia", ENTITY_SCOPE=entity["id"]) as manager:
            _charge(manager, budget, "85.00", "po-1", traceparent=f"00-{trace_id}-{uuid4().hex[:16]}-01")

        def logged(name: str) -> bool:
            return any(line["trace_id"] == trace_id for line in _log_lines(stack, name))

        for name in ("gateway", "budgets", "entities"):
            eventually(lambda name=name: logged(name))  # type: ignore[misc]
        audited = stack.local(
            "psql", "--", "-At", "-c",
            f"select resource_table, action, actor from budgets.audit_log where trace_id = '{trace_id}'",
        )  # fmt: skip
        assert audited.splitlines() == ["budget_alerts|insert|mia"] * 2
        assert _is_published(stack, trace_id)
        spans = eventually(lambda: _whole_trace(collector[1], trace_id))
        by_id = {span["span_id"]: span for span in spans}
        path = [span for span in spans if span["service"] == "entities" and span["name"] != "transaction"]
        while path[-1]["parent_id"] in by_id:
            path.append(by_id[path[-1]["parent_id"]])
        assert [(span["service"], span["name"].rpartition("/")[2]) for span in path] == [
            ("entities", "ResolveScope"),
            ("budgets", "ResolveScope"),
            ("budgets", "Charge"),
            ("gateway", "Charge"),
            ("gateway", "charge"),
        ]


def _whole_trace(file: Path, trace_id: str) -> list[dict[str, Any]]:
    """Return the spans of the trace once every process has exported its own, which happens every few seconds."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    spans = [span for span in map(json.loads, lines) if span["trace_id"] == trace_id]
    return spans if {span["service"] for span in spans} == {"gateway", "budgets", "entities"} else []


def _is_published(stack: Stack, trace_id: str) -> bool:
    """Return True if `events FROM=start` prints an event of the trace within a time limit."""
    with subprocess.Popen(
        [sys.executable, "-m", "deploy.local", "events"],
        cwd=ROOT,
        env={**stack.environment, "FROM": "start"},
        stdout=subprocess.PIPE,
        text=True,
    ) as tail:
        limit = threading.Timer(20.0, tail.kill)
        limit.start()
        is_printed = any(trace_id in line for line in tail.stdout or ())
        limit.cancel()
        tail.kill()
        return is_printed


class TestDeactivation:
    def test_budgets_of_a_deactivated_entity_are_closed(self, stack: Stack) -> None:
        with stack.client(ROLE="finance", TENANT="closing") as finance:
            entity = _entity(finance)
            budget = _budget(finance, entity["id"])
            _post(finance, f"/entities/{entity['id']}/deactivate", {})
            eventually(lambda: finance.get(f"/budgets/{budget['id']}").json()["state"] == "CLOSED")


class TestCrashes:
    def test_charge_is_made_once_although_processes_are_killed(self, stack: Stack) -> None:
        with stack.client(ROLE="finance", TENANT="deaths") as finance:
            budget = _budget(finance, _entity(finance)["id"])
            first = _charge(finance, budget, "10.00", "po-1")
            for name in ("budgets", "nats", "postgres"):
                os.kill(stack.processes()[name]["pid"], signal.SIGKILL)

                def is_repeated() -> bool:
                    response = finance.post(
                        f"/budgets/{budget['id']}/charge",
                        json={"amount": {"currency_code": "EUR", "amount": "10.00"}},
                        headers={"Idempotency-Key": "po-1"},
                    )
                    assert response.status_code in {200, 503, 504}, response.text
                    return response.status_code == httpx.codes.OK and response.json() == first

                eventually(is_repeated)
            spent = finance.get(f"/budgets/{budget['id']}").json()["spent"]["amount"]
            assert spent == "10.00"

    def test_second_up_reports_that_the_stack_runs(self, stack: Stack) -> None:
        eventually(lambda: "not healthy" not in _status(stack))
        assert "already running" in stack.local("up")


def _status(stack: Stack) -> str:
    command = [sys.executable, "-m", "deploy.local", "status"]
    completed = subprocess.run(
        command, cwd=ROOT, env=dict(stack.environment), capture_output=True, text=True, check=False
    )
    return completed.stdout


class TestDocs:
    def test_swagger_ui_loads_from_the_gateway_only(self, stack: Stack) -> None:
        page = httpx.get(f"{stack.url}/docs")
        assert page.status_code == httpx.codes.OK
        assert "http://" not in page.text.replace(stack.url, "")
        assert "https://" not in page.text
        assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert assets
        for asset in assets:
            assert httpx.get(f"{stack.url}{asset}" if asset.startswith("/") else f"{stack.url}/{asset}").is_success

    def test_every_documented_route_is_served(self, stack: Stack) -> None:
        document = httpx.get(f"{stack.url}/openapi.json").json()
        assert document == json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
        for path, verbs in document["paths"].items():
            for verb in set(verbs) & {"get", "post", "patch", "put", "delete"}:
                response = httpx.request(verb, stack.url + path.replace("{", "").replace("}", ""))
                assert response.status_code != httpx.codes.NOT_FOUND, (verb, path)
