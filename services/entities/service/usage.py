"""Usage: what was used becomes allocations, each record once.

Records that arrive together are allocated together, in one transaction for each tenant: one flush and a few round
trips for all of them. Each stands for itself all the same: one that can't be allocated keeps none of the others back.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from kit.db import Database, ReadSession, to_billing_error
from kit.errors import BillingError, InvalidFields, Violation
from kit.origin import Origin
from services.entities import domain, service, store
from services.entities.domain.allocations import AllocationDraft
from services.entities.domain.usage import UsageRecord
from services.entities.errors.entities import EntityNotFound

_GROUP_MAX: Final = 256
"""Most records of a transaction."""
_TRANSACTIONS_MAX: Final = 2
"""Most transactions under way at once, of as many tenants; the other connections are for those who call."""


@dataclass(slots=True, eq=False)
class _Ticket:
    origin: Origin
    record: UsageRecord
    done: "asyncio.Future[None]"


class UsageIntake:
    """Allocates the costs of what was used, those of records that come together in one go."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: list[_Ticket] = []
        self._working: asyncio.Task[None] | None = None

    async def record(self, origin: Origin, record: UsageRecord) -> None:
        """Allocate the cost of a record; done before, it does nothing.

        Raises the refusal of a cost that can't be allocated, InvalidFields where nobody has the code that is named,
        and AllocationSourceTaken where the record was another one before.
        """
        ticket = _Ticket(origin, record, asyncio.get_running_loop().create_future())
        self._waiting.append(ticket)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work_off())
        await ticket.done

    async def _work_off(self) -> None:
        """Allocate until nobody waits."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            tenants: dict[UUID, list[_Ticket]] = {}
            for ticket in waiting:
                tenants.setdefault(ticket.origin.tenant_id, []).append(ticket)
            groups = [
                tickets[first : first + _GROUP_MAX]
                for tickets in tenants.values()
                for first in range(0, len(tickets), _GROUP_MAX)
            ]
            await asyncio.gather(*(self._work(groups) for _ in range(_TRANSACTIONS_MAX)))

    async def _work(self, groups: list[list[_Ticket]]) -> None:
        while groups:
            await self._group(groups.pop())

    async def _group(self, tickets: Sequence[_Ticket]) -> None:
        """Allocate a group; where one is in the way of the others in an unforeseen manner, each by itself."""
        try:
            outcomes = await self._allocated(tickets)
        except Exception as error:  # noqa: BLE001 - whatever it is, everybody who waits is told
            if len(tickets) == 1 or to_billing_error(error):
                outcomes = [error] * len(tickets)
            else:
                for ticket in tickets:
                    await self._group([ticket])
                return
        for ticket, outcome in zip(tickets, outcomes, strict=True):
            if ticket.done.done():
                continue
            if isinstance(outcome, Exception):
                ticket.done.set_exception(outcome)
            else:
                ticket.done.set_result(None)

    async def _allocated(self, tickets: Sequence[_Ticket]) -> Sequence[service.allocations.Taken | Exception]:
        """What came of each, in their order."""
        deadline = max(ticket.origin.deadline for ticket in tickets)
        async with self._db.write(replace(tickets[0].origin, deadline=deadline)) as tx:
            costs = await _costs(tx, [ticket.record for ticket in tickets])
            drafts = [cost for cost in costs if isinstance(cost, AllocationDraft)]
            origins = [
                ticket.origin for cost, ticket in zip(costs, tickets, strict=True) if isinstance(cost, AllocationDraft)
            ]
            taken = iter(await service.allocations.allocate_each(tx, drafts, origins))
            return [next(taken) if isinstance(cost, AllocationDraft) else cost for cost in costs]


async def _costs(tx: ReadSession, records: Sequence[UsageRecord]) -> Sequence[AllocationDraft | BillingError]:
    """What the records cost whom, or why nobody can be found who bears it."""
    entity_ids = {record.entity_id for record in records if record.entity_id}
    entities = await store.usage.find_named_entities(tx, entity_ids, {record.entity_code for record in records})
    named = [(record, entities.get(record.entity_id or record.entity_code)) for record in records]
    codes = {(entity.id, record.department_code) for record, entity in named if entity and record.department_code}
    departments = await store.usage.find_department_codes(tx, codes)
    costs: list[AllocationDraft | BillingError] = []
    for record, entity in named:
        department_id = record.department_id
        if entity and record.department_code:
            department_id = departments.get((entity.id, record.department_code))
        if entity is None:
            costs.append(EntityNotFound(record.entity_id) if record.entity_id else _unknown("entity", record))
        elif department_id is None and record.department_code:
            costs.append(_unknown("department", record))
        else:
            costs.append(domain.usage.cost_of(record, entity.id, department_id, entity.time_zone))
    return costs


def _unknown(noun: str, record: UsageRecord) -> InvalidFields:
    code = record.entity_code if noun == "entity" else record.department_code
    return InvalidFields([Violation(f"{noun}_code", f"names no {noun} that there is: {code!r}", f"{noun}_code.known")])
