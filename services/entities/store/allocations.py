"""Cost allocations, and who may bear them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CHAR,
    Date,
    DateTime,
    Numeric,
    Select,
    String,
    Uuid,
    cast,
    literal,
    literal_column,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased

from kit.db import ReadSession, WriteSession, scope_filter
from services.entities import store
from services.entities.domain.allocations import AllocationSource, Document
from services.entities.domain.departments import DepartmentState
from services.entities.domain.entities import EntityState
from services.entities.errors.allocations import AllocationNotFound
from services.entities.models.allocations import AMOUNT, AllocationRow
from services.entities.models.entities import DepartmentRow, EntityRow


class BearingEntity(NamedTuple):
    """What is to be known of an entity that is to bear a cost."""

    id: UUID
    state: EntityState
    currency_code: str


class BearingDepartment(NamedTuple):
    """What is to be known of a department that is to bear a cost."""

    id: UUID
    state: DepartmentState
    gl_code: str
    entity: BearingEntity


async def find_target_entities(tx: ReadSession, entity_ids: Collection[UUID]) -> Mapping[UUID, BearingEntity]:
    """Those of the entities that the caller sees."""
    if not entity_ids:
        return {}
    wanted = select(EntityRow.id, EntityRow.state, EntityRow.currency_code).where(EntityRow.id.in_(entity_ids))
    covered = scope_filter(tx.scope, EntityRow.id)
    found = await tx.rows(wanted if covered is None else wanted.where(covered))
    return {row.id: BearingEntity(*row) for row in found}


async def find_target_departments(
    tx: ReadSession, department_ids: Collection[UUID]
) -> Mapping[UUID, BearingDepartment]:
    """Those of the departments that the caller sees, each with its entity, whether the caller sees that or not."""
    if not department_ids:
        return {}
    wanted = (
        select(
            DepartmentRow.id, DepartmentRow.state, DepartmentRow.gl_code,
            EntityRow.id, EntityRow.state, EntityRow.currency_code,
        )
        .join(EntityRow, EntityRow.id == DepartmentRow.entity_id)
        .where(DepartmentRow.id.in_(department_ids))
    )  # fmt: skip
    covered = scope_filter(tx.scope, DepartmentRow.entity_id, DepartmentRow.id)
    found = await tx.rows(wanted if covered is None else wanted.where(covered))
    return {row[0]: BearingDepartment(*row[:3], BearingEntity(*row[3:])) for row in found}


async def find_existing_entities(tx: ReadSession, entity_ids: Collection[UUID]) -> frozenset[UUID]:
    """Those of the entities that there are, whether the caller sees them or not."""
    if not entity_ids:
        return frozenset()
    return frozenset(await tx.all(select(EntityRow.id).where(EntityRow.id.in_(entity_ids))))


async def find_by_documents(tx: ReadSession, documents: Collection[Document]) -> Mapping[Document, AllocationRow]:
    """What was allocated from the documents; whether the caller sees it or not."""
    if not documents:
        return {}
    given = store.unnested.unnested(
        source=(String, [source.value for source, _ in documents]), source_ref=(String, [ref for _, ref in documents])
    )
    # One look into the unique index for each, whatever the planner thinks of the table. That is for some rows only:
    # a parameter in place of the empty text would not tell that these are among them.
    kept = AllocationRow.source == given.c.source, AllocationRow.source_ref == given.c.source_ref
    once = AllocationRow.source_ref != literal_column("''"), AllocationRow.reversal_of.is_(None)
    each = select(AllocationRow).where(*kept, *once).offset(0).lateral("each")
    found = await tx.all(select(aliased(AllocationRow, each)).select_from(given.join(each, true())))
    return {row.document: row for row in found}


async def append(tx: WriteSession, rows: Collection[AllocationRow]) -> frozenset[UUID]:
    """Write new allocations; gives the ids of those that were: a document counts once, and so does a reversal."""
    if not rows:
        return frozenset()
    # In one order whoever writes, so that no two wait for each other.
    ordered = sorted(rows, key=lambda row: (row.source, row.source_ref))
    given = store.unnested.unnested(
        id=(Uuid, [row.id for row in ordered]),
        entity_id=(Uuid, [row.entity_id for row in ordered]),
        department_id=(Uuid, [row.department_id for row in ordered]),
        department_path=(String, [_array(row.department_path) for row in ordered]),
        category=(String, [row.category for row in ordered]),
        source=(String, [row.source.value for row in ordered]),
        source_ref=(String, [row.source_ref for row in ordered]),
        amount=(AMOUNT, [row.amount for row in ordered]),
        currency_code=(CHAR(3), [row.currency_code for row in ordered]),
        entity_amount=(AMOUNT, [row.entity_amount for row in ordered]),
        entity_currency_code=(CHAR(3), [row.entity_currency_code for row in ordered]),
        rate=(Numeric, [row.rate for row in ordered]),
        rate_date=(Date, [row.rate_date for row in ordered]),
        quantity=(AMOUNT, [row.quantity for row in ordered]),
        unit=(String, [row.unit for row in ordered]),
        gl_code=(String, [row.gl_code for row in ordered]),
        counterparty_entity_id=(Uuid, [row.counterparty_entity_id for row in ordered]),
        allocation_date=(Date, [row.allocation_date for row in ordered]),
        description=(String, [row.description for row in ordered]),
        reversal_of=(Uuid, [row.reversal_of for row in ordered]),
        actor=(String, [row.actor for row in ordered]),
        create_time=(DateTime(timezone=True), [row.create_time for row in ordered]),
    )
    paths = {"department_path": cast(given.c.department_path, ARRAY(Uuid))}
    columns = {"tenant_id": literal(tx.tenant_id), **given.columns, **paths}
    appended = insert(AllocationRow).from_select(list(columns), select(*columns.values())).on_conflict_do_nothing()
    return frozenset(await tx.returning(appended.returning(AllocationRow.id)))


def _array(path: Sequence[UUID]) -> str:
    """An array in PostgreSQL's own writing: unnest would take a list of lists apart to its last item."""
    return "{" + ",".join(map(str, path)) + "}"


