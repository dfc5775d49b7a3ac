"""SQL for placements: the history and the plan of the tree of departments."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Final
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Date, Integer, Select, Uuid, bindparam, delete, func, or_, select, text

from kit.db import ReadSession, WriteSession
from services.entities.domain.departments import DepartmentState
from services.entities.domain.placements import DatedDepartment, Placement
from services.entities.models.entities import DepartmentHistoryRow, DepartmentRow
from serving.pages import Page, Slice

_CHILDREN_MAX: Final = 10
"""The most active children that an error message lists."""
_of_department: Final = DepartmentHistoryRow.department_id == DepartmentRow.id


def _ends_after(day: date) -> ColumnElement[bool]:
    return or_(DepartmentHistoryRow.effective_to.is_(None), DepartmentHistoryRow.effective_to > day)


async def list_ending_after(tx: ReadSession, entity_id: UUID, day: date) -> Sequence[Placement]:
    """Return the placements of all departments of the entity that include `day` or begin after it."""
    query: Select[UUID, UUID | None, date, date | None] = select(
        DepartmentHistoryRow.department_id,
        DepartmentHistoryRow.parent_id,
        DepartmentHistoryRow.effective_from,
        DepartmentHistoryRow.effective_to,
    )
    query = query.join(DepartmentRow, _of_department).where(DepartmentRow.entity_id == entity_id, _ends_after(day))
    return [Placement(*row) for row in await tx.rows(query)]


async def get_first_day(tx: ReadSession, department_id: UUID) -> date:
    """Return the day on which the department was created."""
    query = select(func.min(DepartmentHistoryRow.effective_from))
    return (await tx.all(query.where(DepartmentHistoryRow.department_id == department_id)))[0]


async def find_next_change(tx: ReadSession, entity_id: UUID, today: date) -> date | None:
    """Return the first day after today for which a move in the entity is planned; None if there is none."""
    query = select(func.min(DepartmentHistoryRow.effective_from)).join(DepartmentRow, _of_department)
    later = DepartmentHistoryRow.effective_from > today
    return await tx.one_or_none(query.where(DepartmentRow.entity_id == entity_id, later))


async def find_parents(tx: ReadSession, department_id: UUID, today: date) -> Sequence[UUID]:
    """Return the ids of the parents that the department has today or by plan later."""
    own = DepartmentHistoryRow.department_id == department_id, _ends_after(today)
    query = select(DepartmentHistoryRow.parent_id).where(*own, DepartmentHistoryRow.parent_id.is_not(None))
    return [parent_id for parent_id in await tx.all(query.distinct()) if parent_id]


async def find_active_children(tx: ReadSession, department_id: UUID, today: date) -> Sequence[UUID]:
    """Return the ids of active departments that are children today or by plan later, at most 10."""
    child = DepartmentHistoryRow.parent_id == department_id, _ends_after(today)
    query = select(DepartmentRow.id).join(DepartmentHistoryRow, _of_department)
    query = query.where(*child, DepartmentRow.state == DepartmentState.ACTIVE)
    return await tx.all(query.distinct().order_by(DepartmentRow.id).limit(_CHILDREN_MAX))


async def lock_outdated(tx: WriteSession, entity_id: UUID, today: date) -> Sequence[tuple[DepartmentRow, Placement]]:
    """Return and lock the departments whose `parent_id` differs from their placement of today, with that placement."""
    current = DepartmentHistoryRow.effective_from <= today, _ends_after(today)
    differs = DepartmentHistoryRow.parent_id.is_distinct_from(DepartmentRow.parent_id)
    query = select(DepartmentRow, DepartmentHistoryRow).join(DepartmentHistoryRow, _of_department)
    query = query.where(DepartmentRow.entity_id == entity_id, *current, differs).order_by(DepartmentRow.id)
    rows = await tx.rows(query.with_for_update(of=DepartmentRow, key_share=True))
    return [(department, row.placement) for department, row in rows]


async def find_paths(
    tx: ReadSession, departments: Collection[DatedDepartment]
) -> Mapping[DatedDepartment, Sequence[UUID]]:
    """Return the path to each department in the tree of its day: the ids from the top down to itself.

    Before its first placement, a department has the parent of that. Departments that don't exist are left out. The
    caller's scope is ignored.
    """
    if not departments:
        return {}
    keys = {"department_ids": [each.department_id for each in departments], "days": [each.day for each in departments]}
    paths: dict[DatedDepartment, list[UUID]] = {}
    for department_id, day, id in await tx.rows(_PATHS, **keys):
        paths.setdefault(DatedDepartment(department_id, day), []).append(id)
    return paths


_HISTORY: Final = (
    text("""
    with recursive path as (
        select department_id as leaf_id, day, department_id as id, 0 as steps
        from unnest(:department_ids, :days) as each(department_id, day)
        union all
        select path.leaf_id, path.day, placement.parent_id, path.steps + 1
        from path cross join lateral (  -- the placement of the day, or the first one
            select parent_id from department_history each
            where each.department_id = path.id and (each.effective_to is null or each.effective_to > path.day)
            order by each.effective_from limit 1
        ) placement
        where placement.parent_id is not null
    )
    select leaf_id, day, id, steps from path
    where exists (select from departments where departments.id = path.leaf_id)""")
    .bindparams(bindparam("department_ids", type_=ARRAY(Uuid)), bindparam("days", type_=ARRAY(Date)))
    .columns(leaf_id=Uuid, day=Date, id=Uuid, steps=Integer)
    .subquery("paths")
)
_PATHS: Final = select(_HISTORY.c.leaf_id, _HISTORY.c.day, _HISTORY.c.id).order_by(
    _HISTORY.c.leaf_id, _HISTORY.c.day, _HISTORY.c.steps.desc()
)


async def insert(tx: WriteSession, department_id: UUID, parent_id: UUID | None, day: date) -> None:
    """Record the first placement of a new department."""
    tx.add(DepartmentHistoryRow(department_id=department_id, parent_id=parent_id, effective_from=day))
    await tx.flush()


async def record(tx: WriteSession, department_id: UUID, parent_id: UUID | None, day: date) -> bool:
    """Set the parent of the department from `day` on, replacing all later placements; return true if that is a change.

    Adjacent placements of one department always have different parents.
    """
    own = DepartmentHistoryRow.department_id == department_id
    since = or_(DepartmentHistoryRow.effective_to.is_(None), DepartmentHistoryRow.effective_to >= day)
    rows = await tx.all(select(DepartmentHistoryRow).where(own, since).order_by(DepartmentHistoryRow.effective_from))
    same = next((row for row in rows if row.effective_from <= day and row.parent_id == parent_id), None)
    if same and same.effective_to is None:
        return False
    replaced = [row.id for row in rows if row.effective_from >= day and row is not same]
    await tx.execute(delete(DepartmentHistoryRow).where(DepartmentHistoryRow.id.in_(replaced)))
    last = same or next((row for row in rows if row.effective_from < day), None)
    if last:
        last.effective_to = None if same else day
        await tx.flush()  # before the insert, since only one placement may be open
    if not same:
        await insert(tx, department_id, parent_id, day)
    return True


async def list_page(tx: ReadSession, page: Page, department_id: UUID) -> Slice[DepartmentHistoryRow]:
    """Return one page of the placements of a department, oldest first."""
    query = select(DepartmentHistoryRow).where(DepartmentHistoryRow.department_id == department_id)
    # Order by id is order by date: a newer placement replaces all that begin later.
    return await page.fetch(tx, query, DepartmentHistoryRow.id)
