"""How departments are moved in the tree of their entity, which is another one day by day.

`department_history` says where each department was, is and is planned to be; `departments.parent_id` is the tree of
today. A timer of the entity brings it up to date when a day comes for which something was planned, all of it at once.
The entity is locked meanwhile: its departments are moved by one call at a time.
"""

from datetime import date
from typing import Final
from uuid import UUID

from eventing import outbox
from eventing.timers import cancel_timer, set_timer
from kit import clock, dates
from kit.db import WriteSession
from kit.errors import InvalidFields, Violation
from services.entities import domain, events, store
from services.entities.domain.departments import DepartmentAction
from services.entities.errors.departments import DepartmentOfOtherEntity
from services.entities.models.entities import DepartmentRow, EntityRow

DEPARTMENT_MOVES: Final = "department-moves"
"""The timers of entities for whose departments moves are planned."""


async def move(
    tx: WriteSession, department_id: UUID, parent_id: UUID | None, day: date | None, *, etag: str
) -> DepartmentRow:
    """Have a department below another one of its entity, or at the top, from a day on; today if none is given."""
    entity, department = await lock_with_entity(tx, department_id)
    department.check_etag(etag)
    department.state = domain.departments.advance(department.id, department.state, DepartmentAction.MOVE)
    first_day = await store.placements.get_first_day(tx, department.id)
    today = max(dates.date_in(entity.time_zone, clock.now()), first_day)
    day = day or today
    if parent_id is None:
        _check_may_be_at_top(tx, entity)
    else:
        await check_parent(tx, parent_id, entity.id)
        first_day = max(first_day, await store.placements.get_first_day(tx, parent_id))
    if day < first_day:
        text = f"must not be before {first_day}, when the department and the one above it had been set up"
        raise InvalidFields([Violation("effective_date", text, "placement.first_day")])
    if parent_id:
        await check_tree(tx, department, parent_id, day)
    if await store.placements.record(tx, department.id, parent_id, day):
        department.update_time = clock.now()  # a move that is planned makes a new etag, too
        await store.departments.save(tx, department)
        await apply_due(tx, entity)
    return department


async def lock_with_entity(tx: WriteSession, department_id: UUID) -> tuple[EntityRow, DepartmentRow]:
    """A department that the caller sees, and its entity first, locked until the transaction ends."""
    entity = await store.entities.lock_unscoped(tx, await store.departments.get_entity_id(tx, department_id))
    return entity, await store.departments.lock(tx, department_id)


def _check_may_be_at_top(tx: WriteSession, entity: EntityRow) -> None:
    if tx.scope is not None and not tx.scope.covers(entity.id):
        text = "must name a department that your token covers; the top of the entity would be outside of it"
        raise InvalidFields([Violation("new_parent_id", text, "scope.top")])


async def check_parent(tx: WriteSession, parent_id: UUID, entity_id: UUID) -> None:
    """See that a department of the entity may be below this one, which stays active until the transaction ends."""
    parent = await store.departments.lock_shared(tx, parent_id)
    if parent.entity_id != entity_id:
        raise DepartmentOfOtherEntity(parent.id, entity_id)
    domain.departments.advance(parent.id, parent.state, DepartmentAction.ADOPT)


async def check_tree(tx: WriteSession, department: DepartmentRow, parent_id: UUID, day: date) -> None:
    """See that on the day and on all later ones the department may be below that parent."""
    domain.placements.check_move(
        await store.placements.find_from(tx, department.entity_id, day), department.id, parent_id, day
    )


async def apply_due(tx: WriteSession, entity: EntityRow) -> None:
    """Make the tree of today of a locked entity what its history says, tell of it, and await the next planned day."""
    today = dates.date_in(entity.time_zone, clock.now())
    for department, placement in await store.placements.lock_outdated(tx, entity.id, today):
        old_parent_id, department.parent_id = department.parent_id, placement.parent_id
        await store.departments.save(tx, department)
        outbox.append(tx, events.published.department_moved(department, old_parent_id, placement.start))
    next_day = await store.placements.find_next_change(tx, entity.id, today)
    if next_day:
        set_timer(tx, DEPARTMENT_MOVES, entity.id, dates.day_start(next_day, entity.time_zone))
    else:
        cancel_timer(tx, DEPARTMENT_MOVES, entity.id)
