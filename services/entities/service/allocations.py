"""Use cases of cost allocations."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from uuid import UUID

from eventing import outbox
from kit import clock, ids
from kit.db import ReadSession, WriteSession
from kit.errors import BillingError, Conflict, InvalidFields, Violation
from kit.origin import Origin
from services.entities import domain, events, service, store
from services.entities.domain.allocations import AllocationDraft, AllocationQuery, AllocationSource
from services.entities.domain.entities import EntityAction
from services.entities.domain.placements import DatedDepartment
from services.entities.domain.rates import Conversion, DerivedRate
from services.entities.errors.allocations import (
    AllocationSourceTaken,
    BatchRefused,
)
from services.entities.errors.contracts import ContractNotFound, ContractNotInForce, ContractOfOtherEntity
from services.entities.errors.departments import DepartmentNotFound, DepartmentOfOtherEntity
from services.entities.errors.entities import EntityNotFound
from services.entities.models.allocations import AllocationOutcome, AllocationResult, AllocationRow, DocumentUse
from services.entities.store.allocations import TargetDepartment, TargetEntity
from services.entities.store.commitments import LinkedContract


async def allocate(tx: WriteSession, drafts: Sequence[AllocationDraft]) -> Sequence[AllocationResult]:
    """Allocate all costs and publish CostAllocated for each; raise the error of the first one that is refused.

    A document that was allocated before is not allocated again; the result is the existing allocation.
    """
    results = []
    for outcome in await allocate_each(tx, drafts):
        if isinstance(outcome, BillingError):
            raise outcome
        results.append(outcome)
    return results


async def allocate_each(
    tx: WriteSession, drafts: Sequence[AllocationDraft], origins: Sequence[Origin] = (), *, reallocate: bool = True
) -> Sequence[AllocationOutcome]:
    """Allocate the costs that are accepted, publish them, and return the outcome of each draft, in their order.

    `origins` has the origin of each draft; by default all have that of the transaction. The document of an allocation
    that was reversed is allocated again; without `reallocate` only if the draft differs from that allocation. That of
    an allocation that is credited in full is refused; without `reallocate` it has no effect.
    """
    origins = origins or [tx.origin] * len(drafts)
    documents = {draft.document for draft in drafts if draft.source_ref}
    uses = await store.allocations.find_uses(tx, documents)
    new = [_is_new(draft, uses.get(draft.document), reallocate=reallocate) for draft in drafts]
    targets = await _find_targets(tx, [draft for draft, is_new in zip(drafts, new, strict=True) if is_new])
    rows = [
        _row_or_error(draft, origin, targets, uses.get(draft.document)) if is_new else None
        for draft, origin, is_new in zip(drafts, origins, new, strict=True)
    ]
    built = [row for row in rows if isinstance(row, AllocationRow)]
    inserted = await store.allocations.append(tx, built)
    # The rest was allocated by a concurrent transaction, or occurs twice among the drafts.
    duplicates = {row.document for row in built if row.id not in inserted}
    uses = {**uses, **await store.allocations.find_uses(tx, duplicates)}
    await _publish(
        tx,
        [
            (row, origin)
            for row, origin in zip(rows, origins, strict=True)
            if isinstance(row, AllocationRow) and row.id in inserted
        ],
    )
    outcomes: list[AllocationOutcome] = []
    for draft, row in zip(drafts, rows, strict=True):
        if isinstance(row, BillingError):
            outcomes.append(row)
        elif row is not None and row.id in inserted:
            outcomes.append(AllocationResult(row, replayed=False))
        else:
            outcomes.append(_replay(tx, draft, uses[draft.document], reallocate=reallocate))
    return outcomes


async def _publish(tx: WriteSession, allocations: Sequence[tuple[AllocationRow, Origin]]) -> None:
    """Publish CostAllocated for each of these new allocations, with its origin."""
    paths = await store.hierarchies.find_paths(tx, {row.entity_id for row, _ in allocations})
    outbox.append_rows(
        tx,
        [
            outbox.new_row(origin, events.published.cost_allocated(row, paths[row.entity_id]))
            for row, origin in allocations
        ],
    )


async def allocate_batch(
    tx: WriteSession, drafts: Sequence[AllocationDraft], *, atomic: bool
) -> Sequence[AllocationOutcome]:
    """Allocate as `allocate_each`; if `atomic`, raise BatchRefused for the first draft that is refused."""
    outcomes = await allocate_each(tx, drafts)
    for index, outcome in enumerate(outcomes):
        if atomic and isinstance(outcome, BillingError):
            raise BatchRefused(index, outcome)
    return outcomes


def _is_new(draft: AllocationDraft, use: DocumentUse | None, *, reallocate: bool) -> bool:
    """True if the draft leads to a new allocation."""
    if use is None or draft.source is AllocationSource.SPLIT:  # a cost that is split is checked as a whole
        return True
    return use.free and (reallocate or bool(domain.allocations.differing_fields(draft, use.allocation.draft)))


def _replay(tx: ReadSession, draft: AllocationDraft, use: DocumentUse, *, reallocate: bool) -> AllocationOutcome:
    """Return the outcome of a draft whose document was allocated before."""
    existing = use.allocation
    if tx.scope and not tx.scope.covers(existing.entity_id, existing.department_id):
        return AllocationSourceTaken(*draft.document)
    differing = domain.allocations.differing_fields(draft, existing.draft)
    if use.full_credits and reallocate:
        return AllocationSourceTaken(*draft.document, existing.id, differing, credit_ids=use.full_credits)
    if differing or (use.split_id and reallocate):
        return AllocationSourceTaken(*draft.document, existing.id, differing, split_id=use.split_id)
    if use.free and reallocate:
        return Conflict()  # a concurrent transaction allocated it, and another one has reversed that since
    return AllocationResult(existing, replayed=True)


@dataclass(frozen=True, slots=True)
class _Targets:
    """Everything that the allocation of a group of drafts depends on, as far as the caller may see it."""

    entities: Mapping[UUID, TargetEntity]
    departments: Mapping[UUID, TargetDepartment]
    paths: Mapping[DatedDepartment, Sequence[UUID]]
    """The path to each department in the tree of the day of the cost."""
    counterparties: Collection[UUID]
    contracts: Mapping[UUID, LinkedContract]
    rates: Mapping[Conversion, DerivedRate | None]

    def find_entity(self, draft: AllocationDraft) -> TargetEntity | None:
        """Return the entity that the cost is allocated to, directly or through a department; None if there is none."""
        if draft.department_id is None:
            return self.entities.get(draft.entity_id) if draft.entity_id else None
        department = self.departments.get(draft.department_id)
        return department.entity if department else None

    def check(self, draft: AllocationDraft, entity: TargetEntity) -> None:
        """Raise an error if the cost can't be allocated to the entity or the department."""
        if draft.entity_id and draft.department_id and draft.entity_id != entity.id:
            raise DepartmentOfOtherEntity(draft.department_id, draft.entity_id)
        domain.entities.advance(entity.id, entity.state, EntityAction.ADD_COST)
        if draft.department_id:
            department = self.departments[draft.department_id]
            department.active_days.check(department.id, draft.allocation_date)
        if draft.counterparty_entity_id == entity.id:
            text = "must be another entity than the one that the cost is allocated to"
            raise InvalidFields([Violation("counterparty_entity_id", text, "counterparty.other")])
        if draft.counterparty_entity_id and draft.counterparty_entity_id not in self.counterparties:
            raise EntityNotFound(draft.counterparty_entity_id)
        if draft.contract_id and draft.source is not AllocationSource.SPLIT:  # a share has the contract of the cost
            self._check_contract(draft.contract_id, entity.id, draft.allocation_date)

    def _check_contract(self, contract_id: UUID, entity_id: UUID, day: date) -> None:
        contract = self.contracts.get(contract_id)
        if contract is None:
            raise ContractNotFound(contract_id)
        if contract.entity_id != entity_id:
            raise ContractOfOtherEntity(contract_id, entity_id)
        if not contract.activated:
            raise ContractNotInForce(contract_id, day, None, None)
        start, end = contract.days.start, contract.days.end
        if not start <= day < end:
            raise ContractNotInForce(contract_id, day, start, None if end == date.max else end)


