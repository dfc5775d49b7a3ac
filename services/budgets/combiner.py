"""Calls that arrive while a transaction is under way are done together in the next one.

A row that thousands want to change each second takes one lock, one flush and one round trip for all who came
meanwhile, instead of one each. One group is under way at a time in each lane; tenants take turns, so that one with
long batches does not keep the others waiting; what belongs to one tenant stays in the order of its arrival.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from kit.db import sqlstate, to_billing_error
from kit.errors import Overloaded, Unavailable
from kit.tasks import end
from kit.telemetry import log

GROUP_MAX: Final = 256
"""Most lines that single calls make up in one group."""
BATCHES_MAX: Final = 1_024
"""Most lines of one group with batches, which are cheaper by the line."""
WAITING_MAX: Final = 20_000
"""Most lines that wait; whoever comes then is told to come again."""
_LINGER_S: Final = 0.003
"""How long a group waits for more while there is much to do; a lone caller never waits."""
_TRIES: Final = 12
"""How often the work of somebody is begun: a group of 256 is halved eight times until one stands alone."""
_DONE_ELSEWHERE = {"23505"}
"""A unique violation: another replica answered a request of this group at the same moment."""
_LOST_S: Final = 3.0
"""How long those who lost their connection wait for a new one: PostgreSQL is back after a restart by then."""
_AGAIN_S: Final = 0.1

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")


@dataclass(slots=True, eq=False)
class _Ticket(Generic[WorkT, ResultT]):
    tenant_id: UUID
    work: WorkT
    lines: int
    done: "asyncio.Future[ResultT]"
    tries: int = _TRIES
    lost_at: float = 0.0
    """When its connection was lost first, by `time.monotonic()`."""


@dataclass(slots=True)
class _Waiting(Generic[WorkT, ResultT]):
    """Who waits: a queue for each tenant, and whose turn it is."""

    queues: "OrderedDict[UUID, deque[_Ticket[WorkT, ResultT]]]" = field(default_factory=OrderedDict)
    lines: int = 0

    def add(self, ticket: _Ticket[WorkT, ResultT]) -> None:
        if self.lines + ticket.lines > WAITING_MAX:
            raise Overloaded
        self.queues.setdefault(ticket.tenant_id, deque()).append(ticket)
        self.lines += ticket.lines

    def take(self) -> list[_Ticket[WorkT, ResultT]]:
        """The next group: one of each tenant in turn, until it is full. Those that gave up are left out."""
        taken: list[_Ticket[WorkT, ResultT]] = []
        lines = 0
        while self.queues:
            tenant_id, queue = next(iter(self.queues.items()))
            if taken and lines + queue[0].lines > (GROUP_MAX if queue[0].lines == 1 else BATCHES_MAX):
                break
            ticket = queue.popleft()
            self.lines -= ticket.lines
            self.queues.move_to_end(tenant_id)
            if not queue:
                del self.queues[tenant_id]
            if not ticket.done.done():
                taken.append(ticket)
                lines += ticket.lines
        return taken


class Combiner(Generic[WorkT, ResultT]):
    """Does the work of many in groups."""

    def __init__(self, do: Callable[[Sequence[WorkT], int], Awaitable[Sequence[ResultT]]], lanes: int = 1) -> None:
        """`do(works, lane)` does a group in a transaction of the lane; it gives a result for each or raises for all."""
        self._do = do
        self._waiting: list[_Waiting[WorkT, ResultT]] = [_Waiting() for _ in range(lanes)]
        self._running: list[asyncio.Task[None] | None] = [None] * lanes

    async def submit(self, tenant_id: UUID, work: WorkT, lines: int = 1) -> ResultT:
        """The result of the work; raises what came of it, or Overloaded."""
        lane = hash(tenant_id) % len(self._waiting)
        done: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting[lane].add(_Ticket(tenant_id, work, lines, done))
        running = self._running[lane]
        if running is None or running.done():
            self._running[lane] = asyncio.create_task(self._run(lane))
        return await done

    async def _run(self, lane: int) -> None:
        """Do groups until nobody waits."""
        waiting = self._waiting[lane]
        done = 1
        while waiting.queues:
            if done > 1 and waiting.lines < GROUP_MAX:
                await asyncio.sleep(_LINGER_S)
            group = waiting.take()
            if group:
                await self._group(group, lane)
            done = len(group)

    async def _group(self, group: "Sequence[_Ticket[WorkT, ResultT]]", lane: int) -> None:
        """Do a group; where one of it is in the way of the others, do it in parts."""
        try:
            results = await self._do([ticket.work for ticket in group], lane)
        except Exception as error:  # noqa: BLE001 - whatever it is, everybody who waits is told
            await self._failed(group, lane, error)
            return
        for ticket, result in zip(group, results, strict=True):
            if not ticket.done.done():
                ticket.done.set_result(result)

    async def _failed(self, group: "Sequence[_Ticket[WorkT, ResultT]]", lane: int, error: Exception) -> None:
        refusal = to_billing_error(error)
        if isinstance(refusal, Unavailable) or isinstance(error, TimeoutError):
            await self._lost(group, lane)
            return
        for ticket in group:
            ticket.tries -= 1
        if sqlstate(error) in _DONE_ELSEWHERE and group[0].tries > 0:
            await self._group(group, lane)  # now it is found by its key
        elif len(group) > 1:
            middle = (len(group) + 1) // 2
            for part in (group[:middle], group[middle:]):
                await self._group(part, lane)
        elif refusal is not None and group[0].tries > 0:
            self._again(group[0], lane)  # locked by somebody else: to the end of the queue, so that nobody waits behind
        else:
            if refusal is None:
                log.error("a line failed", exc_info=error)
            _tell(group[0], error)

    async def _lost(self, group: "Sequence[_Ticket[WorkT, ResultT]]", lane: int) -> None:
        """Nobody knows what became of the group. Every line bears a key: what was done is found, and not done again."""
        now = time.monotonic()
        for ticket in group:
            ticket.lost_at = ticket.lost_at or now
            if now - ticket.lost_at > _LOST_S:
                _tell(ticket, Unavailable("The database"))
            else:
                self._again(ticket, lane)
        await asyncio.sleep(_AGAIN_S)

    def _again(self, ticket: "_Ticket[WorkT, ResultT]", lane: int) -> None:
        try:
            self._waiting[lane].add(ticket)
        except Overloaded as refusal:
            _tell(ticket, refusal)

    async def close(self) -> None:
        """Stop; who still waits is told so by its own deadline."""
        await end(*(task for task in self._running if task))


def _tell(ticket: "_Ticket[Any, Any]", error: Exception) -> None:
    if not ticket.done.done():
        ticket.done.set_exception(error)
