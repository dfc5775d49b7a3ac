"""Requests and what was done to them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import (
    AppliedRule,
    Approval,
    ApprovalAction,
    ApprovalSeat,
    ApprovalStep,
    BudgetImpact,
)
from google.protobuf.timestamp_pb2 import Timestamp

from contract.values import money_from_proto, money_to_proto, time_from_proto, time_to_proto
from kit import ids
from kit.errors import BillingError
from kit.origin import Call
from services.approvals.clients import BudgetView
from services.approvals.domain.lives import ActionType, ApprovalState, ApprovalType, Mine
from services.approvals.domain.seats import Level, Seat, Step
from services.approvals.models.requests import ActionRow, ApprovalRow
from services.approvals.service.callers import Caller
from services.approvals.service.deciding import Act
from services.approvals.service.requests import Ask
from services.approvals.store.requests import ApprovalSum, Filter

ADMIN: Final = "approvals.admin"


def caller_of(call: Call) -> Caller:
    """Who calls, with what counts for approvals."""
    return Caller(call.actor, frozenset(call.principal.roles), admin=ADMIN in call.principal.permissions)


def ask_from_proto(request: pb.CreateApprovalRequest | pb.OpenApprovalRequest, call: Call) -> Ask:
    """What CreateApproval and OpenApproval ask for, in the name of the caller."""
    return Ask(
        request_type=ApprovalType(Approval.Type.Name(request.request_type)),
        title=request.title,
        description=request.description,
        requester=call.actor,
        entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
        department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
        budget_id=ids.BUDGET.parse_optional(request.budget_id, "budget_id"),
        category=request.category,
        amount=money_from_proto(request.amount) if request.HasField("amount") else None,
        attributes=dict(request.attributes),
        subject_type=request.subject_type,
        subject_id=request.subject_id,
        overspend=isinstance(request, pb.CreateApprovalRequest) and request.overspend,
        key=call.key,
        digest=call.fingerprint,
    )


def need_from_proto(request: pb.CheckApprovalNeedRequest, call: Call) -> Ask:
    """What another service wants to know before it submits something."""
    return Ask(
        request_type=ApprovalType(Approval.Type.Name(request.request_type)),
        title="",
        requester=call.actor,
        entity_id=ids.ENTITY.parse(request.entity_id, "entity_id"),
        department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
        category=request.category,
        amount=money_from_proto(request.amount) if request.HasField("amount") else None,
        attributes=dict(request.attributes),
    )


def changes_from_proto(request: pb.ResubmitApprovalRequest) -> Mapping[str, Any]:
    """What is changed with a resubmit."""
    changes: dict[str, Any] = {
        name: getattr(request, name) for name in ("title", "description") if request.HasField(name)
    }
    if request.HasField("amount"):
        changes["amount"] = money_from_proto(request.amount)
    return changes


def act_from_proto(request: pb.ActOnApprovalRequest | pb.BatchActOnApprovalsRequest) -> Act:
    """What the caller does."""
    action, comment = ActionType(ApprovalAction.Type.Name(request.action)), request.comment
    if isinstance(request, pb.BatchActOnApprovalsRequest):
        return Act(action=action, comment=comment)
    return Act(action=action, comment=comment, target=request.target, step=request.step, etag=request.etag)


def filter_from_proto(request: pb.ListApprovalsRequest) -> Filter:
    """Which requests are listed."""
    mine = Mine(pb.ListApprovalsRequest.Mine.Name(request.mine)) if request.mine else None
    return Filter(
        state=ApprovalState(Approval.State.Name(request.state)) if request.state else None,
        request_type=ApprovalType(Approval.Type.Name(request.request_type)) if request.request_type else None,
        requester=request.requester,
        mine=mine,
        entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
        department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
        budget_id=ids.BUDGET.parse_optional(request.budget_id, "budget_id"),
        amount_from=money_from_proto(request.amount_from) if request.HasField("amount_from") else None,
        amount_to=money_from_proto(request.amount_to) if request.HasField("amount_to") else None,
        due_before=time_from_proto(request.due_before_time) if request.HasField("due_before_time") else None,
        subject_type=request.subject_type,
        subject_id=request.subject_id,
    )


def approval_to_proto(row: ApprovalRow, *, impact: BudgetImpact | None = None) -> Approval:
    """A request."""
    panel = row.panel
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
        rules=map(level_to_proto, panel.levels),
        steps=[
            _step_to_proto(number, step, panel.levels[step.level]) for number, step in enumerate(panel.steps, start=1)
        ],
        hold_id=ids.HOLD.format_optional(row.hold_id),
        funds=Approval.Funds.Value(row.funds),
        funds_problem=row.funds_problem,
        due_time=_time(row.due_time),
        decided_by=row.decided_by,
        decision_comment=row.decision_comment,
        end_time=_time(row.end_time),
        budget_impact=impact,
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def preview_to_proto(row: ApprovalRow, *, impact: BudgetImpact | None) -> Approval:
    """The way that a request would take, which is kept nowhere and has no id."""
    row.version, row.create_time, row.update_time = 0, *[datetime.fromtimestamp(0).astimezone()] * 2
    shown = approval_to_proto(row, impact=impact)
    for field in ("id", "etag", "create_time", "update_time", "state"):
        shown.ClearField(field)
    return shown


def level_to_proto(level: Level) -> AppliedRule:
    """A rule that a request took."""
    return AppliedRule(
        rule_id=ids.RULE.format(level.rule_id), name=level.name, rule_version=level.rule_version, reason=level.reason
    )


def _step_to_proto(number: int, step: Step, level: Level) -> ApprovalStep:
    return ApprovalStep(
        number=number,
        name=step.name,
        rule_id=ids.RULE.format(level.rule_id),
        mode=Approval.Mode.Value(step.mode),
        quorum=step.quorum,
        state=ApprovalStep.State.Value(step.state),
        seats=map(_seat_to_proto, step.seats),
        sla_hours=step.sla_hours,
        start_time=_time(step.start_time),
        remind_time=_time(step.remind_time),
        due_time=_time(step.due_time),
        reminded=step.reminded,
        escalated=step.escalated,
    )


def _seat_to_proto(seat: Seat) -> ApprovalSeat:
    return ApprovalSeat(
        user_id=seat.user_id,
        role=seat.role,
        why=seat.why,
        in_place_of=seat.in_place_of,
        decision=ApprovalSeat.Decision.Value(seat.decision) if seat.decision else ApprovalSeat.DECISION_UNSPECIFIED,
        decided_by=seat.decided_by,
        on_behalf_of=seat.on_behalf_of,
        decide_time=_time(seat.decide_time),
    )


def impact_to_proto(view: BudgetView) -> BudgetImpact:
    """How a budget stands, beside what is asked of it, in its own currency."""
    return BudgetImpact(
        budget_id=ids.BUDGET.format(view.id),
        budget_name=view.name,
        amount=money_to_proto(view.asked) if view.asked else None,
        budget_amount=money_to_proto(view.amount),
        spent=money_to_proto(view.spent),
        held=money_to_proto(view.held),
        committed=money_to_proto(view.committed),
        available=money_to_proto(view.available),
    )


def impact_problem(budget_id: str, refusal: BillingError) -> BudgetImpact:
    """That it can't be told how a budget stands."""
    return BudgetImpact(budget_id=budget_id, problem=refusal.message)


