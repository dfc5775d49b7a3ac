"""One tenant that uses all it can of the gateway leaves room for the requests of others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from gateway import capacity
from gateway.app import App
from kit import fairness
from kit.settings import Settings
from tests.gateway.backend import Backend
from tests.gateway.conftest import BASE, BUDGET
from tests.harness.observe import eventually

GET, CHARGE = f"{BASE}/budgets/{BUDGET}", f"{BASE}/budgets/charges/batch"


@pytest.fixture
async def small_app(settings: Callable[..., Settings], backend: Backend) -> AsyncIterator[App]:
    """A gateway that serves 16 requests at once."""
    addresses = dict.fromkeys(("entities", "budgets", "approvals"), backend.address)
    app = App(settings("gateway", addresses=addresses, calls_max=16, http_memory_bytes_max=1_000_000))
    await app.limits.open()
    yield app
    await app.close()


@pytest.fixture
def client_of(small_app: App, token: Callable[..., str]) -> Callable[..., httpx.AsyncClient]:
    """Returns a client with a token: `client_of(tenant=…)`."""

    def make(**claims: Any) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {token(**claims)}"}
        transport = httpx.ASGITransport(small_app)  # type: ignore[arg-type]
        return httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers)

    return make


class Blocking:
    """Replies of the backend that wait until `proceed` is set."""

    def __init__(self, backend: Backend, method: str, reply: str) -> None:
        self.proceed = asyncio.Event()
        self.running = 0
        self._reply = backend.message(reply)
        backend.replies[method] = self._wait

    async def _wait(self, request: Any, call: Any) -> Any:
        self.running += 1
        await self.proceed.wait()
        return self._reply

    async def run(self, count: int) -> None:
        """Wait until as many calls run."""

        async def reached() -> bool:
            return self.running >= count

        await eventually(reached)


async def test_requests_of_one_tenant_leave_room_for_others(
    client_of: Callable[..., httpx.AsyncClient], backend: Backend
) -> None:
    alice, bob = client_of(), client_of(tenant=uuid4())
    blocking = Blocking(backend, "GetBudget", "budgets.v1.Budget")
    requests = [asyncio.create_task(alice.get(GET)) for _ in range(14)]
    await blocking.run(14)
    refused = await alice.get(GET)
    assert (refused.status_code, refused.json()["code"]) == (429, "CONCURRENCY_LIMITED")
    assert (refused.headers["retry-after"], refused.json()["metadata"]) == ("1", {"resource": "requests"})
    requests += [asyncio.create_task(bob.get(GET)) for _ in range(2)]
    await blocking.run(16)
    assert (await bob.get(GET)).json()["code"] == "OVERLOADED"
    blocking.proceed.set()
    assert {response.status_code for response in await asyncio.gather(*requests)} == {200}
    assert (await alice.get(GET)).status_code == 200


@pytest.fixture
def large_body() -> dict[str, Any]:
    charge = {"id": BUDGET, "amount": {"currency_code": "EUR", "amount": "1.00"}, "description": "x" * 400}
    return {"charges": [{**charge, "request_id": f"k{n}"} for n in range(100)]}


async def test_few_large_bodies_of_one_tenant_are_read_while_others_are_active(
    client_of: Callable[..., httpx.AsyncClient],
    backend: Backend,
    large_body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fairness, "_CONTENDED_S", 60)
    alice, bob, body = client_of(), client_of(tenant=uuid4()), large_body
    await bob.get(GET)
    blocking = Blocking(backend, "BatchCharge", "budgets.v1.BatchChargeResponse")
    requests = [asyncio.create_task(alice.post(CHARGE, json=body)) for _ in range(5)]
    await blocking.run(2)
    requests += [asyncio.create_task(bob.post(CHARGE, json=body))]
    await blocking.run(3)
    assert blocking.running == 3
    blocking.proceed.set()
    assert {response.status_code for response in await asyncio.gather(*requests)} == {200}


async def test_large_body_that_waits_too_long_for_others_is_refused(
    client_of: Callable[..., httpx.AsyncClient],
    backend: Backend,
    large_body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fairness, "_CONTENDED_S", 60)
    monkeypatch.setattr(capacity, "_LARGE_WAIT_S", 0.1)
    alice, bob = client_of(), client_of(tenant=uuid4())
    await bob.get(GET)
    blocking = Blocking(backend, "BatchCharge", "budgets.v1.BatchChargeResponse")
    requests = [asyncio.create_task(alice.post(CHARGE, json=large_body)) for _ in range(2)]
    await blocking.run(2)
    refused = await alice.post(CHARGE, json=large_body)
    assert (refused.status_code, refused.json()["metadata"]) == (429, {"resource": "large_bodies"})
    blocking.proceed.set()
    assert {response.status_code for response in await asyncio.gather(*requests)} == {200}
    assert (await alice.post(CHARGE, json=large_body)).status_code == 200


async def test_large_bodies_of_one_tenant_leave_memory_for_others(
    client_of: Callable[..., httpx.AsyncClient], backend: Backend
) -> None:
    alice, bob = client_of(), client_of(tenant=uuid4())
    blocking = Blocking(backend, "CreateEntity", "entities.v1.Entity")
    body = {"code": "A", "legal_name": "x" * 400_000}
    requests = [asyncio.create_task(alice.post(f"{BASE}/entities", json=body)) for _ in range(2)]
    await blocking.run(2)
    refused = await alice.post(f"{BASE}/entities", json=body)
    assert (refused.json()["code"], refused.json()["metadata"]) == ("CONCURRENCY_LIMITED", {"resource": "memory"})
    requests += [asyncio.create_task(bob.post(f"{BASE}/entities", json={**body, "legal_name": "x" * 100_000}))]
    await blocking.run(3)
    blocking.proceed.set()
    assert {response.status_code for response in await asyncio.gather(*requests)} == {200}  # a reply without an id
