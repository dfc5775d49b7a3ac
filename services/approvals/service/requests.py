"""What can be done with requests, apart from opening them and deciding."""

from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from eventing import outbox
from eventing.timers import cancel_timer, set_timer
from kit import clock
from kit.db import WriteSession
from kit.money import Money
from services.approvals import events, measures
from services.approvals.domain import panels
from services.approvals.domain.lives import (
    ENDED,
    ActionType,
    ApprovalState,
    ApprovalType,
    Event,
    Funds,
    advance_approval,
)
from services.approvals.domain.seats import Change, Panel, Record
from services.approvals.errors import ApprovalStateForbids, NotTheRequester
from services.approvals.models.panels import panel_record
from services.approvals.models.requests import ApprovalRow
from services.approvals.service.callers import Caller
from services.approvals.store import requests
from services.approvals.store.requests import Done

OPENING: Final = "approval-opening"
"""The timers of requests whose money is being set aside: what a replica left undone is finished or undone."""
CLOCK: Final = "approval-clock"
"""The timers of pending requests: they remind, escalate and end."""
SERVICE: Final = "service:approvals"
"""Who does what the clock or a rule does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What somebody asks an approval for."""

    request_type: ApprovalType
    title: str
    description: str = ""
    requester: str
    entity_id: UUID | None = None
    """None: the budget's."""
    department_id: UUID | None = None
    budget_id: UUID | None = None
    category: str = ""
    amount: Money | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    subject_type: str = ""
    subject_id: str = ""
    overspend: bool = False
    key: str = ""
    digest: bytes = b""


def advance(row: ApprovalRow, event: Event) -> None:
    """Bring the request into the state after the event; raises ApprovalStateForbids, with who ended it and when."""
    try:
        row.state = advance_approval(row.id, row.state, event)
    except ApprovalStateForbids as refusal:
        raise refusal.ended(row.decided_by, row.end_time) from None


async def begin(tx: WriteSession, row: ApprovalRow, *, new: bool) -> None:
    """Have the first of those who are asked decide; the request is PENDING, or APPROVED where a rule does that.

    `new` where the row has nobody in its seats yet.
    """
    change = panels.begin(row.panel, clock.now())
    submitted = ActionType.REQUEST if row.round == 1 else ActionType.RESUBMIT
    said = Record(step=0, action=submitted, actor=row.requester, comment=row.decision_comment if row.round > 1 else "")
    row.decided_by = row.decision_comment = ""
    outbox.append(tx, events.approval_requested(row))
    await apply(tx, row, replace(change, records=(said, *change.records)), new=new)


async def apply(tx: WriteSession, row: ApprovalRow, change: Change, *, new: bool = False) -> None:
    """Keep what a change of the panel brings: its records, who is asked now, what is said, and the outcome."""
    if change.outcome:
        _end(row, change.outcome, change.decided_by or SERVICE, change.comment)
    panel = panels.end(change.panel) if change.outcome else change.panel
    row.panel_record = panel_record(panel)
    row.due_time = None if change.outcome else panels.next_due(panel)
    row.update_time = clock.now()
    await requests.save_request(tx, row)
    for said in change.records:
        requests.record(tx, done_to(row, said))
    requests.seat(tx, row.id, set() if change.outcome else _asked(panel), new=new)
    for event in events.of_change(row, panel, change):
        outbox.append(tx, event)
    if row.due_time:
        set_timer(tx, CLOCK, row.id, row.due_time)
    elif not new:
        cancel_timer(tx, CLOCK, row.id)


def _end(row: ApprovalRow, outcome: Event, by: str, comment: str) -> None:
    advance(row, outcome)
    row.decided_by, row.decision_comment = by, comment
    if row.state in ENDED:
        row.end_time = clock.now()
        measures.ended(row.state, row.end_time - row.create_time)


def _asked(panel: Panel) -> set[tuple[int, str, str]]:
    return {(asked.step, asked.seat.user_id, asked.seat.role) for asked in panels.asked(panel)}


def done_to(row: ApprovalRow, said: Record) -> Done:
    """What was done to a request in its present round, as it is kept."""
    return Done(
        approval_id=row.id,
        round=row.round,
        step=said.step,
        action=said.action,
        actor=said.actor or SERVICE,
        on_behalf_of=said.on_behalf_of,
        target=said.target,
        comment=said.comment,
    )


async def cancel(tx: WriteSession, row: ApprovalRow, caller: Caller, *, comment: str, etag: str) -> None:
    """Take a request back, as whoever asked or as an administrator; raises NotTheRequester or ApprovalStateForbids."""
    check_requester(row, caller)
    row.check_etag(etag)
    said = Record(step=0, action=ActionType.CANCEL, actor=caller.user_id, comment=comment)
    change = Change(panel=row.panel, outcome=Event.CANCEL, decided_by=caller.user_id, comment=comment, records=(said,))
    await apply(tx, row, change)


def check_requester(row: ApprovalRow, caller: Caller) -> None:
    """Raise NotTheRequester unless the caller asked, or is an administrator."""
    if row.requester != caller.user_id and not caller.admin:
        raise NotTheRequester(row.requester)


async def tick(tx: WriteSession, approval_id: UUID) -> None:
    """Remind, escalate or end a request whose time has come; where nothing is due, set the clock again."""
    row = await requests.find_request(tx, approval_id)
    if row is None or row.state is not ApprovalState.PENDING:
        return
    await apply(tx, row, panels.tick(row.panel, await requests.database_now(tx)))


async def note_funds(
    tx: WriteSession, approval_id: UUID, *, of_round: int, funds: Funds, hold_id: UUID | None, problem: str
) -> None:
    """Note what became of the money of a request; what is said of an earlier round is over."""
    row = await requests.find_request(tx, approval_id)
    if row is None or of_round != row.round or row.state is ApprovalState.OPENING:
        return
    row.funds, row.funds_problem = funds, problem
    row.hold_id = hold_id or row.hold_id
    measures.settled(funds)
    await requests.save_request(tx, row)
