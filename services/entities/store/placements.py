"""The history of departments: where each was, is and is planned to be."""

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

_CHILDREN_NAMED: Final = 10
"""Most active children that the refusal of a deactivation names."""
_of_department: Final = DepartmentHistoryRow.department_id == DepartmentRow.id


def _not_over(day: date) -> ColumnElement[bool]:
    """That a placement holds on the day or later."""
    return or_(DepartmentHistoryRow.effective_to.is_(None), DepartmentHistoryRow.effective_to > day)


async def find_from(tx: ReadSession, entity_id: UUID, day: date) -> Sequence[Placement]:
    """All placements of departments of the entity that hold on the day or later."""
    found: Select[UUID, UUID | None, date, date | None] = select(
        DepartmentHistoryRow.department_id,
        DepartmentHistoryRow.parent_id,
        DepartmentHistoryRow.effective_from,
        DepartmentHistoryRow.effective_to,
    )
    found = found.join(DepartmentRow, _of_department).where(DepartmentRow.entity_id == entity_id, _not_over(day))
    return [Placement(*row) for row in await tx.rows(found)]


async def get_first_day(tx: ReadSession, department_id: UUID) -> date:
    """The day on which the department was set up."""
    first = select(func.min(DepartmentHistoryRow.effective_from))
    return (await tx.all(first.where(DepartmentHistoryRow.department_id == department_id)))[0]


async def find_next_change(tx: ReadSession, entity_id: UUID, today: date) -> date | None:
    """The next day after today on which a department of the entity is planned to be elsewhere."""
    planned = select(func.min(DepartmentHistoryRow.effective_from)).join(DepartmentRow, _of_department)
    later = DepartmentHistoryRow.effective_from > today
    return await tx.one_or_none(planned.where(DepartmentRow.entity_id == entity_id, later))


async def find_parents(tx: ReadSession, department_id: UUID, today: date) -> Sequence[UUID]:
    """Ids of the departments directly below which the department is today or later."""
    own = DepartmentHistoryRow.department_id == department_id, _not_over(today)
    parents = select(DepartmentHistoryRow.parent_id).where(*own, DepartmentHistoryRow.parent_id.is_not(None))
    return [parent_id for parent_id in await tx.all(parents.distinct()) if parent_id]


async def find_active_children(tx: ReadSession, department_id: UUID, today: date) -> Sequence[UUID]:
    """Ids of the first few active departments that are directly below the department today or later."""
    below = DepartmentHistoryRow.parent_id == department_id, _not_over(today)
    active = select(DepartmentRow.id).join(DepartmentHistoryRow, _of_department)
    active = active.where(*below, DepartmentRow.state == DepartmentState.ACTIVE)
    return await tx.all(active.distinct().order_by(DepartmentRow.id).limit(_CHILDREN_NAMED))


async def lock_outdated(tx: WriteSession, entity_id: UUID, today: date) -> Sequence[tuple[DepartmentRow, Placement]]:
    """The departments of the entity whose parent is not that of their placement of today, with this; locked."""
    held = DepartmentHistoryRow.effective_from <= today, _not_over(today)
    moved = DepartmentHistoryRow.parent_id.is_distinct_from(DepartmentRow.parent_id)
    found = select(DepartmentRow, DepartmentHistoryRow).join(DepartmentHistoryRow, _of_department)
    found = found.where(DepartmentRow.entity_id == entity_id, *held, moved).order_by(DepartmentRow.id)
    locked = await tx.rows(found.with_for_update(of=DepartmentRow, key_share=True))
    return [(department, placement_of(row)) for department, row in locked]


def placement_of(row: DepartmentHistoryRow) -> Placement:
    """A row of the history."""
    return Placement(row.department_id, row.parent_id, row.effective_from, row.effective_to)


async def record(tx: WriteSession, department_id: UUID, parent_id: UUID | None, day: date) -> bool:
    """Have the department below this parent from the day on, whatever was known or planned; whether that is news.

    Two placements of one department with nothing between them have different parents.
    """
    own = DepartmentHistoryRow.department_id == department_id
    since = or_(DepartmentHistoryRow.effective_to.is_(None), DepartmentHistoryRow.effective_to >= day)
    rows = await tx.all(select(DepartmentHistoryRow).where(own, since).order_by(DepartmentHistoryRow.effective_from))
    stays = next((row for row in rows if row.effective_from <= day and row.parent_id == parent_id), None)
    if stays and stays.effective_to is None:
        return False
    gone = [row.id for row in rows if row.effective_from >= day and row is not stays]
    await tx.execute(delete(DepartmentHistoryRow).where(DepartmentHistoryRow.id.in_(gone)))
    last = stays or next((row for row in rows if row.effective_from < day), None)
    if last:
        last.effective_to = None if stays else day
        await tx.flush()  # before there is another one without an end
    if not stays:
        tx.add(DepartmentHistoryRow(department_id=department_id, parent_id=parent_id, effective_from=day))
        await tx.flush()
    return True


async def list_page(tx: ReadSession, page: Page, department_id: UUID) -> Slice[DepartmentHistoryRow]:
    """One page of the placements of a department that the caller sees, oldest first."""
    own = select(DepartmentHistoryRow).where(DepartmentHistoryRow.department_id == department_id)
    # What is newer is always later as well, since it takes the place of all that is later.
    return page.slice(await tx.all(page.narrow(own, DepartmentHistoryRow.id)))
