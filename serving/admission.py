"""Admission of calls and streams: how much of a process each tenant may use at once.

A tenant has a share of the calls, the streams and the memory of requests; what exceeds it is refused with a retry hint.
While other tenants are active, few of its calls run at once, and fewer of its large ones; the others wait their turn.
"""

import asyncio
from typing import Final
from uuid import UUID

from prometheus_client import Gauge

from kit import telemetry
from kit.errors import ConcurrencyLimited, MessageTooLarge, Overloaded, Unavailable
from kit.fairness import REFUSALS, Gate, OpenStreams, RecentTenants, Shares
from kit.settings import Settings
from kit.tasks import pause_s

STREAMS_IN_PROGRESS = Gauge("billing_streams_in_progress", "Streams in progress.")

LARGE_BYTES: Final = 4 * 1024
"""Requests above this size are counted by their size, and few of them run at once."""
_REQUEST_BYTES_MAX: Final = 64 * 1024 * 1024
"""Maximum size of all large requests in progress."""
_RUNNING_MAX: Final = 64
"""How many calls of one tenant run at once while others are active: enough for a full batch of charges."""
_LARGE_RUNNING_MAX, _LARGE_RUNNING_CONTENDED_MAX = 6, 1
_LARGE_PAUSE, _LARGE_BYTES_PER_S = 1.0, 32 * 1024 * 1024
"""How much room the large calls of a tenant leave to active others: a call that waits begins after a pause as long as
the call before it, and at this rate, since receiving a large request takes time even if it is refused."""
_LARGE_WAIT_S: Final = 10.0
"""How long a large call waits for others of its tenant."""
_PAUSE_S: Final = 0.002
"""How long a large call pauses between its pieces while other tenants are active."""


class Admission:
    """Counts the calls and streams of a process by tenant."""

    def __init__(self, settings: Settings) -> None:
        capacity, reserve = settings.calls_max, settings.tenant_reserve
        self._calls_max, self._bytes_max = capacity, settings.message_bytes_max
        self._recent = RecentTenants()
        self._calls = Shares("calls", capacity, reserve)
        self._request_bytes = Shares("request_bytes", max(_REQUEST_BYTES_MAX, 4 * self._bytes_max), reserve)
        self._gate = Gate(capacity, _RUNNING_MAX, self._recent)
        self._large_gate = Gate(
            _LARGE_RUNNING_MAX,
            _LARGE_RUNNING_CONTENDED_MAX,
            self._recent,
            pause=_LARGE_PAUSE,
            bytes_per_s=_LARGE_BYTES_PER_S,
        )
        self._streams = OpenStreams(capacity, reserve)
        self._arrived = 0
        self._shutting_down = False
        # Evaluated on scrape, at no cost per call.
        telemetry.CALLS_IN_PROGRESS.set_function(lambda: self.calls_in_progress)
        STREAMS_IN_PROGRESS.set_function(lambda: len(self._streams))

    @property
    def calls_in_progress(self) -> int:
        """Calls that have arrived and not ended, without streams that have been admitted."""
        return self._arrived

    def arrive(self) -> None:
        """Count a call whose tenant is not known yet. Raises Overloaded if as many as allowed wait for that."""
        if self._arrived - self._calls.total >= self._calls_max:
            raise Overloaded
        self._arrived += 1

    def depart(self) -> None:
        """Count the end of a call that has arrived."""
        self._arrived -= 1

    async def begin(self, tenant_id: UUID, size: int, *, by_service: bool) -> None:
        """Count a call of the tenant with a request of `size` bytes, and wait for its turn.

        A call by another service does not wait: a call that has a turn here may depend on it. Raises MessageTooLarge,
        ConcurrencyLimited or Overloaded. Each call that has begun ends with `end`.
        """
        self.check_size(size)
        self._recent.see(tenant_id)
        self._calls.acquire(tenant_id)
        try:
            if size > LARGE_BYTES:
                await self._begin_large(tenant_id, size, by_service=by_service)
            elif not by_service and not self._gate.try_enter(tenant_id):
                await self._gate.enter(tenant_id)
        except BaseException:
            self._calls.release(tenant_id)
            raise

    async def _begin_large(self, tenant_id: UUID, size: int, *, by_service: bool) -> None:
        self._request_bytes.acquire(tenant_id, size)
        if by_service:
            return
        try:
            async with asyncio.timeout(_LARGE_WAIT_S):
                await self._large_gate.enter(tenant_id)
        except BaseException as error:
            self._request_bytes.release(tenant_id, size)
            if isinstance(error, TimeoutError):
                REFUSALS.labels("large_calls", "tenant").inc()
                raise ConcurrencyLimited("large_calls") from None
            raise
        if self._recent.others(tenant_id):
            pause_s.set(_PAUSE_S)

    def end(self, tenant_id: UUID, size: int, *, by_service: bool) -> None:
        """Count the end of a call."""
        self._calls.release(tenant_id)
        if size > LARGE_BYTES:
            self._request_bytes.release(tenant_id, size)
        if not by_service:
            (self._large_gate if size > LARGE_BYTES else self._gate).leave(tenant_id, size)

    def check_size(self, size: int) -> None:
        """Raise MessageTooLarge if a request is larger than the limit."""
        if size > self._bytes_max:
            raise MessageTooLarge(f"A message may have {self._bytes_max} bytes at most.", bytes_max=self._bytes_max)

    def open_stream(self, tenant_id: UUID) -> "asyncio.Future[None]":
        """Count a stream; the returned future is done when the stream must end.

        Raises Unavailable if the process is shutting down, ConcurrencyLimited or Overloaded.
        """
        if self._shutting_down:
            raise Unavailable("This replica")
        return self._streams.open(tenant_id)

    def close_stream(self, tenant_id: UUID, end: "asyncio.Future[None]") -> None:
        """Count the end of a stream."""
        self._streams.close(tenant_id, end)

    def end_all_streams(self) -> None:
        """End all streams and reject new ones as Unavailable; unary calls are still served."""
        self._shutting_down = True
        self._streams.end_all()