def _visible_allocations(tx: ReadSession) -> Select[AllocationRow]:
    """Allocations that the caller may see."""
    covered = scope_filter(tx.scope, AllocationRow.entity_id, AllocationRow.department_id)
    return select(AllocationRow) if covered is None else select(AllocationRow).where(covered)


async def get(tx: ReadSession, allocation_id: UUID) -> AllocationRow:
    """The allocation; raises AllocationNotFound."""
    found = await tx.one_or_none(_visible_allocations(tx).where(AllocationRow.id == allocation_id))
    if found is None:
        raise AllocationNotFound(allocation_id)
    return found


async def find_reversals(tx: ReadSession, allocation_ids: Collection[UUID]) -> Mapping[UUID, UUID]:
    """By which allocations those of these that are reversed are."""
    if not allocation_ids:
        return {}
    reversals = select(AllocationRow.reversal_of, AllocationRow.id).where(AllocationRow.reversal_of.in_(allocation_ids))
    return {reversed_id: id for reversed_id, id in await tx.rows(reversals) if reversed_id}


class Place(NamedTuple):
    """Where in the list, newest day first, an allocation stands."""

    day: date
    id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationAsk:
    """Which allocations are to be listed."""

    department_id: UUID
    include_descendants: bool
    start: date | None
    end: date | None
    """The day after the last one."""
    category: str
    source: AllocationSource | None
    after: Place | None
    """None: from the newest day on."""
    count: int


async def list_newest(tx: ReadSession, ask: AllocationAsk, department_ids: Collection[UUID]) -> Sequence[AllocationRow]:
    """The first allocations of the departments that are asked for, newest day first.

    The first of each department come out of its index, and are merged: however much was allocated, no more is read.
    """
    departments = store.unnested.unnested(id=(Uuid, list(department_ids)))
    wanted = select(AllocationRow).where(AllocationRow.department_id == departments.c.id)
    if ask.start is not None:
        wanted = wanted.where(AllocationRow.allocation_date >= ask.start)
    if ask.end is not None:
        wanted = wanted.where(AllocationRow.allocation_date < ask.end)
    if ask.category:
        wanted = wanted.where(AllocationRow.category == ask.category)
    if ask.source is not None:
        wanted = wanted.where(AllocationRow.source == ask.source)
    if ask.after is not None:
        place = tuple_(literal(ask.after.day, Date), literal(ask.after.id, Uuid))
        wanted = wanted.where(tuple_(AllocationRow.allocation_date, AllocationRow.id) < place)
    newest = AllocationRow.allocation_date.desc(), AllocationRow.id.desc()
    each = wanted.order_by(*newest).limit(ask.count).lateral("each")
    row = aliased(AllocationRow, each)
    merged = select(row).select_from(departments.join(each, true()))
    return await tx.all(merged.order_by(row.allocation_date.desc(), row.id.desc()).limit(ask.count))
