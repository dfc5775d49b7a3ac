"""Rules of approval."""

from collections.abc import Callable, Mapping, Sequence
from datetime import time
from decimal import Decimal
from typing import Any, Final

from billing.approvals.v1 import approval_rule_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import AppliedRule, Approval
from billing.approvals.v1.approval_rule_pb2 import ApprovalRule, ApprovalRuleStep, Approver, BusinessHours
from billing.type.v1.money_pb2 import Money as MoneyMessage

from contract.masks import changed_fields
from contract.values import money_from_proto, money_to_proto, time_to_proto
from kit import ids
from kit.errors import InvalidFields, Violation
from kit.money import Money
from services.approvals.domain import rules
from services.approvals.domain.lives import ApprovalType, Flow, Mode, OnExpiry, RuleState
from services.approvals.domain.routes import Chosen, Route
from services.approvals.domain.rules import ApproverKind, RuleStep, RuleTerms
from services.approvals.models.rules import RuleRow
from services.approvals.service.simulation import RouteChange, Simulation

_SLA_HOURS_DEFAULT: Final = 72
_WORKDAYS: Final = frozenset(range(1, 6))


def rule_to_proto(row: RuleRow) -> ApprovalRule:
    """A rule."""
    terms = row.terms
    return ApprovalRule(
        id=ids.RULE.format(row.id),
        name=terms.name,
        priority=terms.priority,
        request_type=Approval.Type.Value(terms.request_type) if terms.request_type else Approval.TYPE_UNSPECIFIED,
        amount_above=_money(terms.amount_above, terms.currency),
        amount_up_to=_money(terms.amount_up_to, terms.currency),
        ladder=terms.ladder,
        entity_ids=sorted(map(ids.ENTITY.format, terms.entity_ids)),
        department_ids=sorted(map(ids.DEPARTMENT.format, terms.department_ids)),
        categories=sorted(terms.categories),
        condition=terms.condition,
        steps=map(_step_to_proto, terms.steps),
        flow=Approval.Flow.Value(terms.flow),
        auto_approve=terms.auto_approve,
        allow_self_approval=terms.allow_self_approval,
        on_expiry=Approval.State.Value(terms.on_expiry),
        business_hours=_hours_to_proto(terms.business_hours) if terms.business_hours else None,
        is_default=terms.is_default,
        state=ApprovalRule.State.Value(row.state),
        rule_version=row.rule_version,
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def _money(amount: Decimal | None, currency: str) -> MoneyMessage | None:
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


def _approver_to_proto(approver: rules.Approver) -> Approver:
    return Approver(**{_FIELDS[approver.kind]: approver.name or True})  # type: ignore[arg-type]  # a name, or that it is so


def _approver(given: Approver) -> rules.Approver:
    field = given.WhichOneof("who") or "user_id"
    value = getattr(given, field)
    return rules.Approver(_KINDS[field], value if isinstance(value, str) else "")


def _hours_to_proto(hours: rules.BusinessHours) -> BusinessHours:
    return BusinessHours(
        time_zone=hours.time_zone,
        weekdays=sorted(hours.weekdays),
        start=f"{hours.start:%H:%M}",
        end=f"{hours.end:%H:%M}",
    )


def terms_from_proto(request: pb.CreateApprovalRuleRequest) -> RuleTerms:
    """What a new rule says; raises InvalidFields where its amounts are of two currencies."""
    fields = {name: read(getattr(request, name)) for name, read in _READ.items()}
    return RuleTerms(**fields, **_range(request, {"amount_above", "amount_up_to"}), business_hours=_hours(request))


def changes_from_proto(request: pb.UpdateApprovalRuleRequest) -> tuple[Mapping[str, Any], RuleState | None]:
    """What UpdateApprovalRule changes of a rule, and the state it gives it; raises InvalidFields."""
    changed = changed_fields(request)
    if "name" in changed and not request.name:
        raise InvalidFields([Violation("name", "can't be cleared", "required")])
    changes = {name: read(getattr(request, name)) for name, read in _READ.items() if name in changed}
    changes |= _range(request, changed)
    if "business_hours" in changed:
        changes["business_hours"] = _hours(request)
    return changes, RuleState(ApprovalRule.State.Name(request.state)) if request.state else None


def _range(
    request: pb.CreateApprovalRuleRequest | pb.UpdateApprovalRuleRequest, changed: set[str] | frozenset[str]
) -> dict[str, Any]:
    """The bounds that are given or cleared; the currency is that of those given."""
    bounds: dict[str, Any] = {}
    currencies = set()
    for field in sorted({"amount_above", "amount_up_to"} & changed):
        given = request.HasField(field)  # type: ignore[arg-type]  # one of the two
        amount = money_from_proto(getattr(request, field)) if given else None
        bounds[field] = amount.amount if amount else None
        if amount:
            currencies.add(amount.currency)
    if len(currencies) > 1:
        raise InvalidFields([Violation("amount_up_to.currency_code", "must be that of amount_above", "rule.range")])
    if currencies:
        bounds["currency"] = currencies.pop()
    elif len(bounds) == 2:  # noqa: PLR2004 - both are cleared
        bounds["currency"] = ""
    return bounds


def _hours(request: pb.CreateApprovalRuleRequest | pb.UpdateApprovalRuleRequest) -> rules.BusinessHours | None:
    if not request.HasField("business_hours"):
        return None
    given = request.business_hours
    return rules.BusinessHours(
        time_zone=given.time_zone,
        weekdays=frozenset(given.weekdays) or _WORKDAYS,
        start=time.fromisoformat(given.start),
        end=time.fromisoformat(given.end),
    )


def _steps(given: Sequence[ApprovalRuleStep]) -> tuple[RuleStep, ...]:
    return tuple(
        RuleStep(
            name=step.name,
            approvers=tuple(map(_approver, step.approvers)),
            mode=Mode(Approval.Mode.Name(step.mode)) if step.mode else Mode.ANY,
            quorum=step.quorum,
            sla_hours=step.sla_hours or _SLA_HOURS_DEFAULT,
            escalate_to=_approver(step.escalate_to) if step.HasField("escalate_to") else None,
        )
        for step in given
    )


_READ: Final[Mapping[str, Callable[[Any], Any]]] = {
    "name": str,
    "priority": int,
    "request_type": lambda value: ApprovalType(Approval.Type.Name(value)) if value else None,
    "ladder": str,
    "entity_ids": lambda given: frozenset(ids.ENTITY.parse(id, "entity_ids") for id in given),
    "department_ids": lambda given: frozenset(ids.DEPARTMENT.parse(id, "department_ids") for id in given),
    "categories": frozenset,
    "condition": str,
    "steps": _steps,
    "flow": lambda value: Flow(Approval.Flow.Name(value)) if value else Flow.SEQUENTIAL,
    "auto_approve": bool,
    "allow_self_approval": bool,
    "on_expiry": lambda value: OnExpiry(Approval.State.Name(value)) if value else OnExpiry.EXPIRED,
    "is_default": bool,
}
"""How each field of a rule is read; where it is not given or cleared, it is read as empty."""


def simulation_to_proto(found: Simulation) -> pb.SimulateRulesResponse:
    """What a draft would have changed."""
    return pb.SimulateRulesResponse(
        considered_count=found.considered,
        changed_count=found.changed,
        newly_auto_approved_count=found.newly_auto_approved,
        newly_refused_count=found.newly_refused,
        skipped_count=found.skipped,
        changes=map(_change_to_proto, found.changes),
    )


def _change_to_proto(change: RouteChange) -> pb.RouteChange:
    row = change.row
    return pb.RouteChange(
        approval_id=ids.APPROVAL.format(row.id),
        title=row.title,
        amount=money_to_proto(row.money) if row.money else None,
        before=_route_to_proto(change.before),
        after=_route_to_proto(change.after),
    )


def _route_to_proto(route: Route | None) -> pb.Route:
    if route is None:
        return pb.Route()
    return pb.Route(rules=map(applied_to_proto, route.levels), steps=route.steps, auto_approved=route.auto_approved)


def applied_to_proto(chosen: Chosen) -> AppliedRule:
    """A rule that a request takes, or would take; a draft has no id."""
    rule = chosen.rule
    return AppliedRule(
        rule_id=ids.RULE.format(rule.id) if rule.version else "",
        name=rule.terms.name,
        rule_version=rule.version,
        reason=chosen.reason,
    )
