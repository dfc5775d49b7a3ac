"""Deciding on requests, and what helps to decide."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from kit import clock
from kit.db import ReadSession, WriteSession
from kit.errors import InvalidFields, Violation
from kit.users import User
from services.approvals.domain import panels
from services.approvals.domain.lives import ActionType, Decision, Event
from services.approvals.domain.seats import Actor, Change, Panel, Record
from services.approvals.errors import ApproverInactive
from services.approvals.models.requests import ApprovalRow
from services.approvals.service.callers import Caller
from services.approvals.service.delegations import acting_for
from services.approvals.service.requests import advance, apply, done_to
from services.approvals.store import requests
from services.approvals.store.requests import Viewer


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What somebody does to a request."""

    action: ActionType
    comment: str = ""
    target: str = ""
    step: int = 0
    etag: str = ""


NEEDS_COMMENT: Final = frozenset({ActionType.REJECT, ActionType.REQUEST_CHANGES, ActionType.COMMENT})
NEEDS_TARGET: Final = frozenset({ActionType.DELEGATE, ActionType.ADD_APPROVER})
_DECISIONS: Final = {
    ActionType.APPROVE: Decision.APPROVED,
    ActionType.REJECT: Decision.REJECTED,
    ActionType.REQUEST_CHANGES: Decision.CHANGES_REQUESTED,
}


def check_act(act: Act) -> None:
    """Raise InvalidFields with everything that does not go together."""
    flaws = []
    if act.action in NEEDS_COMMENT and not act.comment.strip():
        flaws.append(Violation("comment", f"is needed with {act.action}: say why", "approval.comment"))
    if act.action in NEEDS_TARGET and not act.target:
        flaws.append(Violation("target", f"is needed with {act.action}: say who", "approval.target"))
    if act.target and act.action not in NEEDS_TARGET:
        flaws.append(Violation("target", f"goes with {' and '.join(sorted(NEEDS_TARGET))} only", "approval.target"))
    if flaws:
        raise InvalidFields(flaws)


def check_target(act: Act, target: User | None) -> None:
    """Raise ApproverInactive where the one who is to be asked is nobody, or has left."""
    if act.target and (target is None or not target.active):
        raise ApproverInactive(act.target)


async def view(tx: ReadSession, caller: Caller) -> Viewer:
    """The caller as somebody who looks at requests, with those for whom they decide."""
    return Viewer(caller.user_id, caller.roles, await acting_for(tx, caller.user_id, clock.now()))


async def act(tx: WriteSession, approval_id: UUID, caller: Caller, act: Act) -> ApprovalRow:
    """Do what the caller wants to a request.

    Raises ApprovalStateForbids, with who ended it, NotAnApprover, SelfApproval, AlreadyDecided or EscalationMissing.
    """
    check_act(act)
    viewer = await view(tx, caller)
    row = await requests.lock_request(tx, approval_id, viewer)
    row.check_etag(act.etag)
    if act.action is ActionType.COMMENT:
        said = Record(step=0, action=ActionType.COMMENT, actor=caller.user_id, comment=act.comment)
        requests.record(tx, done_to(row, said))
        return row
    advance(row, Event.DECIDE)
    covered = tx.scope is None or tx.scope.covers(row.entity_id, row.department_id)
    actor = Actor(
        user_id=caller.user_id,
        # A role that is confined to a part of the group decides on requests of that part only.
        roles=caller.roles if covered else frozenset(),
        acts_for=viewer.acts_for,
        admin=caller.admin,
    )
    await apply(tx, row, _change(row.panel, actor, act, clock.now()))
    return row


def _change(panel: Panel, actor: Actor, act: Act, now: datetime) -> Change:
    decision = _DECISIONS.get(act.action)
    if decision:
        return panels.decide(panel, actor, decision, now, comment=act.comment, step=act.step)
    return _HELPS[act.action](panel, actor, act, now)


_HELPS: Final[Mapping[ActionType, Callable[[Panel, Actor, Act, datetime], Change]]] = {
    ActionType.DELEGATE: lambda panel, actor, act, _: panels.hand_over(
        panel, actor, act.target, comment=act.comment, step=act.step
    ),
    ActionType.ADD_APPROVER: lambda panel, actor, act, _: panels.join(
        panel, actor, act.target, comment=act.comment, step=act.step
    ),
    ActionType.ESCALATE: lambda panel, actor, act, now: panels.escalate(
        panel, actor, now, comment=act.comment, step=act.step
    ),
}
