"""What can be done with cost allocations, as a finance person would say it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TypeAlias
from uuid import UUID

from eventing import outbox
from kit import clock, ids
from kit.db import ReadSession, WriteSession
from kit.errors import BillingError, InvalidFields, Violation
from kit.origin import Origin
from services.entities import domain, events, service, store
from services.entities.domain.allocations import AllocationDraft
from services.entities.domain.departments import DepartmentAction
from services.entities.domain.entities import EntityAction
from services.entities.domain.rates import DerivedRate
from services.entities.errors.allocations import (
    AllocationAlreadyReversed,
    AllocationIsReversal,
    AllocationSourceTaken,
    BatchRefused,
)
from services.entities.errors.departments import DepartmentNotFound, DepartmentOfOtherEntity
from services.entities.errors.entities import EntityNotFound
from services.entities.models.allocations import AllocationRow
from services.entities.service.rates import Conversion
from services.entities.store.allocations import AllocationAsk, BearingDepartment, BearingEntity


@dataclass(frozen=True, slots=True)
class Taken:
    """A cost that is allocated."""

    allocation: AllocationRow
    replayed: bool
    """Whether it was allocated before, from the same document."""


Outcome: TypeAlias = Taken | BillingError
"""What came of a cost that was to be allocated."""


async def allocate(tx: WriteSession, drafts: Sequence[AllocationDraft]) -> Sequence[AllocationRow]:
    """Allocate all of the costs, and say so; raises the refusal of the first that can't be allocated.

    A cost whose document was allocated before is not allocated again: its row is the one that is there.
    """
    rows = []
    for outcome in await allocate_each(tx, drafts):
        if isinstance(outcome, BillingError):
            raise outcome
        rows.append(outcome.allocation)
    return rows


async def allocate_each(
    tx: WriteSession, drafts: Sequence[AllocationDraft], origins: Sequence[Origin] = ()
) -> Sequence[Outcome]:
    """Allocate those of the costs that can be, and say so; gives what came of each, in their order.

    `origins` are on whose behalf each of them is allocated; by default that is the transaction's.
    """
    origins = origins or [tx.origin] * len(drafts)
    kept = await store.allocations.find_by_documents(tx, {draft.document for draft in drafts if draft.source_ref})
    bearers = await _find_bearers(tx, [draft for draft in drafts if draft.document not in kept])
    made = [
        None if draft.document in kept else _made(draft, origin, bearers)
        for draft, origin in zip(drafts, origins, strict=True)
    ]
    new = [row for row in made if isinstance(row, AllocationRow)]
    appended = await store.allocations.append(tx, new)
    # Somebody else allocated the others at this moment, or they are in here twice: now they are found.
    others = await store.allocations.find_by_documents(tx, {row.document for row in new if row.id not in appended})
    said = [
        outbox.new_row(origin, events.published.cost_allocated(row))
        for row, origin in zip(made, origins, strict=True)
        if isinstance(row, AllocationRow) and row.id in appended
    ]
    await store.said.say_all(tx, said)
    there = {**kept, **others}
    outcomes: list[Outcome] = []
    for draft, row in zip(drafts, made, strict=True):
        if isinstance(row, BillingError):
            outcomes.append(row)
        elif row is not None and row.id in appended:
            outcomes.append(Taken(row, replayed=False))
        else:
            outcomes.append(_replayed(tx, draft, there[draft.document]))
    return outcomes


async def allocate_batch(tx: WriteSession, drafts: Sequence[AllocationDraft], *, atomic: bool) -> Sequence[Outcome]:
    """As allocate_each; where `atomic`, raises BatchRefused for the first that can't be allocated."""
    outcomes = await allocate_each(tx, drafts)
    for index, outcome in enumerate(outcomes):
        if atomic and isinstance(outcome, BillingError):
            raise BatchRefused(index, outcome)
    return outcomes