def action_to_proto(row: ActionRow) -> ApprovalAction:
    """Something that was done to a request."""
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


def refusal_to_proto(approval_id: str, refusal: BillingError) -> pb.ApprovalRefusal:
    """Why a request of a batch was not decided."""
    return pb.ApprovalRefusal(
        approval_id=approval_id, reason=refusal.reason, message=refusal.message, metadata=refusal.metadata
    )


def summary_to_proto(found: ApprovalSum) -> pb.ApprovalSummary:
    """Requests of one type, state and currency."""
    return pb.ApprovalSummary(
        request_type=Approval.Type.Value(found.request_type),
        state=Approval.State.Value(found.state),
        amount=money_to_proto(found.amount) if found.amount else None,
        count=found.count,
        oldest_time=time_to_proto(found.oldest),
        cycle_seconds_mean=round(found.cycle_mean_s or 0),
        cycle_seconds_median=round(found.cycle_median_s or 0),
    )


def time_or_none(request: pb.SummarizeApprovalsRequest, field: Literal["since_time", "until_time"]) -> datetime | None:
    """The moment that a field bears, if it does."""
    return time_from_proto(getattr(request, field)) if request.HasField(field) else None


def _time(moment: datetime | None) -> Timestamp | None:
    return time_to_proto(moment) if moment else None
