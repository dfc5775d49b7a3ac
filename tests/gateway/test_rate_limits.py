"""Rate limits: counted over all replicas, exact, and never in the way when the database is."""

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


async def taken(limits: RateLimits, tenant: UUID, calls: int) -> int:
    """How many of so many calls are let through."""
    answers = await asyncio.gather(*(limits.acquire(tenant) for _ in range(calls)), return_exceptions=True)
    assert all(isinstance(answer, list | RateLimited) for answer in answers)
    return sum(isinstance(answer, list) for answer in answers)


@pytest.fixture
async def replica(settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Replica]:
    """Makes the limits of one more replica: `await replica(rate_limit=10)`; a busy machine does not open them."""
    monkeypatch.setattr("gateway.rate_limits._DATABASE_TIMEOUT_S", 10.0)
    made: list[RateLimits] = []

    async def make(rate_limit: int = 100, rate_window_s: int = HOUR, **changed: object) -> RateLimits:
        limits = RateLimits(settings("gateway", rate_limit=rate_limit, rate_window_s=rate_window_s, **changed))
        await limits.open()
        made.append(limits)
        return limits

    yield make
    for limits in made:
        await limits.close()


async def test_the_replicas_together_let_through_what_the_limit_says(replica: Replica, tenant: UUID) -> None:
    replicas = [await replica() for _ in range(3)]
    assert sum(await asyncio.gather(*(taken(limits, tenant, 100) for limits in replicas))) == 100
    assert await taken(replicas[0], uuid4(), 5) == 5


async def test_the_headers_count_down(replica: Replica, tenant: UUID) -> None:
    limits = await replica()
    told = [dict(await limits.acquire(tenant)) for _ in range(7)]
    assert told[0]["ratelimit-policy"] == '"default";q=100;w=3600'
    assert [answer["ratelimit"].split(";")[1] for answer in told] == [f"r={left}" for left in range(99, 92, -1)]


async def test_a_limit_that_no_piece_divides_is_exact(replica: Replica, tenant: UUID) -> None:
    limits = await replica(rate_limit=47)
    assert await taken(limits, tenant, 60) == 47


async def test_most_calls_ask_nobody(replica: Replica, tenant: UUID) -> None:
    limits = await replica()
    before = LEASES.labels("granted")._value.get()
    await taken(limits, tenant, 50)
    assert LEASES.labels("granted")._value.get() - before == 10


async def test_a_new_window_lets_through_again(replica: Replica, tenant: UUID) -> None:
    limits = await replica(rate_limit=10, rate_window_s=1)
    assert 10 <= await taken(limits, tenant, 30) <= 20  # the clock may turn meanwhile
    answers = await asyncio.gather(*(limits.acquire(tenant) for _ in range(50)), return_exceptions=True)
    refusals = [answer for answer in answers if isinstance(answer, RateLimited)]
    assert refusals[-1].retry_after_s == 1
    await asyncio.sleep(1.0)
    assert await limits.acquire(tenant)


async def test_without_its_database_the_limit_is_open(replica: Replica, tenant: UUID) -> None:
    away = SecretStr("postgresql://gateway_app:x@127.0.0.1:1/billing")
    limits = await replica(rate_limit=5, database_url=away)
    before = LEASES.labels("unlimited")._value.get()
    assert await taken(limits, tenant, 20) == 20
    assert LEASES.labels("unlimited")._value.get() == before + 1


async def test_one_tenant_sees_no_lease_of_another(
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


async def test_over_rest(settings: Callable[..., Settings], backend: Backend, token: Callable[..., str]) -> None:
    addresses = dict.fromkeys(("entities", "budgets", "approvals"), backend.address)
    app = App(settings("gateway", addresses=addresses, rate_limit=3, rate_window_s=HOUR))
    await app.limits.open()
    headers = {"authorization": f"Bearer {token()}"}
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client:
        answers = [await client.get(f"{BASE}/budgets/{BUDGET}") for _ in range(4)]
    await app.close()
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    problem = answers[3].json()
    assert (problem["code"], problem["retryable"]) == ("RATE_LIMITED", True)
    assert problem["metadata"] == {"limit": "3", "window_s": str(HOUR)}
    assert 0 < int(answers[3].headers["retry-after"]) <= HOUR
    assert len(backend.asked) == 3
