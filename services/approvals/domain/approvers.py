"""Assignment of users and roles to approver slots, and replacement of deactivated approvers. Pure.

The requester is replaced by their manager, unless the rule allows self-approval. An inactive user is replaced by their
manager. A step without any approver is assigned to its escalation approver. If that fails too, the request is not
stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from services.approvals import domain
from services.approvals.domain.approvals import ActionType
from services.approvals.domain.routes import MatchedRule, Route
from services.approvals.domain.rules import Approver, ApproverKind, Facts, Mode, RuleStep
from services.approvals.domain.workflows import (
    UNDECIDED_STATES,
    ActionRecord,
    AppliedRule,
    ApproverSlot,
    Step,
    Workflow,
    WorkflowChange,
)
from services.approvals.errors.approvals import ApproverMissing


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsibleUsers:
    """The users responsible for the entity and department of a request."""

    department_manager: str = ""
    """Manager of the department, or of the nearest ancestor that has one; empty if none has."""
    entity_controller: str = ""
    """Controller of the entity, or of the nearest ancestor that has one; empty if none has."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """The entity and department of a request with their ancestors, nearest first."""

    entity_path: tuple[UUID, ...]
    department_path: tuple[UUID, ...]
    responsible: ResponsibleUsers


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectorySnapshot:
    """Users of a route, as read from user management."""

    managers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Active managers by user, nearest first."""
    inactive: frozenset[str] = frozenset()
    """Users who are inactive or unknown."""


def users_to_look_up(route: Route, facts: Facts, responsible: ResponsibleUsers) -> frozenset[str]:
    """Return the users whose state or managers are needed to assign the slots of a route."""
    approvers = [
        approver
        for matched in route.rules
        for step in matched.rule.spec.steps
        for approver in (*step.approvers, step.escalate_to)
        if approver
    ]
    users = {_user(approver, facts, responsible)[0] for approver in approvers} - {""}
    if any(approver.kind is ApproverKind.MANAGER_OF_REQUESTER for approver in approvers):
        users.add(facts.requester)
    return frozenset(users)


@dataclass(frozen=True, slots=True)
class _Context:
    """Inputs of the assignment of the slots of one rule."""

    rule: AppliedRule
    facts: Facts
    responsible: ResponsibleUsers
    directory: DirectorySnapshot

    def eligible(self, user_id: str) -> bool:
        return domain.eligibility.eligible(user_id, self.facts.requester, self.rule)

    def manager_of(self, user_id: str) -> str:
        """Return the nearest active manager who may decide; empty if there is none."""
        managers = self.directory.managers.get(user_id, ())
        return domain.eligibility.first_eligible(managers, self.facts.requester, self.rule)


def create_workflow(
    route: Route, facts: Facts, responsible: ResponsibleUsers, directory: DirectorySnapshot
) -> Workflow:
    """Return the workflow of a request. Raises ApproverMissing for the first step without enough approvers."""
    rules = tuple(map(_applied_rule, route.rules))
    steps = [
        _step(index, _Context(rule, facts, responsible, directory), step)
        for index, (rule, matched) in enumerate(zip(rules, route.rules, strict=True))
        for step in matched.rule.spec.steps
    ]
    return Workflow(requester=facts.requester, rules=rules, steps=tuple(steps))


def _applied_rule(matched: MatchedRule) -> AppliedRule:
    spec = matched.rule.spec
    return AppliedRule(
        rule_id=matched.rule.id,
        rule_version=matched.rule.version,
        name=spec.name,
        reason=matched.reason,
        flow=spec.flow,
        auto_approve=spec.auto_approve,
        allow_self_approval=spec.allow_self_approval,
        on_expiry=spec.on_expiry,
        business_hours=spec.business_hours,
    )


def _step(rule_index: int, context: _Context, step: RuleStep) -> Step:
    assignments = [_assign(approver, context) for approver in step.approvers]
    slots = list({slot.assignee: slot for slot in assignments if isinstance(slot, ApproverSlot)}.values())
    escalate_to = _escalation_slot(step, context)
    if escalate_to and not _enough(step, slots):
        slots.append(escalate_to)
    if not _enough(step, slots):
        reasons = [reason for reason in assignments if isinstance(reason, str)] or ["too few different approvers"]
        raise ApproverMissing(context.rule.name, step.name, reasons)
    return Step(
        name=step.name,
        rule_index=rule_index,
        mode=step.mode,
        quorum=step.quorum,
        slots=tuple(slots),
        sla_hours=step.sla_hours,
        escalate_to=escalate_to,
    )


