"""Group commit: requests that arrive while a batch is being processed are processed together in the next one.

A row that thousands of callers change each second then costs one lock, one flush and one round trip per batch instead
of one per call. A batcher processes one batch at a time. Tenants are served round-robin, so that one with bulk
requests does not keep the others waiting; the requests of one tenant keep their order.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeAlias, TypeVar
from uuid import UUID

from kit.cache import TtlCache
from kit.db import sqlstate, to_billing_error
from kit.errors import BillingError, ConcurrencyLimited, Conflict, Overloaded, Unavailable
from kit.fairness import RecentTenants, Shares
from kit.tasks import cancel_and_wait
from kit.telemetry import log

BATCH_MAX: Final = 256
"""Maximum number of items in a batch of single requests."""
BULK_MIN: Final = 16
"""Size of a request from which its tenant uses the batcher for bulk requests."""
BULK_S: Final = 10.0
"""How long a tenant uses it after its last bulk request."""
BULK_MAX: Final = 1_024
"""Maximum number of items in a batch with bulk requests, which are cheaper per item."""
CONTENDED_MAX: Final = 64
"""Maximum number of items of a bulk request in a batch while other tenants are active, so that batches stay short."""
QUEUE_MAX: Final = 20_000
"""Maximum number of items in the queue, divided among the tenants; further requests are refused."""
BUSY_S: Final = 0.05
"""How long batches linger after one with several requests, since more concurrent requests are likely then."""
LINGER_STEP_S: Final = 0.001
LINGER_MAX_S: Final = 0.006
"""A lingering batch waits in steps until a step brings no further request, up to this maximum.

