"""The capacity of the gateway that tenants share: requests in progress, streams, and memory for bodies."""

import asyncio
from typing import Final
from uuid import UUID

from kit.errors import ConcurrencyLimited
from kit.fairness import REFUSALS, Gate, OpenStreams, RecentTenants, Shares
from kit.settings import Settings

LARGE_BYTES: Final = 16 * 1024
"""Of requests with a larger body few run at once for each tenant."""
_LARGE_RUNNING_MAX, _LARGE_RUNNING_CONTENDED_MAX = 16, 2
_LARGE_PAUSE, _LARGE_BYTES_PER_S = 1.0, 32 * 1024 * 1024
"""How much room the large bodies of a tenant leave to active others; see `Gate`."""
_LARGE_WAIT_S: Final = 10.0
"""How long a large body waits for others of its tenant: less than its client has for sending it."""


class Capacity:
    """The capacity of one gateway process."""

    def __init__(self, settings: Settings) -> None:
        reserve = settings.tenant_reserve
        self.requests = Shares("requests", settings.calls_max, reserve)
        self.memory = Shares("memory", settings.http_memory_bytes_max, reserve)
        self.streams = OpenStreams(settings.calls_max, reserve)
        self.recent = RecentTenants()
        self.large_requests = Gate(
            _LARGE_RUNNING_MAX,
            _LARGE_RUNNING_CONTENDED_MAX,
            self.recent,
            pause=_LARGE_PAUSE,
            bytes_per_s=_LARGE_BYTES_PER_S,
        )


class Usage:
    """What one request uses; it is counted for the tenant until `release`."""

    __slots__ = ("_bytes", "_capacity", "_is_counted", "_stream", "_tenant_id", "is_large")

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._tenant_id: UUID | None = None
        self._is_counted = self.is_large = False
        self._bytes = 0
        self._stream: asyncio.Future[None] | None = None

    def begin(self, tenant_id: UUID) -> None:
        """Count the request. Raises ConcurrencyLimited or Overloaded."""
        self._capacity.recent.see(tenant_id)
        self._capacity.requests.acquire(tenant_id)
        self._tenant_id, self._is_counted = tenant_id, True

    async def begin_large(self) -> None:
        """Wait until the tenant may send a further large body. Raises ConcurrencyLimited after `_LARGE_WAIT_S`."""
        if self._tenant_id is None:
            return
        try:
            async with asyncio.timeout(_LARGE_WAIT_S):
                await self._capacity.large_requests.enter(self._tenant_id)
        except TimeoutError:
            REFUSALS.labels("large_bodies", "tenant").inc()
            raise ConcurrencyLimited("large_bodies") from None
        self.is_large = True

    def end_large(self) -> None:
        """Let the next large body of the tenant begin; what follows, such as a stream, may take long."""
        if self.is_large and self._tenant_id is not None:
            self._capacity.large_requests.leave(self._tenant_id, self._bytes)
        self.is_large = False

    def reserve(self, size: int) -> None:
        """Count memory. Raises ConcurrencyLimited or Overloaded."""
        if self._tenant_id is not None:
            self._capacity.memory.acquire(self._tenant_id, size)
            self._bytes += size

    def begin_stream(self) -> "asyncio.Future[None]":
        """Count a stream in place of the request; the returned future is done when the stream must end.

        Raises ConcurrencyLimited or Overloaded.
        """
        if self._tenant_id is None:
            raise RuntimeError("a stream begins after its caller is authenticated")
        self._stream = self._capacity.streams.open(self._tenant_id)
        self._capacity.requests.release(self._tenant_id)
        self._is_counted = False
        self.end_large()
        return self._stream

    def release(self) -> None:
        """Count the end of the request."""
        tenant_id = self._tenant_id
        if tenant_id is None:
            return
        if self._is_counted:
            self._capacity.requests.release(tenant_id)
        if self.is_large:
            self.end_large()
        if self._bytes:
            self._capacity.memory.release(tenant_id, self._bytes)
        if self._stream is not None:
            self._capacity.streams.close(tenant_id, self._stream)
        self._tenant_id = None
