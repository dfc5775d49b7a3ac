"""Approval rules and their simulation."""

from collections.abc import Callable, Mapping, Sequence
from datetime import time
from decimal import Decimal
from typing import Any, Final

from billing.approvals.v1 import approval_rule_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import AppliedRule, Approval
from billing.approvals.v1.approval_rule_pb2 import ApprovalRule, ApprovalRuleStep
from billing.approvals.v1.approval_rule_pb2 import Approver as ApproverMessage
from billing.approvals.v1.approval_rule_pb2 import BusinessHours as BusinessHoursMessage
from billing.type.v1.money_pb2 import Money as MoneyMessage

from contract.masks import changed_fields
from contract.values import enum_or_none, money_or_none, money_to_proto, time_to_proto
from kit import ids
from kit.errors import InvalidFields, Violation
from kit.money import Money
from services.approvals.domain.approvals import ApprovalType
from services.approvals.domain.routes import MatchedRule, Route
from services.approvals.domain.rules import (
    Approver,
    ApproverKind,
    BusinessHours,
    Flow,
    Mode,
    OnExpiry,
    RuleFilter,
    RuleSpec,
    RuleState,
    RuleStep,
)
from services.approvals.domain.simulations import RouteChange, Simulation
from services.approvals.models.rules import RuleRow

_SLA_HOURS_DEFAULT: Final = 72
_WEEKDAYS_DEFAULT: Final = frozenset(range(1, 6))

RuleRequest = pb.CreateApprovalRuleRequest | pb.UpdateApprovalRuleRequest


def to_proto(row: RuleRow) -> ApprovalRule:
    """Convert a rule."""
    spec = row.spec
    return ApprovalRule(
        id=ids.RULE.format(row.id),
        name=spec.name,
        priority=spec.priority,
        request_type=Approval.Type.Value(spec.request_type) if spec.request_type else Approval.TYPE_UNSPECIFIED,
        amount_above=_bound_to_proto(spec.amount_above, spec.currency),
        amount_up_to=_bound_to_proto(spec.amount_up_to, spec.currency),
        ladder=spec.ladder,
        entity_ids=sorted(map(ids.ENTITY.format, spec.entity_ids)),
        department_ids=sorted(map(ids.DEPARTMENT.format, spec.department_ids)),
        categories=sorted(spec.categories),
        condition=spec.condition,
        steps=map(_step_to_proto, spec.steps),
        flow=Approval.Flow.Value(spec.flow),
        auto_approve=spec.auto_approve,
        allow_self_approval=spec.allow_self_approval,
        on_expiry=Approval.State.Value(spec.on_expiry),
        business_hours=_hours_to_proto(spec.business_hours) if spec.business_hours else None,
        is_default=spec.is_default,
        state=ApprovalRule.State.Value(row.state),
        rule_version=row.rule_version,
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def _bound_to_proto(amount: Decimal | None, currency: str) -> MoneyMessage | None:
    return None if amount is None else money_to_proto(Money(amount, currency))


def _step_to_proto(step: RuleStep) -> ApprovalRuleStep:
    return ApprovalRuleStep(
        name=step.name,
        approvers=map(_approver_to_proto, step.approvers),
        mode=Approval.Mode.Value(step.mode),
        quorum=step.quorum,
        sla_hours=step.sla_hours,
        escalate_to=_approver_to_proto(step.escalate_to) if step.escalate_to else None,
    )


_FIELDS: Final = {
    ApproverKind.USER: "user_id",
    ApproverKind.ROLE: "role",
    ApproverKind.DEPARTMENT_MANAGER: "department_manager",
    ApproverKind.ENTITY_CONTROLLER: "entity_controller",
    ApproverKind.MANAGER_OF_REQUESTER: "manager_of_requester",
}
_KINDS: Final = {field: kind for kind, field in _FIELDS.items()}


def _approver_to_proto(approver: Approver) -> ApproverMessage:
    return ApproverMessage(**{_FIELDS[approver.kind]: approver.name or True})  # type: ignore[arg-type]  # text or bool


def _approver_from_proto(message: ApproverMessage) -> Approver:
    field = message.WhichOneof("who") or "user_id"
    value = getattr(message, field)
    return Approver(_KINDS[field], value if isinstance(value, str) else "")


def _hours_to_proto(hours: BusinessHours) -> BusinessHoursMessage:
    return BusinessHoursMessage(
        time_zone=hours.time_zone,
        weekdays=sorted(hours.weekdays),
        start=f"{hours.start:%H:%M}",
        end=f"{hours.end:%H:%M}",
    )


def spec_from_proto(request: pb.CreateApprovalRuleRequest) -> RuleSpec:
    """Parse CreateApprovalRuleRequest. Raises InvalidFields if the amounts are in different currencies."""
    fields = {name: parse(getattr(request, name)) for name, parse in _PARSERS.items()}
    bounds = _bounds_from_proto(request, {"amount_above", "amount_up_to"})
    return RuleSpec(**fields, **bounds, business_hours=_hours_from_proto(request))


def changes_from_proto(request: pb.UpdateApprovalRuleRequest) -> tuple[Mapping[str, Any], RuleState | None]:
    """Return the fields of the specification that UpdateApprovalRuleRequest changes, and the new state.

    Raises InvalidFields.
    """
    changed = changed_fields(request)
    if "name" in changed and not request.name:
        raise InvalidFields([Violation("name", "can't be cleared", "required")])
    changes = {name: parse(getattr(request, name)) for name, parse in _PARSERS.items() if name in changed}
    changes |= _bounds_from_proto(request, changed)
    if "business_hours" in changed:
        changes["business_hours"] = _hours_from_proto(request)
    return changes, enum_or_none(RuleState, ApprovalRule.State, request.state)


def _bounds_from_proto(request: RuleRequest, changed: set[str] | frozenset[str]) -> dict[str, Any]:
    """Return the changed bounds, None for cleared ones, and their currency. Raises InvalidFields for two currencies."""
    amounts = {field: money_or_none(request, field) for field in sorted({"amount_above", "amount_up_to"} & changed)}
    bounds: dict[str, Any] = {field: amount.amount if amount else None for field, amount in amounts.items()}
    currencies = {amount.currency for amount in amounts.values() if amount}
    if len(currencies) > 1:
        description = "must be the currency of amount_above"
        raise InvalidFields([Violation("amount_up_to.currency_code", description, "rule.range")])
    if currencies:
        bounds["currency"] = currencies.pop()
    elif len(bounds) == 2:  # noqa: PLR2004 - both are cleared
        bounds["currency"] = ""
    return bounds


def _hours_from_proto(request: RuleRequest) -> BusinessHours | None:
    if not request.HasField("business_hours"):
        return None
    hours = request.business_hours
    return BusinessHours(
        time_zone=hours.time_zone,
        weekdays=frozenset(hours.weekdays) or _WEEKDAYS_DEFAULT,
        start=time.fromisoformat(hours.start),
        end=time.fromisoformat(hours.end),
    )


def _steps_from_proto(messages: Sequence[ApprovalRuleStep]) -> tuple[RuleStep, ...]:
    return tuple(
        RuleStep(
            name=message.name,
            approvers=tuple(map(_approver_from_proto, message.approvers)),
            mode=enum_or_none(Mode, Approval.Mode, message.mode) or Mode.ANY,
            quorum=message.quorum,
            sla_hours=message.sla_hours or _SLA_HOURS_DEFAULT,
            escalate_to=_approver_from_proto(message.escalate_to) if message.HasField("escalate_to") else None,
        )
        for message in messages
    )


_PARSERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "name": str,
    "priority": int,
    "request_type": lambda value: enum_or_none(ApprovalType, Approval.Type, value),
    "ladder": str,
    "entity_ids": lambda values: frozenset(ids.ENTITY.parse(id, "entity_ids") for id in values),
    "department_ids": lambda values: frozenset(ids.DEPARTMENT.parse(id, "department_ids") for id in values),
    "categories": frozenset,
    "condition": str,
    "steps": _steps_from_proto,
    "flow": lambda value: enum_or_none(Flow, Approval.Flow, value) or Flow.SEQUENTIAL,
    "auto_approve": bool,
    "allow_self_approval": bool,
    "on_expiry": lambda value: enum_or_none(OnExpiry, Approval.State, value) or OnExpiry.EXPIRED,
    "is_default": bool,
}
"""Parser of each field of a rule; a missing or cleared field gets its default."""