def _replayed(tx: ReadSession, draft: AllocationDraft, there: AllocationRow) -> Outcome:
    """What comes of a cost whose document was allocated before."""
    if tx.scope and not tx.scope.covers(there.entity_id, there.department_id):
        return AllocationSourceTaken(*draft.document)
    different = domain.allocations.differing_fields(draft, there.draft)
    return AllocationSourceTaken(*draft.document, there.id, different) if different else Taken(there, replayed=True)


@dataclass(frozen=True, slots=True)
class _Bearers:
    """Who may bear the costs, as far as the caller sees them, and at which rates."""

    entities: Mapping[UUID, BearingEntity]
    departments: Mapping[UUID, BearingDepartment]
    paths: Mapping[UUID, Sequence[UUID]]
    counterparties: Collection[UUID]
    rates: Mapping[Conversion, DerivedRate | None]

    def entity_of(self, draft: AllocationDraft) -> BearingEntity | None:
        """The entity that bears the cost, by itself or by one of its departments; None where there is none."""
        if draft.department_id is None:
            return self.entities.get(draft.entity_id) if draft.entity_id else None
        department = self.departments.get(draft.department_id)
        return department.entity if department else None

    def check(self, draft: AllocationDraft, entity: BearingEntity) -> None:
        """Raise the refusal of a cost that its entity, or its department, can't bear."""
        if draft.entity_id and draft.department_id and draft.entity_id != entity.id:
            raise DepartmentOfOtherEntity(draft.department_id, draft.entity_id)
        domain.entities.advance(entity.id, entity.state, EntityAction.ADD_COST)
        if draft.department_id:
            department = self.departments[draft.department_id]
            domain.departments.advance(department.id, department.state, DepartmentAction.ADD_COST)
        if draft.counterparty_entity_id == entity.id:
            text = "must be another entity than the one that bears the cost"
            raise InvalidFields([Violation("counterparty_entity_id", text, "counterparty.other")])
        if draft.counterparty_entity_id and draft.counterparty_entity_id not in self.counterparties:
            raise EntityNotFound(draft.counterparty_entity_id)


async def _find_bearers(tx: ReadSession, drafts: Sequence[AllocationDraft]) -> _Bearers:
    departments = {draft.department_id for draft in drafts if draft.department_id}
    entities = {draft.entity_id for draft in drafts if draft.entity_id and not draft.department_id}
    counterparties = {draft.counterparty_entity_id for draft in drafts if draft.counterparty_entity_id}
    found = _Bearers(
        entities=await store.allocations.find_target_entities(tx, entities),
        departments=await store.allocations.find_target_departments(tx, departments),
        paths=await store.departments.find_paths(tx, departments) if departments else {},
        counterparties=await store.allocations.find_existing_entities(tx, counterparties),
        rates={},
    )
    borne = [(draft, found.entity_of(draft)) for draft in drafts]
    wanted = list({_conversion(draft, entity) for draft, entity in borne if entity})
    rates = await service.rates.find(tx, wanted) if any(asked.source != asked.target for asked in wanted) else None
    same = [domain.rates.derive(asked.source, asked.target, asked.day, {}) for asked in wanted]
    return replace(found, rates=dict(zip(wanted, rates or same, strict=True)))


def _conversion(draft: AllocationDraft, entity: BearingEntity) -> Conversion:
    return Conversion(draft.amount.currency, entity.currency_code, draft.allocation_date)


def _made(draft: AllocationDraft, origin: Origin, bearers: _Bearers) -> AllocationRow | BillingError:
    """The row of a cost, or why it can't be allocated."""
    try:
        return _row(draft, origin, bearers)
    except BillingError as refusal:
        return refusal


