"""Approval saga while processes are killed: afterwards the holds of budgets match the states of all requests.

A seeded random choice kills the approvals service, the budgets service or NATS with SIGKILL, at any point between two
writes of the saga: request stored, hold created, decided, event published, hold settled, result recorded.
"""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest

from tests.flows.conftest import Stack, eventually
from tests.flows.test_approvals import Company

KILLED_PROCESSES: Final = ("approvals", "budgets", "nats")
TENANT: Final = "saga"
CALLERS: Final = 4
LOAD_S: Final = 10.0
LOAD_MAX_S: Final = 60.0
KILLS_MIN: Final = 3
"""The load goes on until so many processes were killed, since a busy machine restarts them slowly."""
CONVERGED_WITHIN_S: Final = 90.0
_RETRYABLE: Final = {500, 502, 503, 504}


class Users:
    """A requester and an approver who retry with the same idempotency key until they get a response."""

    def __init__(self, stack: Stack, budget_id: str, seed: int) -> None:
        self.requester = stack.client(ROLE="procurement", TENANT=TENANT, SUB=f"paul-{seed}")
        self.approver = stack.client(ROLE="approver", TENANT=TENANT, SUB="frank")
        self.budget_id, self.random = budget_id, random.Random(seed)  # noqa: S311 - a seeded run

    def do(self, client: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
        key, until = {"Idempotency-Key": uuid4().hex}, time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                response = client.post(path, json=body, headers=key, timeout=15.0)
                aborted = response.status_code == httpx.codes.CONFLICT and response.json()["code"] == "CONFLICT"
                if response.status_code not in _RETRYABLE and not aborted:
                    return response
            time.sleep(0.1)
        raise TimeoutError(path)

    def close(self) -> None:
        self.requester.close()
        self.approver.close()

    def run(self, finished: threading.Event) -> Counter[str]:
        """Create and decide requests until then; return how often each status code and state occurred."""
        outcomes: Counter[str] = Counter()
        while not finished.is_set():
            amount = {"currency_code": "EUR", "amount": f"{self.random.randint(1, 50)}.00"}
            body = {"request_type": "OTHER", "title": "x", "budget_id": self.budget_id, "amount": amount}
            created = self.do(self.requester, "/approvals", body)
            assert created.status_code in {200, 201, 409}, created.text
            outcomes[str(created.status_code)] += 1
            action = self.random.choice(["APPROVE", "REJECT", "REQUEST_CHANGES", ""])
            if created.status_code == httpx.codes.CONFLICT or not action:
                continue
            route = f"/approvals/{created.json()['id']}/action"
            decided = self.do(self.approver, route, {"action": action, "comment": "so"})
            assert decided.status_code == httpx.codes.OK, decided.text
            outcomes[decided.json()["state"]] += 1
        return outcomes


def kill(stack: Stack, finished: threading.Event, seed: int) -> Counter[str]:
    """Kill one process after another, then set `finished`; return how often each was killed."""
    choices, killed, started = random.Random(seed), Counter[str](), time.monotonic()  # noqa: S311 - a seeded run
    try:
        while (elapsed_s := time.monotonic() - started) < LOAD_S or (
            killed.total() < KILLS_MIN and elapsed_s < LOAD_MAX_S
        ):
            time.sleep(0.7)
            name = choices.choice(KILLED_PROCESSES)
            with contextlib.suppress(AssertionError, KeyError, ProcessLookupError):  # the process is still restarting
                os.kill(stack.processes()[name]["pid"], signal.SIGKILL)
                killed[name] += 1
    finally:
        finished.set()
    return killed


def all_approvals(client: httpx.Client, budget_id: str) -> list[dict[str, Any]]:
    approvals, token = [], ""
    while True:
        page = client.get("/approvals", params={"budget_id": budget_id, "page_size": 500, "page_token": token}).json()
        approvals += page["approvals"]
        token = page["next_page_token"]
        if not token:
            return approvals


EXPECTED_FUNDS: Final = {
    "PENDING": "HELD",
    "APPROVED": "COMMITTED",
    "REJECTED": "RELEASED",
    "CHANGES_REQUESTED": "RELEASED",
}


@pytest.mark.parametrize("seed", [1])
def test_holds_match_the_approvals_after_crashes(stack: Stack, seed: int) -> None:
    company = Company(stack, TENANT)
    company.do("billing_admin", "root", "POST", "/approval-rules", {
        "name": f"Saga {uuid4().hex[:6]}", "request_type": "OTHER", "priority": 9, "entity_ids": [company.entity_id],
        "steps": [{"name": "C", "approvers": [{"user_id": "frank"}]}],
    })  # fmt: skip
    budget_id, finished = company.budget("2500.00")["id"], threading.Event()
    with ThreadPoolExecutor() as threads:
        killing = threads.submit(kill, stack, finished, seed)
        users = [Users(stack, budget_id, seed * 100 + number) for number in range(CALLERS)]
        runs = [threads.submit(user.run, finished) for user in users]
        killed = killing.result()
        outcomes = sum((run.result() for run in runs), Counter[str]())
    for user in users:
        user.close()
    assert killed.total() >= KILLS_MIN, killed
    finance = company.of("finance", "fiona")
    company.of("billing_admin", "root").close()

    def has_converged() -> bool:
        with contextlib.suppress(httpx.TransportError, KeyError, ValueError):
            return all(each["funds"] == EXPECTED_FUNDS.get(each["state"]) for each in all_approvals(finance, budget_id))
        return False

    eventually(has_converged, within_s=CONVERGED_WITHIN_S)
    approvals = all_approvals(finance, budget_id)
    sums = {state: Decimal(0) for state in EXPECTED_FUNDS}
    for approval in approvals:
        sums[approval["state"]] += Decimal(approval["amount"]["amount"])
    eventually(lambda: finance.get(f"/budgets/{budget_id}").is_success)  # the service may have just been started again
    budget = finance.get(f"/budgets/{budget_id}").json()
    assert Decimal(budget["held"]["amount"]) == sums["PENDING"], (outcomes, killed)
    assert Decimal(budget["committed"]["amount"]) == sums["APPROVED"], (outcomes, killed)
    assert len(approvals) == outcomes["200"] + outcomes["201"]
    assert Counter(each["state"] for each in approvals)["APPROVED"] == outcomes["APPROVED"]
    assert finance.get(f"/budgets/{budget_id}/verify").json()["verified"] is True
    finance.close()
