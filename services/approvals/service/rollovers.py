"""Rollovers of budgets: requests follow their hold to the budget of the next period."""

from collections.abc import Sequence
from uuid import UUID

from kit import ids
from kit.db import WriteSession
from kit.errors import Conflict
from services.approvals import store
from services.approvals.domain.approvals import ActionType, ApprovalState
from services.approvals.domain.workflows import ActionRecord
from services.approvals.models.approvals import ApprovalRow


async def record(tx: WriteSession, closed_id: UUID, opened_id: UUID) -> None:
    """Store that a budget was rolled over, and move its open requests to the newest budget of the series.

    A request in OPENING is moved when it is opened: its hold is requested on the budget that it names.
    """
    await store.rollovers.lock(tx)
    await store.rollovers.insert(tx, closed_id, opened_id)
    newest_id = await store.rollovers.find_newest(tx, closed_id)
    for row in await store.approvals.lock_open_by_budget(tx, closed_id):
        if row.state is not ApprovalState.OPENING:
            await _move(tx, row, newest_id)


async def follow_holds(tx: WriteSession, approval_ids: Sequence[UUID], opened_id: UUID) -> None:
    """Move requests whose holds or commitments were moved to a budget, in any order of the events.

    Ids grow with the time of creation, so a request on a budget with a greater id was moved by a later rollover. Raises
    Conflict if a request is in OPENING, so that the event is delivered again after that.
    """
    for row in await store.approvals.lock_many(tx, approval_ids):
        if row.state is ApprovalState.OPENING:
            raise Conflict
        if row.budget_id and row.budget_id < opened_id:
            await _move(tx, row, opened_id)


async def _move(tx: WriteSession, row: ApprovalRow, budget_id: UUID) -> None:
    closed_id, row.budget_id = row.budget_id, budget_id
    await store.approvals.save(tx, row)
    store.approvals.insert_action(tx, row, _rolled_over(closed_id, budget_id))


async def move_opening(tx: WriteSession, row: ApprovalRow, *, new: bool) -> ActionRecord | None:
    """Set the budget of a request that is being opened to the newest of its series; return the history entry.

    `new` is true if the request is not stored yet. A stored one must be locked.
    """
    if row.budget_id is None:
        return None
    if new:
        await store.rollovers.lock_shared(tx)
    closed_id, newest_id = row.budget_id, await store.rollovers.find_newest(tx, row.budget_id)
    if newest_id == closed_id:
        return None
    row.budget_id = newest_id
    return _rolled_over(closed_id, newest_id)


def _rolled_over(closed_id: UUID | None, opened_id: UUID) -> ActionRecord:
    """Return the history entry of a request that was moved from one budget to another."""
    comment = f"The budget {ids.BUDGET.format_optional(closed_id)} was rolled over."
    return ActionRecord(action=ActionType.ROLL_OVER, target=ids.BUDGET.format(opened_id), comment=comment)
