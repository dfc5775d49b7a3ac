"""Approval requests, their steps and history."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import (
    AppliedRule as AppliedRuleMessage,
)
from billing.approvals.v1.approval_pb2 import (
    Approval,
    ApprovalAction,
    ApprovalSeat,
    ApprovalStep,
    BudgetImpact,
)
from google.protobuf.timestamp_pb2 import Timestamp

from contract.values import enum_or_none, money_or_none, money_to_proto, time_or_none, time_to_proto
from kit import ids
from kit.errors import BillingError, InvalidFields, Violation
from kit.origin import Call
from services.approvals.domain.approvals import (
    ActionRequest,
    ActionType,
    Actor,
    ApprovalDraft,
    ApprovalFilter,
    ApprovalState,
    ApprovalSummary,
    ApprovalType,
    Involvement,
)
from services.approvals.domain.budgets import BudgetSnapshot
from services.approvals.domain.workflows import AppliedRule, ApproverSlot, Step
from services.approvals.models.approvals import ActionRow, ApprovalRow

DECIDE: Final = "approvals.decide"
"""Permission for all actions but COMMENT."""
_ADMIN: Final = "approvals.admin"
"""Permission to act for other users."""
_NEVER: Final = datetime.fromtimestamp(0, UTC)


def actor_from_call(call: Call) -> Actor:
    """Return the caller, without delegations."""
    admin = _ADMIN in call.principal.permissions
    return Actor(
        user_id=call.actor,
        roles=frozenset(call.principal.roles),
        admin=admin,
        tenant_admin=admin and not call.principal.confined,
        may_decide=DECIDE in call.principal.permissions,
    )


def draft_from_proto(request: pb.CreateApprovalRequest | pb.OpenApprovalRequest, call: Call) -> ApprovalDraft:
    """Parse CreateApprovalRequest or OpenApprovalRequest; the requester is the caller."""
    return ApprovalDraft(
        request_type=ApprovalType(Approval.Type.Name(request.request_type)),
        title=request.title,
        description=request.description,
        requester=call.actor,
        entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
        department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
        budget_id=ids.BUDGET.parse_optional(request.budget_id, "budget_id"),
        category=request.category,
        amount=money_or_none(request, "amount"),
        attributes=dict(request.attributes),
        subject_type=request.subject_type,
        subject_id=request.subject_id,
        overspend=isinstance(request, pb.CreateApprovalRequest) and request.overspend,
        key=call.key,
        digest=call.fingerprint,
    )


def draft_of_need_from_proto(request: pb.CheckApprovalNeedRequest, call: Call) -> ApprovalDraft:
    """Parse CheckApprovalNeedRequest; the requester is the caller."""
    return ApprovalDraft(
        request_type=ApprovalType(Approval.Type.Name(request.request_type)),
        title="",
        requester=call.actor,
        entity_id=ids.ENTITY.parse(request.entity_id, "entity_id"),
        department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
        category=request.category,
        amount=money_or_none(request, "amount"),
        attributes=dict(request.attributes),
    )


def changes_from_proto(request: pb.ResubmitApprovalRequest) -> Mapping[str, Any]:
    """Return the fields of the draft that ResubmitApprovalRequest changes."""
    changes: dict[str, Any] = {
        name: getattr(request, name) for name in ("title", "description") if request.HasField(name)
    }
    amount = money_or_none(request, "amount")
    return {**changes, "amount": amount} if amount else changes


def action_request_from_proto(request: pb.ActOnApprovalRequest | pb.BatchActOnApprovalsRequest) -> ActionRequest:
    """Parse ActOnApprovalRequest or BatchActOnApprovalsRequest."""
    action, comment = ActionType(ApprovalAction.Type.Name(request.action)), request.comment
    if isinstance(request, pb.BatchActOnApprovalsRequest):
        return ActionRequest(action=action, comment=comment)
    return ActionRequest(action=action, comment=comment, target=request.target, step=request.step, etag=request.etag)


def filter_from_proto(request: pb.ListApprovalsRequest) -> ApprovalFilter:
    """Parse the filters of ListApprovalsRequest. Raises InvalidFields if the amounts are in different currencies."""
    lower, upper = money_or_none(request, "amount_from"), money_or_none(request, "amount_to")
    if lower and upper and lower.currency != upper.currency:
        description = f"must be the currency of amount_from, {lower.currency}"
        raise InvalidFields([Violation("amount_to.currency_code", description, "approval.amount_range")])
    return ApprovalFilter(
        state=enum_or_none(ApprovalState, Approval.State, request.state),
        request_type=enum_or_none(ApprovalType, Approval.Type, request.request_type),
        requester=request.requester,
        involvement=enum_or_none(Involvement, pb.ListApprovalsRequest.Mine, request.mine),
        entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
        department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
        budget_id=ids.BUDGET.parse_optional(request.budget_id, "budget_id"),
        amount_from=lower,
        amount_to=upper,
        due_before=time_or_none(request, "due_before_time"),
        subject_type=request.subject_type,
        subject_id=request.subject_id,
    )


def to_proto(row: ApprovalRow, *, impact: BudgetImpact | None = None) -> Approval:
    """Convert a request."""
    workflow = row.workflow
    return Approval(
        id=ids.APPROVAL.format(row.id),
        request_type=Approval.Type.Value(row.request_type),
        title=row.title,
        description=row.description,
        requester=row.requester,
        entity_id=ids.ENTITY.format(row.entity_id),
        department_id=ids.DEPARTMENT.format_optional(row.department_id),
        budget_id=ids.BUDGET.format_optional(row.budget_id),
        category=row.category,
        amount=money_to_proto(row.money) if row.money else None,
        attributes=row.attributes,
        subject_type=row.subject_type,
        subject_id=row.subject_id,
        state=Approval.State.Value(row.state),
        round=row.round,
        rules=map(applied_rule_to_proto, workflow.rules),
        steps=[
            _step_to_proto(number, step, workflow.rule_of(step)) for number, step in enumerate(workflow.steps, start=1)
        ],
        hold_id=ids.HOLD.format_optional(row.hold_id),
        funds=Approval.Funds.Value(row.funds),
        funds_problem=row.funds_problem,
        due_time=_time_or_none(row.due_time),
        decided_by=row.decided_by,
        decision_comment=row.decision_comment,
        end_time=_time_or_none(row.end_time),
        budget_impact=impact,
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def preview_to_proto(row: ApprovalRow, *, impact: BudgetImpact | None) -> Approval:
    """Convert a request that is not stored: it has no id, etag and times."""
    row.version, row.create_time, row.update_time = 0, _NEVER, _NEVER
    preview = to_proto(row, impact=impact)
    for field in ("id", "etag", "create_time", "update_time"):
        preview.ClearField(field)
    return preview


def applied_rule_to_proto(rule: AppliedRule) -> AppliedRuleMessage:
    """Convert a rule that applies to a request."""
    return AppliedRuleMessage(
        rule_id=ids.RULE.format(rule.rule_id), name=rule.name, rule_version=rule.rule_version, reason=rule.reason
    )


def _step_to_proto(number: int, step: Step, rule: AppliedRule) -> ApprovalStep:
    return ApprovalStep(
        number=number,
        name=step.name,
        rule_id=ids.RULE.format(rule.rule_id),
        mode=Approval.Mode.Value(step.mode),
        quorum=step.quorum,
        state=ApprovalStep.State.Value(step.state),
        seats=map(_slot_to_proto, step.slots),
        sla_hours=step.sla_hours,
        start_time=_time_or_none(step.start_time),
        remind_time=_time_or_none(step.remind_time),
        due_time=_time_or_none(step.due_time),
        reminded=step.reminded,
        escalated=step.escalated,
    )


def _slot_to_proto(slot: ApproverSlot) -> ApprovalSeat:
    return ApprovalSeat(
        user_id=slot.user_id,
        role=slot.role,
        why=slot.reason,
        in_place_of=slot.in_place_of,
        decision=ApprovalSeat.Decision.Value(slot.decision) if slot.decision else ApprovalSeat.DECISION_UNSPECIFIED,
        decided_by=slot.decided_by,
        on_behalf_of=slot.on_behalf_of,
        decide_time=_time_or_none(slot.decide_time),
    )


def impact_to_proto(budget: BudgetSnapshot) -> BudgetImpact:
    """Convert the state of a budget and the requested amount in its currency."""
    return BudgetImpact(
        budget_id=ids.BUDGET.format(budget.id),
        budget_name=budget.name,
        amount=money_to_proto(budget.requested) if budget.requested else None,
        budget_amount=money_to_proto(budget.amount),
        spent=money_to_proto(budget.spent),
        held=money_to_proto(budget.held),
        committed=money_to_proto(budget.committed),
        available=money_to_proto(budget.available),
    )


def impact_problem_to_proto(budget_id: UUID, error: BillingError) -> BudgetImpact:
    """Convert the error because of which the state of a budget can't be shown."""
    return BudgetImpact(budget_id=ids.BUDGET.format(budget_id), problem=error.message)


