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
"""Most concurrent transactions, one per tenant; the other connections of the pool are for calls."""


@dataclass(frozen=True, slots=True)
class _Intake:
    """A usage record and the event it arrived with."""

    origin: Origin
    record: UsageRecord


class UsageIntake:
    """Allocates the cost of usage records, those that arrive together in one batch."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._batcher = Batcher[_Intake, Exception | None](self._allocate)

    async def record(self, origin: Origin, record: UsageRecord) -> None:
        """Allocate the cost of a record. Has no effect if that was done before.

        Raises why the cost can't be allocated, InvalidFields if a code is unknown, and AllocationSourceTaken if the
        record had other contents before.
        """
        refusal = await self._batcher.submit(origin.tenant_id, _Intake(origin, record))
        if refusal:
            raise refusal

    async def _allocate(self, intakes: Sequence[_Intake]) -> Sequence[Exception | None]:
        """Allocate the records of several tenants and return why each was refused.

        If a transaction fails, the batcher retries all records; those of the other tenants are then recognised.
        """
        tenants: dict[UUID, list[int]] = {}
        for position, intake in enumerate(intakes):
            tenants.setdefault(intake.origin.tenant_id, []).append(position)
        slots = asyncio.Semaphore(_TRANSACTIONS_MAX)
        refusals: list[Exception | None] = [None] * len(intakes)

        async def allocate_tenant(positions: Sequence[int]) -> None:
            async with slots:
                outcomes = await self._allocate_tenant([intakes[position] for position in positions])
            for position, outcome in zip(positions, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    refusals[position] = outcome

        errors = await asyncio.gather(*map(allocate_tenant, tenants.values()), return_exceptions=True)
        for error in errors:
            if error is not None:
                raise error
        return refusals

    async def _allocate_tenant(self, intakes: Sequence[_Intake]) -> Sequence[object]:
        """Allocate the records of one tenant in one transaction; of those refused the outcome is an exception."""
        deadline = max(intake.origin.deadline for intake in intakes)
        async with self._db.write(replace(intakes[0].origin, deadline=deadline)) as tx:
            costs = await _costs(tx, [intake.record for intake in intakes])
            drafts = [cost for cost in costs if isinstance(cost, AllocationDraft)]
            origins = [
                intake.origin for cost, intake in zip(costs, intakes, strict=True) if isinstance(cost, AllocationDraft)
            ]
            allocated = iter(await service.allocations.allocate_each(tx, drafts, origins))
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
