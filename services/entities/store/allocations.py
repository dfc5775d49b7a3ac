"""SQL for cost allocations, and for the entities and departments that costs are allocated to."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import Date, Select, String, Uuid, func, literal, literal_column, select, true, tuple_
from sqlalchemy.orm import aliased

from kit.columns import Columns, of_table
from kit.db import ReadSession, WriteSession, found, scope_filter
from services.entities import store
from services.entities.domain.allocations import AllocationQuery, Document
from services.entities.domain.departments import ActiveDays
from services.entities.domain.entities import EntityState
from services.entities.errors.allocations import AllocationNotFound
from services.entities.models.allocations import AllocationRow, Corrections, DocumentUse
from services.entities.models.entities import DepartmentRow, EntityRow

_COLUMNS: Final = Columns[AllocationRow](of_table(AllocationRow))
_APPEND: Final = f"{_COLUMNS.insert('cost_allocations')} on conflict do nothing returning id"

_CREDITS_NAMED_MAX: Final = 10
"""The number of credits that a refusal names at most."""


class TargetEntity(NamedTuple):
    """The columns of an entity that an allocation to it depends on."""

    id: UUID
    state: EntityState
    currency_code: str


class TargetDepartment(NamedTuple):
    """The columns of a department that an allocation to it depends on."""

    id: UUID
    gl_code: str
    active_days: ActiveDays
    entity: TargetEntity


async def find_target_entities(tx: ReadSession, entity_ids: Collection[UUID]) -> Mapping[UUID, TargetEntity]:
    """Return those of the entities that the caller may see, by id."""
    if not entity_ids:
        return {}
    query = select(EntityRow.id, EntityRow.state, EntityRow.currency_code).where(EntityRow.id.in_(entity_ids))
    covered = scope_filter(tx.scope, EntityRow.id)
    rows = await tx.rows(query if covered is None else query.where(covered))
    return {row.id: TargetEntity(*row) for row in rows}


async def find_target_departments(tx: ReadSession, department_ids: Collection[UUID]) -> Mapping[UUID, TargetDepartment]:
    """Return those of the departments that the caller may see, by id, with their entities even if out of scope."""
    if not department_ids:
        return {}
    query = (
        select(
            DepartmentRow.id, DepartmentRow.gl_code, DepartmentRow.start_date, DepartmentRow.state_changes,
            EntityRow.id, EntityRow.state, EntityRow.currency_code,
        )
        .join(EntityRow, EntityRow.id == DepartmentRow.entity_id)
        .where(DepartmentRow.id.in_(department_ids))
    )  # fmt: skip
    covered = scope_filter(tx.scope, DepartmentRow.entity_id, DepartmentRow.id)
    rows = await tx.rows(query if covered is None else query.where(covered))
    return {row[0]: TargetDepartment(*row[:2], ActiveDays(*row[2:4]), TargetEntity(*row[4:])) for row in rows}


async def find_by_documents(tx: ReadSession, documents: Collection[Document]) -> Mapping[Document, AllocationRow]:
    """Return the latest allocation of each of these documents, also outside of the caller's scope."""
    if not documents:
        return {}
    keys = store.bulk.rows_as_table(
        source=(String, [source.value for source, _ in documents]), source_ref=(String, [ref for _, ref in documents])
    )
    # One lookup in the unique index per document, whatever the planner estimates. The index is partial, so the empty
    # text must be a literal: with a parameter the planner can't use the index.
    same = AllocationRow.source == keys.c.source, AllocationRow.source_ref == keys.c.source_ref
    indexed = AllocationRow.source_ref != literal_column("''"), AllocationRow.reversal_of.is_(None)
    latest = AllocationRow.source_ref_sequence.desc()
    each = select(AllocationRow).where(*same, *indexed).order_by(latest).limit(1).lateral("each")
    rows = await tx.all(select(aliased(AllocationRow, each)).select_from(keys.join(each, true())))
    return {row.document: row for row in rows}


async def find_uses(tx: ReadSession, documents: Collection[Document]) -> Mapping[Document, DocumentUse]:
    """Return the use of each of these documents that was allocated, also outside of the caller's scope."""
    rows = await find_by_documents(tx, documents)
    credited = await _find_successors(tx, {row.credit_of for row in rows.values() if row.credit_of})
    costs = {document: credited[row.credit_of] if row.credit_of else row.id for document, row in rows.items()}
    reversals = await find_reversals(tx, costs.values())
    splits = await store.splits.find_of_allocations(tx, reversals)
    full_credits = await _find_full_credits(tx, [row for row in rows.values() if row.id not in reversals])
    return {
        document: DocumentUse(
            row,
            reversed=costs[document] in reversals,
            split_id=splits.get(costs[document]),
            full_credits=full_credits.get(row.id, ()),
        )
        for document, row in rows.items()
    }


async def _find_full_credits(tx: ReadSession, rows: Collection[AllocationRow]) -> Mapping[UUID, Sequence[UUID]]:
    """Return the first credits of each of these allocations that is credited in full."""
    amounts = {row.id: row.amount for row in rows if row.credit_of is None}
    if not amounts:
        return {}
    query = select(AllocationRow.credit_of, func.sum(-AllocationRow.amount), func.array_agg(AllocationRow.id))
    credited = await tx.rows(query.where(AllocationRow.credit_of.in_(amounts)).group_by(AllocationRow.credit_of))
    return {
        id: sorted(credit_ids)[:_CREDITS_NAMED_MAX]
        for id, amount, credit_ids in credited
        if id and amount == amounts[id]
    }


