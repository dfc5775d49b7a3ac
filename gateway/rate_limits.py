"""Rate limit per tenant, counted over all replicas of the gateway.

A replica leases a share of a tenant's requests in the window from the database and serves from it, so that only one
request in many costs a round trip. Together the replicas never serve more than the limit in a window of the database's
clock. While the database is unavailable, requests are not limited, so that billing stays available.
"""

import asyncio
import math
import time
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
from prometheus_client import Counter

from kit.cache import TtlCache
from kit.errors import RateLimited
from kit.settings import Settings
from kit.telemetry import log

LEASES = Counter(
    "billing_gateway_rate_leases", "Leases of the rate limit requested from the database, by outcome.", ("outcome",)
)
_LEASES_PER_WINDOW = 20
_UNLIMITED_S = 1.0
"""How long requests are not limited after the database failed; then the next request tries it again."""
_DATABASE_TIMEOUT_S = 0.5
_TENANTS_MAX = 10_000

_LEASE = """
    with now as (select extract(epoch from clock_timestamp()) as s)
    insert into rate_leases as lease (tenant_id, window_start, taken)
    select $1, to_timestamp(floor(now.s / $2) * $2), $3 from now
    on conflict (tenant_id, window_start) do update set taken = least(lease.taken, $4) + $3
    returning taken, (extract(epoch from window_start - clock_timestamp()) + $2)::float8 as left_s
"""
_DELETE_PAST_WINDOWS = (
    "delete from rate_leases where tenant_id = $1 and window_start < now() - make_interval(secs => $2)"
)


@dataclass(slots=True)
class _Allowance:
    """The requests of one tenant that this replica may still serve in the window."""

    leased: float = 0
    """Requests left in this replica's lease."""
    unleased: float = 0
    """Requests that no replica had leased at the time of our last lease."""
    window_end: float = 0.0
    """End of the window on the clock of `time.monotonic()`."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RateLimits:
    """The rate limits of all tenants."""

    def __init__(self, settings: Settings) -> None:
        self._limit, self._window_s = settings.rate_limit, settings.rate_window_s
        self._lease_size = max(1, math.ceil(self._limit / _LEASES_PER_WINDOW))
        url = settings.database_url.get_secret_value()
        self._pool = asyncpg.create_pool(url, min_size=0, max_size=4, command_timeout=_DATABASE_TIMEOUT_S)
        self._allowances: TtlCache[UUID, _Allowance] = TtlCache(_TENANTS_MAX)
        self._policy = ("ratelimit-policy", f'"default";q={self._limit};w={self._window_s}')

    async def open(self) -> None:
        """Initialize the connection pool; it connects on first use."""
        await self._pool

    async def acquire(self, tenant_id: UUID) -> list[tuple[str, str]]:
        """Count one request and return the RateLimit headers. Raises RateLimited."""
        allowance = self._allowances.get(tenant_id)
        if allowance is None:
            allowance = _Allowance()
            self._allowances.set(tenant_id, allowance)
        while allowance.leased < 1 or allowance.window_end <= time.monotonic():
            if allowance.window_end > time.monotonic() and allowance.unleased < 1:
                raise RateLimited(
                    f"More than {self._limit} calls in {self._window_s} seconds.",
                    retry_after_s=math.ceil(allowance.window_end - time.monotonic()),
                    limit=self._limit,
                    window_s=self._window_s,
                )
            async with allowance.lock:
                if allowance.leased < 1 or allowance.window_end <= time.monotonic():
                    await self._renew(tenant_id, allowance)
        allowance.leased -= 1
        remaining = int(min(allowance.leased + allowance.unleased, self._limit))
        seconds = math.ceil(allowance.window_end - time.monotonic())
        return [self._policy, ("ratelimit", f'"default";r={remaining};t={seconds}')]

    async def _renew(self, tenant_id: UUID, allowance: _Allowance) -> None:
        requested_at = time.monotonic()
        try:
            async with asyncio.timeout(_DATABASE_TIMEOUT_S):
                total_leased, left_s = await self._lease(tenant_id)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            LEASES.labels("unlimited").inc()
            log.warning("requests are not limited: the database is unavailable", error=error)
            allowance.leased, allowance.unleased = math.inf, 0
            allowance.window_end = requested_at + _UNLIMITED_S
            return
        leased_before = total_leased - self._lease_size
        allowance.leased = max(0, min(self._lease_size, self._limit - leased_before))
        allowance.unleased = max(0, self._limit - total_leased)
        allowance.window_end = requested_at + left_s
        LEASES.labels("granted" if allowance.leased else "exhausted").inc()

    async def _lease(self, tenant_id: UUID) -> tuple[int, float]:
        """Lease a share of the window; return the total leased by all replicas, and the seconds left in the window."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("select set_config('app.tenant_id', $1, true)", str(tenant_id))
            await connection.execute(_DELETE_PAST_WINDOWS, tenant_id, float(self._window_s))
            row = await connection.fetchrow(_LEASE, tenant_id, self._window_s, self._lease_size, self._limit)
            if row is None:
                raise asyncpg.InterfaceError("the lease returned no row")
            return row["taken"], row["left_s"]

    async def close(self) -> None:
        """Close the connection pool."""
        self._pool.terminate()
