"""Divides a capacity between tenants: calls, streams, memory, database connections.

Any tenant may use what is free outside of a reserve. The reserve is for tenants below an equal share, so a tenant that
arrives later finds room at once. While the reserve is in use, each tenant may use more only up to an equal share.
"""

import asyncio
import time
from collections import OrderedDict, deque
from math import inf
from typing import Final
from uuid import UUID

from prometheus_client import Counter

from kit.errors import ConcurrencyLimited, Overloaded

REFUSALS: Final = Counter(
    "billing_load_refusals",
    "Calls and streams refused because of load, by what was used up and whether by the tenant or by all.",
    ("resource", "reason"),
)
_CONTENDED_S: Final = 1.0
"""How long after its last call another tenant counts as active."""
_PAUSE_MAX_S: Final = 1.0


class Shares:
    """Counts what each tenant uses of a capacity, and refuses what exceeds its share."""

    def __init__(self, resource: str, capacity: int, reserve: float) -> None:
        """`resource` names it in errors and metrics; `reserve` is the part that one tenant can't use alone."""
        self._resource = resource
        self._capacity = capacity
        self._unreserved = capacity - int(capacity * reserve)
        self._used: dict[UUID, int] = {}
        self.total = 0
        """How much is in use."""

    def acquire(self, tenant_id: UUID, amount: int = 1) -> None:
        """Count an amount as used. Raises ConcurrencyLimited above the share, Overloaded if nothing is left."""
        used = self._used.get(tenant_id, 0)
        total = self.total + amount
        if total > self._unreserved:
            self._check_share(tenant_id, used + amount, total)
        self._used[tenant_id] = used + amount
        self.total = total

    def fits(self, tenant_id: UUID, amount: int = 1) -> bool:
        """True if `acquire` would succeed."""
        total = self.total + amount
        if total <= self._unreserved:
            return True
        return total <= self._capacity and self._used.get(tenant_id, 0) + amount <= self._share(tenant_id)

    def _check_share(self, tenant_id: UUID, used: int, total: int) -> None:
        if used > self._share(tenant_id):
            REFUSALS.labels(self._resource, "tenant").inc()
            raise ConcurrencyLimited(self._resource)
        if total > self._capacity:
            REFUSALS.labels(self._resource, "all").inc()
            raise Overloaded

    def _share(self, tenant_id: UUID) -> int:
        """Return the equal share of a tenant, beside at least one other."""
        tenants = len(self._used) + (tenant_id not in self._used)
        return max(1, self._capacity // max(2, tenants))

    def release(self, tenant_id: UUID, amount: int = 1) -> None:
        """Count an amount as free again."""
        self.total -= amount
        left = self._used[tenant_id] - amount
        if left:
            self._used[tenant_id] = left
        else:
            del self._used[tenant_id]

    def over_share(self, tenant_id: UUID) -> UUID | None:
        """Return the tenant that uses most, if it is above the share that it has beside `tenant_id`."""
        if not self._used:
            return None
        largest = max(self._used, key=self._used.__getitem__)
        return largest if self._used[largest] > self._share(tenant_id) else None


class OpenStreams:
    """Streams in progress. Streams last for an hour, so those above a tenant's share end when others need room."""

    def __init__(self, capacity: int, reserve: float) -> None:
        self._shares = Shares("streams", capacity, reserve)
        self._streams: dict[UUID, list[asyncio.Future[None]]] = {}

    def open(self, tenant_id: UUID) -> "asyncio.Future[None]":
        """Count a stream; the returned future is done when the stream must end, with an error if others need its room.

        Raises ConcurrencyLimited or Overloaded.
        """
        while not self._shares.fits(tenant_id):
            largest = self._shares.over_share(tenant_id)
            if largest is None or largest == tenant_id:
                break  # acquire raises
            self._end_newest(largest)
        self._shares.acquire(tenant_id)
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._streams.setdefault(tenant_id, []).append(end)
        return end

    def _end_newest(self, tenant_id: UUID) -> None:
        end = self._remove(tenant_id, self._streams[tenant_id][-1])
        REFUSALS.labels("streams", "ended").inc()
        if not end.done():
            end.set_exception(ConcurrencyLimited("streams"))
            end.exception()  # marks it as retrieved: the stream may be ending by itself

    def _remove(self, tenant_id: UUID, end: "asyncio.Future[None]") -> "asyncio.Future[None]":
        streams = self._streams[tenant_id]
        streams.remove(end)
        if not streams:
            del self._streams[tenant_id]
        self._shares.release(tenant_id)
        return end

    def close(self, tenant_id: UUID, end: "asyncio.Future[None]") -> None:
        """Count the end of a stream."""
        if end in self._streams.get(tenant_id, ()):
            self._remove(tenant_id, end)

    def end_all(self) -> None:
        """End all streams."""
        for end in (end for streams in self._streams.values() for end in streams):
            if not end.done():
                end.set_result(None)

    def __len__(self) -> int:
        return self._shares.total


class RecentTenants:
    """Records when tenants were active, to find out whether a tenant is alone."""

    def __init__(self) -> None:
        self._last: UUID | None = None
        self._last_time = self._last_other_time = float("-inf")
        """When the last tenant, and when any other one was active."""

    def see(self, tenant_id: UUID) -> None:
        """Record that the tenant is active now."""
        if tenant_id != self._last:
            self._last, self._last_other_time = tenant_id, self._last_time
        self._last_time = time.monotonic()

    def others(self, tenant_id: UUID) -> bool:
        """True if another tenant was active within the last second."""
        seen = self._last_other_time if self._last == tenant_id else self._last_time
        return time.monotonic() - seen < _CONTENDED_S


def _remove(waiting: dict[UUID, deque[asyncio.Future[None]]], tenant_id: UUID, turn: "asyncio.Future[None]") -> None:
    """Remove a call that gave up from its queue, which is therefore never longer than the calls in progress."""
    turns = waiting.get(tenant_id)
    if turns and turn in turns:
        turns.remove(turn)
        if not turns:
            del waiting[tenant_id]


class Gate:
    """Limits how many calls of one tenant run at once; further ones wait in the order of their arrival.

    It keeps the event loop responsive for other tenants: the calls of one tenant run in small portions.
    """

    def __init__(
        self, limit: int, contended_limit: int, recent: RecentTenants, *, pause: float = 0.0, bytes_per_s: float = inf
    ) -> None:
        """`contended_limit` applies while other tenants are active.

        While they are, and if further calls of the tenant wait, a turn is followed by a pause: `pause` times as long as
        the turn, or longer, so that requests of no more than `bytes_per_s` begin.
        """
        self._limit, self._contended_limit = limit, contended_limit
        self._recent = recent
        self._pause, self._bytes_per_s = pause, bytes_per_s
        self._begun: dict[UUID, float] = {}
        """When the latest turn of each tenant began, if turns are followed by pauses."""
        self._running: dict[UUID, int] = {}
        self._waiting: dict[UUID, deque[asyncio.Future[None]]] = {}

    def try_enter(self, tenant_id: UUID) -> bool:
        """Take a turn if there is one at once, and return whether there was."""
        running = self._running.get(tenant_id, 0)
        if running and (tenant_id in self._waiting or not self._has_room(tenant_id, running)):
            return False
        self._running[tenant_id] = running + 1
        if self._pause:
            self._begun[tenant_id] = time.monotonic()
        return True

    async def enter(self, tenant_id: UUID) -> None:
        """Wait for a turn; each one ends with `leave`."""
        if self.try_enter(tenant_id):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant_id, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(tenant_id)
            else:
                _remove(self._waiting, tenant_id, turn)
            raise

    def _has_room(self, tenant_id: UUID, running: int) -> bool:
        return running < self._contended_limit or (running < self._limit and not self._recent.others(tenant_id))

    def leave(self, tenant_id: UUID, size: int = 0) -> None:
        """End a turn of a request of `size` bytes, and let waiting calls begin."""
        if self._pause and tenant_id in self._waiting and self._recent.others(tenant_id):
            duration = time.monotonic() - self._begun[tenant_id]
            pause_s = min(_PAUSE_MAX_S, max(self._pause * duration, size / self._bytes_per_s))
            asyncio.get_running_loop().call_later(pause_s, self._end, tenant_id)
        elif self._running[tenant_id] == 1 and tenant_id not in self._waiting:
            del self._running[tenant_id]  # as usual
            self._begun.pop(tenant_id, None)
        else:
            self._end(tenant_id)

    def _end(self, tenant_id: UUID) -> None:
        running = self._running[tenant_id] - 1
        waiting = self._waiting.get(tenant_id)
        while waiting and self._has_room(tenant_id, running):
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                running += 1
        if waiting is not None and not waiting:
            del self._waiting[tenant_id]
        if running:
            self._running[tenant_id] = running
            if self._pause:
                self._begun[tenant_id] = time.monotonic()
        else:
            del self._running[tenant_id]
            self._begun.pop(tenant_id, None)


class FairSlots:
    """A number of slots, such as connections; calls that find none wait, and tenants are served round-robin."""

    def __init__(self, resource: str, capacity: int, reserve: float) -> None:
        """`resource` names the slots in metrics; `reserve` is the part that one tenant can't use alone."""
        self._resource = resource
        self._shares = Shares(resource, capacity, reserve)
        self._waiting: OrderedDict[UUID, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many calls wait for a slot."""
        return sum(not turn.done() for turns in self._waiting.values() for turn in turns)

    async def acquire(self, tenant_id: UUID, within_s: float) -> None:
        """Wait for a slot; each one ends with `release`. Raises Overloaded after `within_s`."""
        if tenant_id not in self._waiting and self._shares.fits(tenant_id):
            self._shares.acquire(tenant_id)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant_id, deque()).append(turn)
        try:
            async with asyncio.timeout(within_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.release(tenant_id)
            else:
                _remove(self._waiting, tenant_id, turn)
            if isinstance(error, TimeoutError):
                REFUSALS.labels(self._resource, "all").inc()
                raise Overloaded from None
            raise

    def release(self, tenant_id: UUID) -> None:
        """Free a slot, for the next tenant that waits for one."""
        self._shares.release(tenant_id)
        if self._waiting:
            self._hand_over()

    def _hand_over(self) -> None:
        while turn := self._next_turn():
            turn.set_result(None)

    def _next_turn(self) -> "asyncio.Future[None] | None":
        """Return the first waiting call of the next tenant that may have a slot, and take the slot."""
        for tenant_id in list(self._waiting):
            turns = self._waiting[tenant_id]
            while turns and turns[0].done():
                turns.popleft()
            if turns and not self._shares.fits(tenant_id):
                continue
            turn = turns.popleft() if turns else None
            if turns:
                self._waiting.move_to_end(tenant_id)
            else:
                del self._waiting[tenant_id]
            if turn is not None:
                self._shares.acquire(tenant_id)
                return turn
        return None