def action_to_proto(row: ActionRow) -> ApprovalAction:
    """Convert an entry of the history of a request."""
    return ApprovalAction(
        id=str(row.id),
        approval_id=ids.APPROVAL.format(row.approval_id),
        round=row.round,
        step=row.step,
        action=ApprovalAction.Type.Value(row.action),
        actor=row.actor,
        on_behalf_of=row.on_behalf_of,
        target=row.target,
        comment=row.comment,
        create_time=time_to_proto(row.create_time),
    )


def refusal_to_proto(approval_id: str, error: BillingError) -> pb.ApprovalRefusal:
    """Convert the error of one request of a batch."""
    return pb.ApprovalRefusal(
        approval_id=approval_id, reason=error.reason, message=error.message, metadata=error.metadata
    )


def summary_to_proto(summary: ApprovalSummary) -> pb.ApprovalSummary:
    """Convert the summary of one type, state and currency."""
    return pb.ApprovalSummary(
        request_type=Approval.Type.Value(summary.request_type),
        state=Approval.State.Value(summary.state),
        amount=money_to_proto(summary.amount) if summary.amount else None,
        count=summary.count,
        oldest_time=time_to_proto(summary.oldest_time),
        cycle_seconds_mean=round(summary.cycle_mean_s or 0),
        cycle_seconds_median=round(summary.cycle_median_s or 0),
    )


def _time_or_none(moment: datetime | None) -> Timestamp | None:
    return time_to_proto(moment) if moment else None