async def _find_successors(tx: ReadSession, allocation_ids: Collection[UUID]) -> Mapping[UUID, UUID]:
    """Return the allocation that has the cost of each allocation now: the one that it was restored as, or itself."""
    successors = {allocation_id: allocation_id for allocation_id in allocation_ids}
    while restored := await store.splits.find_restored(tx, successors.values()):
        successors = {first: restored.get(last, last) for first, last in successors.items()}
    return successors


async def append(tx: WriteSession, rows: Collection[AllocationRow]) -> frozenset[UUID]:
    """Insert allocations; return the ids of those that were inserted.

    The others had been inserted before: the allocation of the same document, or the reversal of the same allocation.
    """
    if not rows:
        return frozenset()
    # Always in the same order, so that concurrent calls don't deadlock.
    ordered = sorted(rows, key=lambda row: (row.source, row.source_ref))
    return frozenset(row["id"] for row in await tx.fetch(_APPEND, *_COLUMNS.parameters(ordered)))


def _visible(tx: ReadSession) -> Select[AllocationRow]:
    """Select the allocations that the caller may see."""
    covered = scope_filter(tx.scope, AllocationRow.entity_id, AllocationRow.department_id)
    return select(AllocationRow) if covered is None else select(AllocationRow).where(covered)


async def get(tx: ReadSession, allocation_id: UUID) -> AllocationRow:
    """Return the allocation. Raises AllocationNotFound."""
    query = _visible(tx).where(AllocationRow.id == allocation_id)
    return found(await tx.one_or_none(query), AllocationNotFound(allocation_id))


async def list_by_ids(tx: ReadSession, allocation_ids: Collection[UUID]) -> Sequence[AllocationRow]:
    """Return these allocations in the order of their ids, also outside of the caller's scope."""
    return await tx.all(select(AllocationRow).where(AllocationRow.id.in_(allocation_ids)).order_by(AllocationRow.id))


async def find_reversals(tx: ReadSession, allocation_ids: Collection[UUID]) -> Mapping[UUID, UUID]:
    """Return the reversal of each allocation that has one."""
    if not allocation_ids:
        return {}
    query = select(AllocationRow.reversal_of, AllocationRow.id).where(AllocationRow.reversal_of.in_(allocation_ids))
    return {allocation_id: id for allocation_id, id in await tx.rows(query) if allocation_id}


async def get_reversal(tx: ReadSession, allocation_id: UUID) -> AllocationRow:
    """Return the reversal of an allocation that is known to be reversed, also outside of the caller's scope."""
    (reversal,) = await tx.all(select(AllocationRow).where(AllocationRow.reversal_of == allocation_id))
    return reversal


async def find_corrections(tx: ReadSession, allocation_ids: Collection[UUID]) -> Mapping[UUID, Corrections]:
    """Return the corrections of each of these allocations."""
    if not allocation_ids:
        return {}
    reversals = await find_reversals(tx, allocation_ids)
    sums = [func.sum(-AllocationRow.amount), func.sum(-AllocationRow.entity_amount)]
    query = select(AllocationRow.credit_of, *sums).where(AllocationRow.credit_of.in_(allocation_ids))
    credited = {id: sums for id, *sums in await tx.rows(query.group_by(AllocationRow.credit_of))}
    return {id: Corrections(reversals.get(id), *credited.get(id, ())) for id in allocation_ids}


async def lock(tx: WriteSession, allocation_ids: Collection[UUID]) -> None:
    """Prevent other transactions from reversing or crediting these allocations until this one ends."""
    await tx.lock_all([f"allocation {allocation_id}" for allocation_id in allocation_ids])


async def list_newest(
    tx: ReadSession, query: AllocationQuery, department_ids: Collection[UUID]
) -> Sequence[AllocationRow]:
    """Return the first allocations of the departments that match the query, newest date first.

    Reads at most `limit` rows per department from its index and merges them, however many allocations there are.
    """
    departments = store.bulk.rows_as_table(id=(Uuid, list(department_ids)))
    rows = select(AllocationRow).where(AllocationRow.department_id == departments.c.id)
    if query.start is not None:
        rows = rows.where(AllocationRow.allocation_date >= query.start)
    if query.end is not None:
        rows = rows.where(AllocationRow.allocation_date < query.end)
    if query.category:
        rows = rows.where(AllocationRow.category == query.category)
    if query.source is not None:
        rows = rows.where(AllocationRow.source == query.source)
    if query.after is not None:
        position = tuple_(literal(query.after.day, Date), literal(query.after.id, Uuid))
        rows = rows.where(tuple_(AllocationRow.allocation_date, AllocationRow.id) < position)
    newest = AllocationRow.allocation_date.desc(), AllocationRow.id.desc()
    each = rows.order_by(*newest).limit(query.limit).lateral("each")
    row = aliased(AllocationRow, each)
    merged = select(row).select_from(departments.join(each, true()))
    return await tx.all(merged.order_by(row.allocation_date.desc(), row.id.desc()).limit(query.limit))
