"""Decisions and other actions of approvers on a request."""

from datetime import datetime
from typing import Final
from uuid import UUID

from kit import clock
from kit.db import WriteSession
from kit.errors import InvalidFields, Violation
from kit.users import User
from services.approvals import domain, service, store
from services.approvals.domain.approvals import ActionRequest, ActionType, Actor, ApprovalAction
from services.approvals.domain.workflows import ActionRecord, Decision, Workflow, WorkflowChange
from services.approvals.errors.approvals import ApproverInactive
from services.approvals.models.approvals import ApprovalRow

_WITH_COMMENT: Final = frozenset({ActionType.REJECT, ActionType.REQUEST_CHANGES, ActionType.COMMENT})
_WITH_TARGET: Final = frozenset({ActionType.DELEGATE, ActionType.ADD_APPROVER})
_DECISIONS: Final = {
    ActionType.APPROVE: Decision.APPROVED,
    ActionType.REJECT: Decision.REJECTED,
    ActionType.REQUEST_CHANGES: Decision.CHANGES_REQUESTED,
}


def check(request: ActionRequest) -> None:
    """Raise InvalidFields with all fields that are missing or not allowed for the action."""
    violations = []
    if request.action in _WITH_COMMENT and not request.comment.strip():
        violations.append(Violation("comment", f"is required with {request.action}", "approval.comment"))
    if request.action in _WITH_TARGET and not request.target:
        violations.append(Violation("target", f"is required with {request.action}: a user", "approval.target"))
    if request.target and request.action not in _WITH_TARGET:
        allowed = " and ".join(sorted(_WITH_TARGET))
        violations.append(Violation("target", f"is allowed with {allowed} only", "approval.target"))
    if violations:
        raise InvalidFields(violations)


async def check_target(tx: WriteSession, request: ActionRequest, target: User | None) -> None:
    """Raise ApproverUnknown or ApproverInactive if user management does not report the target as an active user.

    Raises Conflict if the target has left since then.
    """
    if request.target:
        service.users.check_active(request.target, target)
        await service.users.check_not_leaving(tx, [request.target])


async def act(tx: WriteSession, approval_id: UUID, actor: Actor, request: ActionRequest) -> ApprovalRow:
    """Perform an action on a request.

    Raises ApprovalNotFound, ApprovalStateForbids, ApproverInactive, NotAnApprover, SelfApproval, AlreadyDecided,
    EscalationMissing or EtagMismatch.
    """
    check(request)
    actor = await service.delegations.with_delegations(tx, actor)
    row = await store.approvals.lock(tx, approval_id, actor)
    row.check_etag(request.etag)
    if request.action is ActionType.COMMENT:
        comment = ActionRecord(action=ActionType.COMMENT, actor=actor.user_id, comment=request.comment)
        store.approvals.insert_action(tx, row, comment)
        return row
    service.approvals.advance(row, ApprovalAction.DECIDE)
    if actor.left:
        raise ApproverInactive(actor.user_id)
    actor = service.approvals.limit_to_scope(tx, row, actor)
    await service.approvals.apply(tx, row, _change(row.workflow, actor, request, clock.now()))
    return row


def _change(workflow: Workflow, actor: Actor, request: ActionRequest, now: datetime) -> WorkflowChange:
    target, comment, step = request.target, request.comment, request.step
    match request.action:
        case ActionType.DELEGATE:
            return domain.decisions.delegate(workflow, actor, target, comment=comment, step=step)
        case ActionType.ADD_APPROVER:
            return domain.decisions.add_approver(workflow, actor, target, comment=comment, step=step)
        case ActionType.ESCALATE:
            return domain.decisions.escalate(workflow, actor, now, comment=comment, step=step)
    return domain.decisions.decide(workflow, actor, _DECISIONS[request.action], now, comment=comment, step=step)
