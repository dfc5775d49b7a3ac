"""SQL for placements: the history and the plan of the tree of departments."""

from collections.abc import Sequence
from datetime import date
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, delete, func, or_, select

from kit.db import ReadSession, WriteSession
from services.entities.domain.departments import DepartmentState
from services.entities.domain.placements import Placement
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