def _row(draft: AllocationDraft, origin: Origin, bearers: _Bearers) -> AllocationRow:
    entity = bearers.entity_of(draft)
    if entity is None:
        raise _not_found(draft)
    bearers.check(draft, entity)
    domain.allocations.check_date(draft.allocation_date, clock.now().date())
    found = bearers.rates[_conversion(draft, entity)]
    converted = domain.allocations.convert(draft.amount, entity.currency_code, draft.allocation_date, found)
    department = bearers.departments[draft.department_id] if draft.department_id else None
    return AllocationRow(
        tenant_id=origin.tenant_id,
        id=ids.new(),
        entity_id=entity.id,
        department_id=draft.department_id,
        department_path=bearers.paths[draft.department_id] if draft.department_id else [],
        category=draft.category,
        source=draft.source,
        source_ref=draft.source_ref,
        amount=draft.amount.amount,
        currency_code=draft.amount.currency,
        entity_amount=converted.amount.amount,
        entity_currency_code=entity.currency_code,
        rate=converted.rate,
        rate_date=converted.rate_date,
        quantity=draft.quantity,
        unit=draft.unit,
        gl_code=draft.gl_code or (department.gl_code if department else ""),
        counterparty_entity_id=draft.counterparty_entity_id,
        allocation_date=draft.allocation_date,
        description=draft.description,
        reversal_of=None,
        actor=origin.actor,
        create_time=clock.now(),
    )


def _not_found(draft: AllocationDraft) -> BillingError:
    if draft.department_id:
        return DepartmentNotFound(draft.department_id)
    if draft.entity_id:
        return EntityNotFound(draft.entity_id)
    raise ValueError("nobody is to bear the cost")


async def list_newest(tx: ReadSession, ask: AllocationAsk) -> Sequence[AllocationRow]:
    """The first of the allocations that are asked for, newest day first; raises DepartmentNotFound."""
    department = await store.departments.get(tx, ask.department_id)
    # Who sees a department sees all below it.
    department_ids = (
        await store.departments.find_descendants(tx, department.id) if ask.include_descendants else [department.id]
    )
    return await store.allocations.list_newest(tx, ask, department_ids)


async def reverse(tx: WriteSession, allocation_id: UUID, *, reason: str, day: date | None = None) -> AllocationRow:
    """Take back an allocation as a whole, and say so; gives the reversal.

    It belongs to `day`, which is not before that of the allocation; by default to the same.
    """
    row = await store.allocations.get(tx, allocation_id)
    if row.reversal_of:
        raise AllocationIsReversal(row.id)
    day = day or row.allocation_date
    if day < row.allocation_date:
        text = f"must be {row.allocation_date}, the day of the allocation, or later"
        raise InvalidFields([Violation("allocation_date", text, "allocation_date.order")])
    domain.allocations.check_date(day, max(clock.now().date(), row.allocation_date))
    reversal = _opposite(row, tx.origin, day, reason)
    if not await store.allocations.append(tx, [reversal]):
        reversals = await store.allocations.find_reversals(tx, [row.id])
        raise AllocationAlreadyReversed(row.id, reversals[row.id])
    outbox.append(tx, events.published.allocation_reversed(reversal, row))
    return reversal


def _opposite(row: AllocationRow, origin: Origin, day: date, reason: str) -> AllocationRow:
    return AllocationRow(
        tenant_id=row.tenant_id,
        id=ids.new(),
        entity_id=row.entity_id,
        department_id=row.department_id,
        department_path=row.department_path,
        category=row.category,
        source=row.source,
        source_ref=row.source_ref,
        amount=-row.amount,
        currency_code=row.currency_code,
        entity_amount=-row.entity_amount,
        entity_currency_code=row.entity_currency_code,
        rate=row.rate,
        rate_date=row.rate_date,
        quantity=None if row.quantity is None else -row.quantity,
        unit=row.unit,
        gl_code=row.gl_code,
        counterparty_entity_id=row.counterparty_entity_id,
        allocation_date=day,
        description=reason,
        reversal_of=row.id,
        actor=origin.actor,
        create_time=clock.now(),
    )
