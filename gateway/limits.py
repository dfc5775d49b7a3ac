"""How many calls a tenant may make, counted over all replicas.

A replica leases a piece of a tenant's calls in the window from the database and serves from it, so that one
call in many costs a round trip. Together the replicas never serve more than the limit in a window of the
database's clock. Without the database there is no limit for a moment: billing goes on.
"""

import asyncio
import math
import time
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
from prometheus_client import Counter

from kit.errors import RateLimited
from kit.settings import Settings
from kit.telemetry import log

LEASES = Counter("billing_gateway_rate_leases", "Pieces of the rate limit asked from the database.", ("outcome",))
_PIECES = 20
_OPEN_S = 1.0
_TIMEOUT_S = 0.5
_TENANTS_MAX = 10_000

_LEASE = """
    with now as (select extract(epoch from clock_timestamp()) as s)
    insert into rate_leases as lease (tenant_id, window_start, taken)
    select $1, to_timestamp(floor(now.s / $2) * $2), $3 from now
    on conflict (tenant_id, window_start) do update set taken = least(lease.taken, $4) + $3
    returning taken, (extract(epoch from window_start - clock_timestamp()) + $2)::float8 as left_s
"""
_FORGET = "delete from rate_leases where tenant_id = $1 and window_start < now() - make_interval(secs => $2)"


@dataclass(slots=True)
class _Share:
    """What this replica may still serve of one tenant in the window."""

    left: float = 0
    elsewhere: float = 0
    """What nobody had leased when we last asked."""
    until: float = 0.0
    """When the window ends, by `time.monotonic()`."""
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Limits:
    """The rate limit of every tenant."""

    def __init__(self, settings: Settings) -> None:
        self._limit, self._window_s = settings.rate_limit, settings.rate_window_s
        self._piece = max(1, math.ceil(self._limit / _PIECES))
        url = settings.database_url.get_secret_value()
        self._pool = asyncpg.create_pool(url, min_size=0, max_size=4, command_timeout=_TIMEOUT_S)
        self._shares: dict[UUID, _Share] = {}
        self._policy = ("ratelimit-policy", f'"default";q={self._limit};w={self._window_s}')

    async def open(self) -> None:
        """Get ready; connects to nothing yet."""
        await self._pool

    async def take(self, tenant_id: UUID) -> list[tuple[str, str]]:
        """Count one call; gives the headers that tell what is left. Raises RateLimited."""
        share = self._shares.get(tenant_id)
        if share is None:
            if len(self._shares) >= _TENANTS_MAX:
                self._shares.clear()
            share = self._shares[tenant_id] = _Share()
        while share.left < 1 or share.until <= time.monotonic():
            if share.until > time.monotonic() and share.elsewhere < 1:
                raise RateLimited(
                    f"More than {self._limit} calls in {self._window_s} seconds.",
                    retry_after_s=math.ceil(share.until - time.monotonic()),
                    limit=self._limit,
                    window_s=self._window_s,
                )
            async with share.asking:
                if share.left < 1 or share.until <= time.monotonic():
                    await self._lease(tenant_id, share)
        share.left -= 1
        left = int(min(share.left + share.elsewhere, self._limit))
        seconds = math.ceil(share.until - time.monotonic())
        return [self._policy, ("ratelimit", f'"default";r={left};t={seconds}')]

    async def _lease(self, tenant_id: UUID, share: _Share) -> None:
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                taken, left_s = await self._ask(tenant_id)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            LEASES.labels("open").inc()
            log.warning("the rate limit is open: its database is away", error=repr(error)[:200])
            share.left, share.elsewhere, share.until = math.inf, 0, asked_at + _OPEN_S
            return
        before = taken - self._piece
        share.left = max(0, min(self._piece, self._limit - before))
        share.elsewhere = max(0, self._limit - taken)
        share.until = asked_at + left_s
        LEASES.labels("given" if share.left else "none").inc()

    async def _ask(self, tenant_id: UUID) -> tuple[int, float]:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("select set_config('app.tenant_id', $1, true)", str(tenant_id))
            await connection.execute(_FORGET, tenant_id, float(self._window_s))
            row = await connection.fetchrow(_LEASE, tenant_id, self._window_s, self._piece, self._limit)
            if row is None:
                raise asyncpg.InterfaceError("no row came back")
            return row["taken"], row["left_s"]

    async def close(self) -> None:
        """Let the database go."""
        self._pool.terminate()
