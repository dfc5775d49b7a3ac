"""Requests and their money while processes are killed: afterwards budgets hold and commit what the requests say.

What dies is drawn with a seed: the approvals service, the budgets service and NATS, by SIGKILL, at any moment between
two writes of a request's life: kept, held, asked, decided, told, settled, noted.
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

VICTIMS: Final = ("approvals", "budgets", "nats")
TENANT: Final = "saga"
CALLERS: Final = 4
FOR_S: Final = 10.0
HEALED_WITHIN_S: Final = 90.0
_PASSING: Final = {500, 502, 503, 504}


class People:
    """Somebody who asks and somebody who decides, patiently: with the same key until there is an answer."""

    def __init__(self, stack: Stack, budget_id: str, seed: int) -> None:
        self.ask = stack.client(ROLE="procurement", TENANT=TENANT, SUB=f"paul-{seed}")
        self.decide = stack.client(ROLE="approver", TENANT=TENANT, SUB="frank")
        self.budget_id, self.random = budget_id, random.Random(seed)  # noqa: S311 - a seeded run

    def do(self, client: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
        key, until = {"Idempotency-Key": uuid4().hex}, time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                answer = client.post(path, json=body, headers=key, timeout=15.0)
                aborted = answer.status_code == httpx.codes.CONFLICT and answer.json()["code"] == "CONFLICT"
                if answer.status_code not in _PASSING and not aborted:
                    return answer
            time.sleep(0.1)
        raise TimeoutError(path)

    def close(self) -> None:
        self.ask.close()
        self.decide.close()

    def live(self, until: float) -> Counter[str]:
        """Ask and decide until then; what came of it."""
        told: Counter[str] = Counter()
        while time.monotonic() < until:
            amount = {"currency_code": "EUR", "amount": f"{self.random.randint(1, 50)}.00"}
            body = {"request_type": "OTHER", "title": "x", "budget_id": self.budget_id, "amount": amount}
            made = self.do(self.ask, "/approvals", body)
            assert made.status_code in {200, 201, 409}, made.text
            told[str(made.status_code)] += 1
            action = self.random.choice(["APPROVE", "REJECT", "REQUEST_CHANGES", ""])
            if made.status_code == httpx.codes.CONFLICT or not action:
                continue
            route = f"/approvals/{made.json()['id']}/action"
            done = self.do(self.decide, route, {"action": action, "comment": "so"})
            assert done.status_code == httpx.codes.OK, done.text
            told[done.json()["state"]] += 1
        return told


def kill(stack: Stack, until: float, stop: threading.Event, seed: int) -> Counter[str]:
    """End processes until then, one after the other; whom."""
    drawn, killed = random.Random(seed), Counter[str]()  # noqa: S311 - likewise
    while time.monotonic() < until and not stop.wait(0.7):
        victim = drawn.choice(VICTIMS)
        with contextlib.suppress(AssertionError, KeyError, ProcessLookupError):  # something is still coming back
            os.kill(stack.processes()[victim]["pid"], signal.SIGKILL)
            killed[victim] += 1
    return killed


def everything(client: httpx.Client, budget_id: str) -> list[dict[str, Any]]:
    found, token = [], ""
    while True:
        page = client.get("/approvals", params={"budget_id": budget_id, "page_size": 500, "page_token": token}).json()
        found += page["approvals"]
        token = page["next_page_token"]
        if not token:
            return found


FOLLOWED: Final = {"PENDING": "HELD", "APPROVED": "COMMITTED", "REJECTED": "RELEASED", "CHANGES_REQUESTED": "RELEASED"}


@pytest.mark.parametrize("seed", [1])
def test_budgets_hold_and_commit_what_the_requests_say(stack: Stack, seed: int) -> None:
    company = Company(stack, TENANT)
    company.do("billing_admin", "root", "POST", "/approval-rules", {
        "name": f"Saga {uuid4().hex[:6]}", "request_type": "OTHER", "priority": 9, "entity_ids": [company.entity_id],
        "steps": [{"name": "C", "approvers": [{"user_id": "frank"}]}],
    })  # fmt: skip
    budget_id, until = company.budget("2500.00")["id"], time.monotonic() + FOR_S
    stop = threading.Event()
    with ThreadPoolExecutor() as threads:
        killing = threads.submit(kill, stack, until, stop, seed)
        people = [People(stack, budget_id, seed * 100 + number) for number in range(CALLERS)]
        told = sum((one.result() for one in [threads.submit(each.live, until) for each in people]), Counter[str]())
        stop.set()
        killed = killing.result()
    for each in people:
        each.close()
    assert sum(killed.values()) >= 3, killed
    finance = company.of("finance", "fiona")
    company.of("billing_admin", "root").close()

    def healed() -> bool:
        with contextlib.suppress(httpx.TransportError, KeyError, ValueError):
            return all(one["funds"] == FOLLOWED.get(one["state"]) for one in everything(finance, budget_id))
        return False

    eventually(healed, within_s=HEALED_WITHIN_S)
    found = everything(finance, budget_id)
    sums = {state: Decimal(0) for state in FOLLOWED}
    for one in found:
        sums[one["state"]] += Decimal(one["amount"]["amount"])
    budget = finance.get(f"/budgets/{budget_id}").json()
    assert Decimal(budget["held"]["amount"]) == sums["PENDING"], (told, killed)
    assert Decimal(budget["committed"]["amount"]) == sums["APPROVED"], (told, killed)
    assert len(found) == told["200"] + told["201"]
    assert Counter(one["state"] for one in found)["APPROVED"] == told["APPROVED"]
    assert finance.get(f"/budgets/{budget_id}/verify").json()["verified"] is True
    finance.close()
