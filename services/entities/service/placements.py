"""Use cases of placements: moves of departments, which take effect on a day.

`department_history` holds the past, current and planned parents; `departments.parent_id` is the current tree. A timer
per entity applies planned moves when their day begins. Every move locks the entity, so that there is one at a time.
"""

from datetime import date
from uuid import UUID

from eventing import outbox
from eventing.timers import cancel_timer, set_timer
from kit import clock, dates
from kit.db import WriteSession
from kit.errors import InvalidFields, Violation
from services.entities import domain, events, store
from services.entities.domain.departments import DepartmentAction
from services.entities.domain.placements import MOVES_TIMER
from services.entities.errors.departments import DepartmentOfOtherEntity
from services.entities.models.entities import DepartmentRow, EntityRow


async def move(
    tx: WriteSession, department_id: UUID, parent_id: UUID | None, day: date | None, *, etag: str
) -> DepartmentRow:
    """Move a department below another one of its entity, or to the top, from `day` on (default: today).

    Raises DepartmentNotFound, DepartmentStateForbids, DepartmentOfOtherEntity, DepartmentCycle, DepartmentTreeTooDeep,
    EtagMismatch, and InvalidFields if the day is before either department was created.
    """
    entity, department = await lock_with_entity(tx, department_id)
    department.check_etag(etag)
    department.state = domain.departments.advance(department.id, department.state, DepartmentAction.MOVE)
    first_day = await store.placements.get_first_day(tx, department.id)
    today = max(dates.date_in(entity.time_zone, clock.now()), first_day)
    day = day or today
    if parent_id is None:
        _check_can_be_at_top(tx, entity)
    else:
        await check_parent(tx, parent_id, entity.id)
        first_day = max(first_day, await store.placements.get_first_day(tx, parent_id))
    if day < first_day:
        text = f"must not be before {first_day}, when the department and its new parent had been created"
        raise InvalidFields([Violation("effective_date", text, "placement.first_day")])
    if parent_id:
        await check_tree(tx, department, parent_id, day)
    if await store.placements.record(tx, department.id, parent_id, day):
        department.update_time = clock.now()  # a planned move changes the etag, too
        await store.departments.save(tx, department)
        await apply_due(tx, entity)
    return department


async def lock_with_entity(tx: WriteSession, department_id: UUID) -> tuple[EntityRow, DepartmentRow]:
    """Lock the entity of a visible department, then the department. Raises DepartmentNotFound."""
    entity = await store.entities.lock_unscoped(tx, await store.departments.get_entity_id(tx, department_id))
    return entity, await store.departments.lock(tx, department_id)


def _check_can_be_at_top(tx: WriteSession, entity: EntityRow) -> None:
    if tx.scope is not None and not tx.scope.covers(entity.id):
        text = "must name a department that your token covers; the top of the entity would be outside of it"
        raise InvalidFields([Violation("new_parent_id", text, "scope.top")])


async def check_parent(tx: WriteSession, parent_id: UUID, entity_id: UUID) -> None:
    """Check that a department of the entity can be below this one, and protect it from changes.

    Raises DepartmentNotFound, DepartmentOfOtherEntity, DepartmentStateForbids.
    """
    parent = await store.departments.lock_shared(tx, parent_id)
    if parent.entity_id != entity_id:
        raise DepartmentOfOtherEntity(parent.id, entity_id)
    domain.departments.advance(parent.id, parent.state, DepartmentAction.ADD_CHILD)


async def check_tree(tx: WriteSession, department: DepartmentRow, parent_id: UUID, day: date) -> None:
    """Check that the department can be below the parent on the day and on all later ones."""
    placements = await store.placements.list_ending_after(tx, department.entity_id, day)
    domain.placements.check_move(placements, department.id, parent_id, day)


async def apply_due(tx: WriteSession, entity: EntityRow) -> None:
    """Apply the moves of a locked entity that are due, publish them, and set the timer for the next planned one."""
    today = dates.date_in(entity.time_zone, clock.now())
    for department, placement in await store.placements.lock_outdated(tx, entity.id, today):
        old_parent_id, department.parent_id = department.parent_id, placement.parent_id
        await store.departments.save(tx, department)
        outbox.append(tx, events.published.department_moved(department, old_parent_id, placement.start))
    next_day = await store.placements.find_next_change(tx, entity.id, today)
    if next_day:
        set_timer(tx, MOVES_TIMER, entity.id, dates.day_start(next_day, entity.time_zone))
    else:
        cancel_timer(tx, MOVES_TIMER, entity.id)
