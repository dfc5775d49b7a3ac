"""Rate limits: exact over all replicas, and not applied while the database is unavailable."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from gateway.app import App
from gateway.rate_limits import LEASES, RateLimits
from kit.errors import RateLimited
from kit.settings import Settings
from tests.gateway.backend import Backend
from tests.gateway.conftest import BASE, BUDGET

HOUR = 3600

Replica = Callable[..., Awaitable[RateLimits]]


async def count_accepted(limits: RateLimits, tenant: UUID, calls: int) -> int:
    """Make so many requests at once; return how many are accepted."""
    responses = await asyncio.gather(*(limits.acquire(tenant) for _ in range(calls)), return_exceptions=True)
    assert all(isinstance(response, list | RateLimited) for response in responses)
    return sum(isinstance(response, list) for response in responses)


@pytest.fixture
async def replica(settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Replica]:
    """Creates the limits of another replica: `await replica(rate_limit=10)`. A long timeout keeps the test stable."""
    monkeypatch.setattr("gateway.rate_limits._DATABASE_TIMEOUT_S", 10.0)
    replicas: list[RateLimits] = []

    async def make(rate_limit: int = 100, rate_window_s: int = HOUR, **changed: object) -> RateLimits:
        limits = RateLimits(settings("gateway", rate_limit=rate_limit, rate_window_s=rate_window_s, **changed))
        await limits.open()
        replicas.append(limits)
        return limits

    yield make
    for limits in replicas:
        await limits.close()


async def test_replicas_together_accept_exactly_the_limit(replica: Replica, tenant: UUID) -> None:
    replicas = [await replica() for _ in range(3)]
    assert sum(await asyncio.gather(*(count_accepted(limits, tenant, 100) for limits in replicas))) == 100
    assert await count_accepted(replicas[0], uuid4(), 5) == 5


async def test_ratelimit_headers_count_down(replica: Replica, tenant: UUID) -> None:
    limits = await replica()
    headers = [dict(await limits.acquire(tenant)) for _ in range(7)]
    assert headers[0]["ratelimit-policy"] == '"default";q=100;w=3600'
    assert [response["ratelimit"].split(";")[1] for response in headers] == [
        f"r={remaining}" for remaining in range(99, 92, -1)
    ]


async def test_limit_that_is_no_multiple_of_the_lease_is_exact(replica: Replica, tenant: UUID) -> None:
    limits = await replica(rate_limit=47)
    assert await count_accepted(limits, tenant, 60) == 47


async def test_most_requests_need_no_database_call(replica: Replica, tenant: UUID) -> None:
    limits = await replica()
    before = LEASES.labels("granted")._value.get()
    await count_accepted(limits, tenant, 50)
    assert LEASES.labels("granted")._value.get() - before == 10


async def test_further_tenant_replaces_only_the_oldest_allowance(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.rate_limits._TENANTS_MAX", 2)
    limits, tenants = await replica(), [uuid4() for _ in range(3)]
    before = LEASES.labels("granted")._value.get()
    for tenant in (*tenants, *tenants[1:]):
        await limits.acquire(tenant)
    assert LEASES.labels("granted")._value.get() - before == 3


async def test_new_window_accepts_requests_again(replica: Replica, tenant: UUID) -> None:
    limits = await replica(rate_limit=10, rate_window_s=1)
    assert 10 <= await count_accepted(limits, tenant, 30) <= 20  # the window may end meanwhile
    responses = await asyncio.gather(*(limits.acquire(tenant) for _ in range(50)), return_exceptions=True)
    errors = [response for response in responses if isinstance(response, RateLimited)]
    assert errors[-1].retry_after_s == 1
    await asyncio.sleep(1.0)
    assert await limits.acquire(tenant)


async def test_requests_are_not_limited_while_the_database_is_unavailable(replica: Replica, tenant: UUID) -> None:
    unavailable = SecretStr("postgresql://gateway_app:x@127.0.0.1:1/billing")
    limits = await replica(rate_limit=5, database_url=unavailable)
    before = LEASES.labels("unlimited")._value.get()
    assert await count_accepted(limits, tenant, 20) == 20
    assert LEASES.labels("unlimited")._value.get() == before + 1


async def test_leases_are_isolated_by_tenant(
    replica: Replica,
    tenant: UUID,
    app_connection: Callable[[str], AbstractAsyncContextManager[asyncpg.Connection]],
) -> None:
    await (await replica()).acquire(tenant)
    async with app_connection("gateway") as connection:
        assert await connection.fetchval("select count(*) from rate_leases") == 0
        async with connection.transaction():
            await connection.execute("select set_config('app.tenant_id', $1, true)", str(tenant))
            assert await connection.fetchval("select count(*) from rate_leases") == 1


async def test_exceeded_limit_is_429_with_retry_after(
    settings: Callable[..., Settings], backend: Backend, token: Callable[..., str]
) -> None:
    addresses = dict.fromkeys(("entities", "budgets", "approvals"), backend.address)
    app = App(settings("gateway", addresses=addresses, rate_limit=3, rate_window_s=HOUR))
    await app.limits.open()
    headers = {"authorization": f"Bearer {token()}"}
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client:
        responses = [await client.get(f"{BASE}/budgets/{BUDGET}") for _ in range(4)]
    await app.close()
    assert [response.status_code for response in responses] == [200, 200, 200, 429]
    problem = responses[3].json()
    assert (problem["code"], problem["retryable"]) == ("RATE_LIMITED", True)
    assert problem["metadata"] == {"limit": "3", "window_s": str(HOUR)}
    assert 0 < int(responses[3].headers["retry-after"]) <= HOUR
    assert len(backend.received) == 3
