"""Allocates the cost of metered usage, each record once.

Records that arrive together are allocated in one transaction per tenant, with a few round trips for all of them. A
record that can't be allocated does not affect the others.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from kit.batching import Batcher
from kit.db import Database, ReadSession
from kit.errors import BillingError, InvalidFields, Violation
from kit.origin import Origin
from services.entities import domain, service, store
from services.entities.domain.allocations import AllocationDraft
from services.entities.domain.usage import UsageRecord
from services.entities.errors.entities import EntityNotFound

_TRANSACTIONS_MAX: Final = 2
"""Maximum number of concurrent transactions, one per tenant; leaves connections of the pool to RPCs."""


@dataclass(frozen=True, slots=True)
class _UsageEvent:
    """A usage record and the origin of its event."""

    origin: Origin
    record: UsageRecord


class UsageIntake:
    """Allocates the cost of usage records; records that arrive at the same time form a batch."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._batcher = Batcher[_UsageEvent, Exception | None](self._allocate)

    async def record(self, origin: Origin, record: UsageRecord) -> None:
        """Allocate the cost of a record; no effect if it was allocated before.

        That is so even if the allocation was reversed or credited since. A record that differs from the
        reversed one is allocated: it corrects it.
        Raises InvalidFields if a code is unknown, AllocationSourceTaken if the record had other contents before, and
        the errors of allocations.
        """
        error = await self._batcher.submit(origin.tenant_id, _UsageEvent(origin, record))
        if error:
            raise error

    async def _allocate(self, events: Sequence[_UsageEvent]) -> Sequence[Exception | None]:
        """Allocate the records of several tenants; return the error of each, None if it was accepted.

        If a transaction fails, the batcher retries all records; those already allocated have no further effect.
        """
        tenants: dict[UUID, list[int]] = {}
        for position, event in enumerate(events):
            tenants.setdefault(event.origin.tenant_id, []).append(position)
        slots = asyncio.Semaphore(_TRANSACTIONS_MAX)
        errors: list[Exception | None] = [None] * len(events)

        async def allocate_tenant(positions: Sequence[int]) -> None:
            async with slots:
                outcomes = await self._allocate_tenant([events[position] for position in positions])
            for position, outcome in zip(positions, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    errors[position] = outcome

        for failure in await asyncio.gather(*map(allocate_tenant, tenants.values()), return_exceptions=True):
            if failure is not None:
                raise failure
        return errors

    async def _allocate_tenant(self, events: Sequence[_UsageEvent]) -> Sequence[object]:
        """Allocate the records of one tenant in one transaction; return the outcome or the error of each."""
        deadline = max(event.origin.deadline for event in events)
        async with self._db.write(replace(events[0].origin, deadline=deadline)) as tx:
            costs = await _costs(tx, [event.record for event in events])
            drafts = [cost for cost in costs if isinstance(cost, AllocationDraft)]
            origins = [
                event.origin for cost, event in zip(costs, events, strict=True) if isinstance(cost, AllocationDraft)
            ]
            allocated = iter(await service.allocations.allocate_each(tx, drafts, origins, reallocate=False))
            return [next(allocated) if isinstance(cost, AllocationDraft) else cost for cost in costs]


async def _costs(tx: ReadSession, records: Sequence[UsageRecord]) -> Sequence[AllocationDraft | BillingError]:
    """Return the cost of each record, or the error if its entity or department is unknown."""
    entity_ids = {record.entity_id for record in records if record.entity_id}
    entities = await store.usage.find_entities(tx, entity_ids, {record.entity_code for record in records})
    named = [(record, entities.get(record.entity_id or record.entity_code)) for record in records]
    codes = {(entity.id, record.department_code) for record, entity in named if entity and record.department_code}
    departments = await store.usage.find_departments(tx, codes)
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
            costs.append(domain.usage.to_allocation(record, entity.id, department_id, entity.time_zone))
    return costs


def _unknown(noun: str, record: UsageRecord) -> InvalidFields:
    code = record.entity_code if noun == "entity" else record.department_code
    return InvalidFields([Violation(f"{noun}_code", f"no {noun} has the code {code!r}", f"{noun}_code.known")])