def _enough(step: RuleStep, slots: Sequence[ApproverSlot]) -> bool:
    """True if there are enough slots to approve the step. A role counts for any number of people."""
    if step.mode is not Mode.QUORUM:
        return bool(slots)
    return any(slot.role for slot in slots) or len(slots) >= step.quorum


def _assign(approver: Approver, context: _Context) -> ApproverSlot | str:
    """Return the slot for an approver of a rule; if no user can be assigned, return the reason instead."""
    if approver.kind is ApproverKind.ROLE:
        return ApproverSlot(role=approver.name, reason=f"anyone with the role {approver.name}, named in the rule")
    requester = context.facts.requester
    if approver.kind is ApproverKind.MANAGER_OF_REQUESTER:
        manager = context.manager_of(requester)
        slot = ApproverSlot(user_id=manager, reason=f"manager of the requester {requester}")
        return slot if manager else f"the requester {requester} has no active manager"
    user_id, reason = _user(approver, context.facts, context.responsible)
    if not user_id:
        return reason
    if context.eligible(user_id) and user_id not in context.directory.inactive:
        return ApproverSlot(user_id=user_id, reason=reason)
    problem = "is not active" if context.eligible(user_id) else "is the requester"
    manager = context.manager_of(user_id)
    if not manager:
        return f"{user_id} {problem} and has no active manager"
    return ApproverSlot(user_id=manager, reason=f"manager of {user_id}, who {problem} ({reason})", in_place_of=user_id)


def _escalation_slot(step: RuleStep, context: _Context) -> ApproverSlot | None:
    slot = _assign(step.escalate_to, context) if step.escalate_to else None
    if not isinstance(slot, ApproverSlot):
        return None
    return replace(slot, reason="escalation approver of the step")


def _user(approver: Approver, facts: Facts, responsible: ResponsibleUsers) -> tuple[str, str]:
    """Return the user id of an approver, from the rule or the responsible users, and the reason for it.

    If there is none, the id is empty and the reason explains that. Roles and managers of requesters have none here.
    """
    match approver.kind:
        case ApproverKind.USER:
            return approver.name, "named in the rule"
        case ApproverKind.DEPARTMENT_MANAGER:
            return _department_manager(facts, responsible)
        case ApproverKind.ENTITY_CONTROLLER:
            return _entity_controller(responsible)
        case ApproverKind.ROLE | ApproverKind.MANAGER_OF_REQUESTER:
            return "", ""


def _department_manager(facts: Facts, responsible: ResponsibleUsers) -> tuple[str, str]:
    if not facts.department_path:
        return "", "the request has no department"
    if not responsible.department_manager:
        return "", "neither the department nor an ancestor has a manager"
    return responsible.department_manager, "manager of the department"


def _entity_controller(responsible: ResponsibleUsers) -> tuple[str, str]:
    if not responsible.entity_controller:
        return "", "neither the entity nor an ancestor has a controller"
    return responsible.entity_controller, "controller of the entity"


def replace_departed(workflow: Workflow, user_id: str, managers: Sequence[str]) -> WorkflowChange:
    """Replace a deactivated approver in the undecided steps by the first of `managers` who may decide there.

    `managers` are the active managers of the user, nearest first. If none of them may decide, the escalation approver
    of the step replaces the user. If that fails too, the slot stays, and the step is escalated or expires.
    """
    records: list[ActionRecord] = []
    for number, step in enumerate(workflow.steps, start=1):
        if step.state not in UNDECIDED_STATES:
            continue
        for index, slot in enumerate(step.slots):
            if slot.user_id != user_id or slot.decision is not None:
                continue
            successor = _successor(workflow, workflow.step(number), user_id, managers)
            if successor is None:
                continue
            replaced = replace(
                slot,
                user_id=successor.user_id,
                role=successor.role,
                reason=successor.reason,
                in_place_of=user_id,
            )
            workflow = workflow.with_slot(number, index, replaced)
            target = successor.user_id or successor.role
            records.append(
                ActionRecord(step=number, action=ActionType.REPLACE_APPROVER, on_behalf_of=user_id, target=target)
            )
    return WorkflowChange(workflow=workflow, records=tuple(records))


def _successor(workflow: Workflow, step: Step, user_id: str, managers: Sequence[str]) -> ApproverSlot | None:
    rule, slots = workflow.rule_of(step), step.slots
    manager = domain.eligibility.first_eligible(managers, workflow.requester, rule, slots)
    if manager:
        return ApproverSlot(user_id=manager, reason=f"manager of {user_id}, who is no longer active")
    approver = step.escalate_to
    if approver and domain.eligibility.eligible(approver.user_id, workflow.requester, rule, slots):
        return approver
    return None
