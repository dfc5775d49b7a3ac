"""Changes of a request: start of its workflow, cancellation, deadlines, and the outcome of its reservation."""

from dataclasses import replace
from uuid import UUID

from eventing import outbox
from eventing.timers import cancel_timer, set_timer
from kit import clock
from kit.db import ReadSession, WriteSession
from kit.errors import Internal
from services.approvals import domain, events, metrics, store
from services.approvals.domain.approvals import (
    DEADLINE_TIMER,
    FINAL_STATES,
    ActionType,
    Actor,
    ApprovalAction,
    ApprovalState,
    ReservationState,
)
from services.approvals.domain.workflows import ActionRecord, WorkflowChange
from services.approvals.errors.approvals import ApprovalStateForbids, NotTheRequester
from services.approvals.models.approvals import ApprovalRow


def advance(row: ApprovalRow, action: ApprovalAction) -> None:
    """Set the state after the action. Raises ApprovalStateForbids, with the user who decided and the end time."""
    try:
        row.state = domain.approvals.advance(row.id, row.state, action)
    except ApprovalStateForbids as error:
        raise error.with_decision(row.decided_by, row.end_time) from None


async def start(tx: WriteSession, row: ApprovalRow, *, new: bool) -> None:
    """Start the workflow of a PENDING request. A request without steps becomes APPROVED.

    `new` is true if the request was not stored before.
    """
    change = domain.decisions.start(row.workflow, clock.now())
    first_round = row.round == 1
    submission = ActionRecord(
        action=ActionType.REQUEST if first_round else ActionType.RESUBMIT,
        actor=row.requester,
        comment="" if first_round else row.decision_comment,
    )
    row.decided_by = row.decision_comment = ""
    outbox.append(tx, events.published.approval_requested(row))
    await apply(tx, row, replace(change, records=(submission, *change.records)), new=new)


async def apply(tx: WriteSession, row: ApprovalRow, change: WorkflowChange, *, new: bool = False) -> None:
    """Store a change of the workflow, with its history, pending slots, events and the next timer."""
    if new:
        row.create_time = clock.now()  # before the end time of a request that is approved at once
    if change.outcome:
        _end_round(row, change.outcome, change.decided_by, change.comment)
    workflow = change.workflow.ended() if change.outcome else change.workflow
    row.workflow = workflow
    row.due_time = domain.deadlines.next_due_time(workflow)
    row.update_time = clock.now()
    await store.approvals.save(tx, row)
    if row.end_time:
        metrics.record_outcome(row.state, row.end_time - row.create_time)
    for record in change.records:
        store.approvals.insert_action(tx, row, record)
    store.approvals.set_pending_slots(tx, row.id, domain.eligibility.pending_slots(workflow), new=new)
    outbox.append_all(tx, events.published.workflow_changed(row, change))
    if row.due_time:
        set_timer(tx, DEADLINE_TIMER, row.id, row.due_time)
    elif not new:
        cancel_timer(tx, DEADLINE_TIMER, row.id)


def _end_round(row: ApprovalRow, outcome: ApprovalAction, decided_by: str, comment: str) -> None:
    advance(row, outcome)
    row.decided_by, row.decision_comment = decided_by, comment
    if row.state in FINAL_STATES:
        row.end_time = clock.now()


def limit_to_scope(tx: ReadSession, row: ApprovalRow, actor: Actor) -> Actor:
    """Return the actor without roles and administration if the request is outside of the caller's scope.

    Such a request is visible to its requester and its approvers, who act on it as themselves only.
    """
    if tx.scope is None or (row.entity_id is not None and tx.scope.covers(row.entity_id, row.department_id)):
        return actor
    return replace(actor, roles=frozenset(), admin=False)


async def cancel(tx: WriteSession, row: ApprovalRow, actor: Actor, *, comment: str, etag: str) -> None:
    """Cancel a request, as its requester or an administrator.

    Raises NotTheRequester, EtagMismatch or ApprovalStateForbids.
    """
    check_requester(row, limit_to_scope(tx, row, actor))
    row.check_etag(etag)
    record = ActionRecord(action=ActionType.CANCEL, actor=actor.user_id, comment=comment)
    change = WorkflowChange(
        workflow=row.workflow,
        outcome=ApprovalAction.CANCEL,
        decided_by=actor.user_id,
        comment=comment,
        records=(record,),
    )
    await apply(tx, row, change)


def check_requester(row: ApprovalRow, actor: Actor) -> None:
    """Raise NotTheRequester unless the actor is the requester or an administrator."""
    if row.requester != actor.user_id and not actor.admin:
        raise NotTheRequester(row.requester)


async def apply_deadlines(tx: WriteSession, approval_id: UUID) -> None:
    """Apply the deadlines of a request that have passed, and set the timer of the next one."""
    row = await store.approvals.lock_if_found(tx, approval_id)
    if row is None or row.state is not ApprovalState.PENDING:
        return
    await apply(tx, row, domain.deadlines.apply(row.workflow, await tx.now()))


async def record_reservation(
    tx: WriteSession,
    approval_id: UUID,
    *,
    of_round: int,
    state: ReservationState,
    hold_id: UUID | None,
    problem: str,
) -> None:
    """Store the outcome of the reservation of a request.

    Outcomes of earlier rounds are ignored, and those that another one has replaced.
    """
    row = await store.approvals.lock_if_found(tx, approval_id)
    if row is None or of_round != row.round or row.state is ApprovalState.OPENING:
        return
    if not domain.approvals.settles(row.state, row.funds, state):
        return
    row.funds, row.funds_problem = state, problem
    row.hold_id = hold_id or row.hold_id
    metrics.record_reservation(state)
    await store.approvals.save(tx, row)


async def report_lost_reservation(tx: WriteSession, approval_id: UUID, *, of_round: int) -> None:
    """Show that the outcome of a reservation was not recorded. Redriving its event records it later."""
    problem = Internal(tx.origin.trace.trace_id).message
    await record_reservation(
        tx, approval_id, of_round=of_round, state=ReservationState.FAILED, hold_id=None, problem=problem
    )