A single caller never waits.
"""
_BULK_TENANTS_MAX: Final = 10_000
_ATTEMPTS: Final = 12
"""Maximum number of attempts per request: a batch of 1,024 is halved ten times until each request is alone."""
_UNIQUE_VIOLATION: Final = "23505"
"""Another replica stored a reply under the key of one of the requests at the same moment."""
_RECONNECT_S: Final = 3.0
"""Retry window after a lost connection; covers a restart of PostgreSQL."""
_RECONNECT_PAUSE_S: Final = 0.1

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")
Process: TypeAlias = Callable[[Sequence[RequestT]], Awaitable[Sequence[ResultT]]]


@dataclass(slots=True, eq=False)
class _Item(Generic[RequestT, ResultT]):
    tenant_id: UUID
    request: RequestT
    size: int
    result: "asyncio.Future[ResultT]"
    attempts_left: int = _ATTEMPTS
    lost_at: float = 0.0
    """When its connection was first lost, by `time.monotonic()`."""

    def fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)


@dataclass(slots=True)
class _FairQueue(Generic[RequestT, ResultT]):
    """One FIFO per tenant, served round-robin."""

    shares: Shares
    recent: RecentTenants
    tenants: "OrderedDict[UUID, deque[_Item[RequestT, ResultT]]]" = field(default_factory=OrderedDict)

    def put(self, item: _Item[RequestT, ResultT]) -> None:
        """Append a request. Raises ConcurrencyLimited if the tenant has its share, Overloaded if the queue is full."""
        self.shares.acquire(item.tenant_id, item.size)
        self.tenants.setdefault(item.tenant_id, deque()).append(item)

    @property
    def size(self) -> int:
        """Number of items."""
        return self.shares.total

    def take_batch(self) -> list[_Item[RequestT, ResultT]]:
        """Remove the next batch, one request of each tenant in turn. Requests whose callers gave up are dropped."""
        batch: list[_Item[RequestT, ResultT]] = []
        size = 0
        while self.tenants:
            tenant_id, items = next(iter(self.tenants.items()))
            if batch and size + items[0].size > self._batch_max(items[0]):
                break
            item = items.popleft()
            self.shares.release(tenant_id, item.size)
            self.tenants.move_to_end(tenant_id)
            if not items:
                del self.tenants[tenant_id]
            if not item.result.done():
                batch.append(item)
                size += item.size
        return batch

    def _batch_max(self, item: _Item[RequestT, ResultT]) -> int:
        if item.size == 1:
            return BATCH_MAX
        return CONTENDED_MAX if self.recent.others(item.tenant_id) else BULK_MAX


class Batcher(Generic[RequestT, ResultT]):
    """Collects concurrent requests into batches and processes one batch at a time."""

    def __init__(
        self, process: "Process[RequestT, ResultT]", *, recent: RecentTenants | None = None, reserve: float = 0.0
    ) -> None:
        """`process` handles a batch in one transaction: it returns a result for each request, or raises for all.

        A batch that fails is retried, in halves if need be: `process` must have no effect twice for one request.
        Batchers of the same work share `recent`. One tenant can't use the part `reserve` of the queue.
        """
        self._process = process
        self._recent = recent or RecentTenants()
        self._queue = _FairQueue[RequestT, ResultT](Shares("queue", QUEUE_MAX, reserve), self._recent)
        self._running: asyncio.Task[None] | None = None
        self._busy_until = 0.0

    async def submit(self, tenant_id: UUID, request: RequestT, size: int = 1) -> ResultT:
        """Return the result of a request of `size` items.

        Raises its error; ConcurrencyLimited or Overloaded if the queue has no room for it.
        """
        self._recent.see(tenant_id)
        item = _Item[RequestT, ResultT](tenant_id, request, size, asyncio.get_running_loop().create_future())
        self._queue.put(item)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await item.result

    async def _run(self) -> None:
        """Process batches until the queue is empty."""
        while self._queue.tenants:
            if time.monotonic() < self._busy_until:
                await self._linger()
            batch = self._queue.take_batch()
            if batch:
                await self._process_batch(batch)
            if len(batch) > 1:
                self._busy_until = time.monotonic() + BUSY_S

    async def _linger(self) -> None:
        until = time.monotonic() + LINGER_MAX_S
        before = -1
        while before < self._queue.size < BATCH_MAX and time.monotonic() < until:
            before = self._queue.size
            await asyncio.sleep(LINGER_STEP_S)

    async def _process_batch(self, batch: "Sequence[_Item[RequestT, ResultT]]") -> None:
        # Outside of the `except` block: the errors of a retry belong to other callers and must not refer to this one.
        if error := await self._try(batch):
            await self._retry(batch, error)

    async def _try(self, batch: "Sequence[_Item[RequestT, ResultT]]") -> Exception | None:
        """Process a batch and set its results. Returns the error if that fails."""
        try:
            results = await self._process([item.request for item in batch])
        except Exception as error:  # noqa: BLE001 - no caller may be left without a result
            return error
        for item, result in zip(batch, results, strict=True):
            if not item.result.done():
                item.result.set_result(result)
        return None

    async def _retry(self, batch: "Sequence[_Item[RequestT, ResultT]]", error: Exception) -> None:
        """Retry a failed batch: halve it until the request that fails is alone, so that the others succeed."""
        billing_error = to_billing_error(error)
        if isinstance(billing_error, Unavailable) or isinstance(error, TimeoutError):
            await self._retry_after_reconnect(batch)
            return
        for item in batch:
            item.attempts_left -= 1
        if sqlstate(error) == _UNIQUE_VIOLATION and batch[0].attempts_left > 0:
            await self._process_batch(batch)  # the lookup by key now finds the reply of the other replica
        elif len(batch) > 1:
            middle = (len(batch) + 1) // 2
            for half in (batch[:middle], batch[middle:]):
                await self._process_batch(half)
        elif billing_error is not None and batch[0].attempts_left > 0:
            self._requeue(batch[0])  # its row is locked: put it last, so that other requests don't wait for it
        else:
            if not isinstance(billing_error or error, BillingError):
                log.error("a request of a batch failed", exc_info=error)
            batch[0].fail(Conflict() if sqlstate(error) == _UNIQUE_VIOLATION else error)

    async def _retry_after_reconnect(self, batch: "Sequence[_Item[RequestT, ResultT]]") -> None:
        """Queue the batch again. It may have been committed; its idempotency keys then prevent a second effect."""
        now = time.monotonic()
        for item in batch:
            item.lost_at = item.lost_at or now
            if now - item.lost_at > _RECONNECT_S:
                item.fail(Unavailable("The database"))
            else:
                self._requeue(item)
        await asyncio.sleep(_RECONNECT_PAUSE_S)

    def _requeue(self, item: "_Item[RequestT, ResultT]") -> None:
        try:
            self._queue.put(item)
        except (ConcurrencyLimited, Overloaded) as error:
            item.fail(error)

    async def close(self) -> None:
        """Stop processing. Callers that are still waiting fail at their own deadlines."""
        if self._running:
            await cancel_and_wait(self._running)


class BulkSeparatingBatcher(Generic[RequestT, ResultT]):
    """Two batchers: tenants with bulk requests have one of their own, so that the batches of all others stay short.

    All requests of a tenant are in the same one, since two transactions of one tenant may wait for the same rows.
    """

    def __init__(
        self, process: Process[RequestT, ResultT], process_bulk: Process[RequestT, ResultT], *, reserve: float
    ) -> None:
        """`process` and `process_bulk` run at the same time, each on its own connection."""
        self._recent = RecentTenants()
        self._single = Batcher(process, recent=self._recent, reserve=reserve)
        self._bulk = Batcher(process_bulk, recent=self._recent, reserve=reserve)
        self._bulk_tenants: TtlCache[UUID, bool] = TtlCache(_BULK_TENANTS_MAX, BULK_S)

    def submit(self, tenant_id: UUID, request: RequestT, size: int = 1) -> Coroutine[Any, Any, ResultT]:
        """Return the result of a request, as `Batcher.submit` does."""
        if size >= BULK_MIN:
            self._bulk_tenants.set(tenant_id, True)
        is_bulk = bool(self._bulk_tenants) and self._bulk_tenants.get(tenant_id)
        return (self._bulk if is_bulk else self._single).submit(tenant_id, request, size)

    def part_size(self, tenant_id: UUID) -> int:
        """Return the size of the parts into which to split a bulk request, so that other tenants don't wait for it."""
        return CONTENDED_MAX if self._recent.others(tenant_id) else BULK_MAX

    async def close(self) -> None:
        """Stop processing."""
        await self._single.close()
        await self._bulk.close()