async def _find_targets(tx: ReadSession, drafts: Sequence[AllocationDraft]) -> _Targets:
    departments = {draft.department_id for draft in drafts if draft.department_id}
    entities = {draft.entity_id for draft in drafts if draft.entity_id and not draft.department_id}
    counterparties = {draft.counterparty_entity_id for draft in drafts if draft.counterparty_entity_id}
    targets = _Targets(
        entities=await store.allocations.find_target_entities(tx, entities),
        departments=await store.allocations.find_target_departments(tx, departments),
        paths=await store.placements.find_paths(
            tx, {DatedDepartment(draft.department_id, draft.allocation_date) for draft in drafts if draft.department_id}
        ),
        counterparties=await store.entities.filter_existing(tx, counterparties),
        contracts=await store.commitments.find_linked(tx, {draft.contract_id for draft in drafts if draft.contract_id}),
        rates={},
    )
    pairs = [(draft, targets.find_entity(draft)) for draft in drafts if draft.converted is None]
    conversions = list({_conversion(draft, entity) for draft, entity in pairs if entity})
    rates = await service.rates.find(tx, conversions)
    return replace(targets, rates=dict(zip(conversions, rates, strict=True)))


def _conversion(draft: AllocationDraft, entity: TargetEntity) -> Conversion:
    return Conversion(draft.amount.currency, entity.currency_code, draft.allocation_date)


def _row_or_error(
    draft: AllocationDraft, origin: Origin, targets: _Targets, use: DocumentUse | None
) -> AllocationRow | BillingError:
    try:
        return _row(draft, origin, targets, use.allocation.source_ref_sequence + 1 if use else 1)
    except BillingError as error:
        return error


def _row(draft: AllocationDraft, origin: Origin, targets: _Targets, sequence: int) -> AllocationRow:
    entity = targets.find_entity(draft)
    if entity is None:
        raise _not_found(draft)
    targets.check(draft, entity)
    domain.allocations.check_date(draft.allocation_date, clock.now().date())
    converted = draft.converted
    if converted is None:
        rate = targets.rates[_conversion(draft, entity)]
        converted = domain.allocations.convert(draft.amount, entity.currency_code, draft.allocation_date, rate)
    department = targets.departments[draft.department_id] if draft.department_id else None
    return AllocationRow(
        tenant_id=origin.tenant_id,
        id=ids.new(),
        entity_id=entity.id,
        department_id=draft.department_id,
        department_path=(
            targets.paths[DatedDepartment(draft.department_id, draft.allocation_date)] if draft.department_id else []
        ),
        category=draft.category,
        source=draft.source,
        source_ref=draft.source_ref,
        source_ref_sequence=sequence,
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
        contract_id=draft.contract_id,
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
    raise ValueError("the draft has neither an entity nor a department")


async def list_newest(tx: ReadSession, query: AllocationQuery) -> Sequence[AllocationRow]:
    """Return the first allocations that match the query, newest date first. Raises DepartmentNotFound."""
    department = await store.departments.get(tx, query.department_id)
    department_ids: Sequence[UUID] = [department.id]
    if query.include_descendants:  # a scope that covers the department covers them all
        department_ids = await store.departments.find_descendants(tx, department.id)
    return await store.allocations.list_newest(tx, query, department_ids)