def filter_from_proto(request: pb.ListApprovalRulesRequest) -> RuleFilter:
    """Parse the filters of ListApprovalRulesRequest."""
    return RuleFilter(
        state=enum_or_none(RuleState, ApprovalRule.State, request.state),
        request_type=enum_or_none(ApprovalType, Approval.Type, request.request_type),
        ladder=request.ladder,
    )


def simulation_to_proto(simulation: Simulation) -> pb.SimulateRulesResponse:
    """Convert the result of a simulation."""
    return pb.SimulateRulesResponse(
        considered_count=simulation.considered,
        changed_count=simulation.changed,
        newly_auto_approved_count=simulation.newly_auto_approved,
        newly_refused_count=simulation.newly_refused,
        skipped_count=simulation.skipped,
        failed_count=simulation.failed,
        changes=map(_change_to_proto, simulation.changes),
    )


def _change_to_proto(change: RouteChange) -> pb.RouteChange:
    facts = change.request.facts
    return pb.RouteChange(
        approval_id=ids.APPROVAL.format(change.request.id),
        title=facts.title,
        amount=money_to_proto(facts.amount) if facts.amount else None,
        before=_route_to_proto(change.before),
        after=_route_to_proto(change.after),
    )


def _route_to_proto(route: Route | None) -> pb.Route:
    if route is None:
        return pb.Route()
    return pb.Route(rules=map(matched_rule_to_proto, route.rules), steps=route.steps, auto_approved=route.auto_approved)


def matched_rule_to_proto(matched: MatchedRule) -> AppliedRule:
    """Convert a rule that matches a request; a draft has no id."""
    rule = matched.rule
    return AppliedRule(
        rule_id=ids.RULE.format(rule.id) if rule.version else "",
        name=rule.spec.name,
        rule_version=rule.version,
        reason=matched.reason,
    )
