"""Assignment of users and roles to approver slots, and replacement of deactivated approvers. Pure.

The requester is replaced by their nearest manager who may decide, unless the rule allows self-approval, and an inactive
user by theirs. A slot without a successor is left out. If a step then has too few approvers, its escalation approver is
added. If that fails too, the request can't be submitted, and a pending one is rejected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from services.approvals import domain
from services.approvals.domain.approvals import ActionType, ApprovalAction
from services.approvals.domain.routes import MatchedRule, Route
from services.approvals.domain.rules import Approver, ApproverKind, Facts, Flow, Mode, RuleStep
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

    def eligible(self, user_id: str, slots: Sequence[ApproverSlot] = ()) -> bool:
        return domain.eligibility.eligible(user_id, self.facts.requester, self.rule, slots)

    def manager_of(self, user_id: str, slots: Sequence[ApproverSlot] = ()) -> str:
        """Return the nearest active manager who may fill a slot beside these slots; empty if there is none."""
        managers = self.directory.managers.get(user_id, ())
        return domain.eligibility.first_eligible(managers, self.facts.requester, self.rule, slots)


@dataclass(frozen=True, slots=True)
class _Vacancy:
    """A slot whose user may not decide, to be assigned to a manager of theirs."""

    user_id: str
    problem: str
    """Why the user may not decide, for example "is not active"."""
    reason: str
    """Why the slot was assigned to the user."""


def create_workflow(
    route: Route, facts: Facts, responsible: ResponsibleUsers, directory: DirectorySnapshot
) -> Workflow:
    """Return the workflow of a request. Raises ApproverMissing for the first step without enough approvers."""
    rules = tuple(map(_applied_rule, route.rules))
    steps = [
        step
        for index, (rule, matched) in enumerate(zip(rules, route.rules, strict=True))
        for step in _steps(index, _Context(rule, facts, responsible, directory), matched.rule.spec.steps)
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


def _steps(rule_index: int, context: _Context, steps: Sequence[RuleStep]) -> Sequence[Step]:
    """Return the steps of a rule. Vacancies are filled after all other slots, by people who have none of them."""
    assignments = [[_assign(approver, context) for approver in step.approvers] for step in steps]
    parallel = context.rule.flow is Flow.PARALLEL
    filled: list[ApproverSlot] = []
    result = []
    for step, own in zip(steps, assignments, strict=True):
        others = [slot for each in assignments if parallel or each is own for slot in each]
        taken = [slot for slot in others if isinstance(slot, ApproverSlot)] + (filled if parallel else [])
        result.append(_step(rule_index, context, step, own, taken))
        filled += result[-1].slots
    return result


def _step(
    rule_index: int,
    context: _Context,
    step: RuleStep,
    assignments: Sequence["ApproverSlot | _Vacancy | str"],
    taken: Sequence[ApproverSlot],
) -> Step:
    slots: list[ApproverSlot] = []
    problems: list[str] = []
    for assignment in assignments:
        slot = _fill(assignment, context, [*taken, *slots]) if isinstance(assignment, _Vacancy) else assignment
        if isinstance(slot, str):
            problems.append(slot)
        elif slot.assignee not in {other.assignee for other in slots}:
            slots.append(slot)
    roles = [slot for slot in slots if slot.role]
    if step.mode is Mode.QUORUM and roles:  # a slot for each of the different people with the role
        slots += roles[:1] * (step.quorum - len(slots))
    escalate_to = _escalation_slot(step, context, slots)
    enough = domain.eligibility.can_be_approved
    if escalate_to and not enough(step.mode, step.quorum, slots) and context.eligible(escalate_to.user_id, slots):
        slots.append(escalate_to)
    if not enough(step.mode, step.quorum, slots):
        raise ApproverMissing(context.rule.name, step.name, problems or ["too few different approvers"])
    return Step(
        name=step.name,
        rule_index=rule_index,
        mode=step.mode,
        quorum=step.quorum,
        slots=tuple(slots),
        sla_hours=step.sla_hours,
        escalate_to=escalate_to,
    )


def _fill(vacancy: _Vacancy, context: _Context, slots: Sequence[ApproverSlot]) -> ApproverSlot | str:
    """Return the slot of the nearest manager who may fill it beside these slots, or why there is none."""
    user_id, problem = vacancy.user_id, vacancy.problem
    manager = context.manager_of(user_id, slots)
    if not manager:
        return f"{user_id} {problem} and has no active manager who may decide"
    reason = f"manager of {user_id}, who {problem} ({vacancy.reason})"
    return ApproverSlot(user_id=manager, reason=reason, in_place_of=user_id)


def _assign(approver: Approver, context: _Context) -> "ApproverSlot | _Vacancy | str":
    """Return the slot for an approver of a rule, a vacancy, or the reason why no user can be assigned."""
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
    return _Vacancy(user_id, "is not active" if context.eligible(user_id) else "is the requester", reason)


def _escalation_slot(step: RuleStep, context: _Context, slots: Sequence[ApproverSlot]) -> ApproverSlot | None:
    """Return the escalation approver of a step with these slots; a successor is another, if possible."""
    slot = _assign(step.escalate_to, context) if step.escalate_to else None
    if isinstance(slot, _Vacancy):
        successor = _fill(slot, context, slots)
        slot = _fill(slot, context, ()) if isinstance(successor, str) else successor
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


def replace_departed(workflow: Workflow, user_id: str, managers: Sequence[str], now: datetime) -> WorkflowChange:
    """Assign the undecided slots of a user who left anew, by the rules of a new request.

    `managers` are the active managers of the user, nearest first. Earlier decisions count: a step whose remaining
    approvers have all approved is approved. A request with a step that nobody can approve any more is rejected, with
    APPROVER_MISSING and the reason as its comment.
    """
    records: list[ActionRecord] = []
    for number, step in enumerate(workflow.steps, start=1):
        if step.state in UNDECIDED_STATES:
            workflow, changes = _reassign(workflow, number, user_id, managers)
            records += changes
    if not records:
        return WorkflowChange(workflow=workflow)
    for number, step in enumerate(workflow.steps, start=1):
        enough = domain.eligibility.can_be_approved(step.mode, step.quorum, step.slots)
        if step.state in UNDECIDED_STATES and not enough:
            problem = f"{user_id} left and has no active manager who may decide"
            error = ApproverMissing(workflow.rule_of(step).name, step.name, [problem])
            comment = f"{error.reason}: {error.message}"
            records.append(ActionRecord(step=number, action=ActionType.REJECT, comment=comment))
            return WorkflowChange(
                workflow=workflow, outcome=ApprovalAction.REJECT, comment=comment, records=tuple(records)
            )
    change = domain.decisions.complete_steps(workflow, now)
    return replace(change, records=(*records, *change.records))


def _reassign(
    workflow: Workflow, number: int, user_id: str, managers: Sequence[str]
) -> tuple[Workflow, Sequence[ActionRecord]]:
    """Assign the undecided slots and the escalation of a step, as far as they are the user's, to others."""
    step, rule, requester = workflow.step(number), workflow.rule_of(workflow.step(number)), workflow.requester
    records: list[ActionRecord] = []

    def record(successor: ApproverSlot | None, comment: str) -> None:
        target = (successor.user_id or successor.role) if successor else ""
        records.append(
            ActionRecord(
                step=number, action=ActionType.REPLACE_APPROVER, on_behalf_of=user_id, target=target, comment=comment
            )
        )

    def successor_beside(slots: Sequence[ApproverSlot]) -> ApproverSlot | None:
        manager = domain.eligibility.first_eligible(managers, requester, rule, slots)
        reason = f"manager of {user_id}, who left"
        return ApproverSlot(user_id=manager, reason=reason, in_place_of=user_id) if manager else None

    escalate_to = step.escalate_to
    if escalate_to and escalate_to.user_id == user_id:
        escalate_to = successor_beside(step.slots) or successor_beside(())
        record(escalate_to, "escalation approver of the step")
    slots: list[ApproverSlot] = []
    kept = [slot for slot in domain.eligibility.slots_beside(workflow, number) if not _is_vacant(slot, user_id)]
    for slot in step.slots:
        if not _is_vacant(slot, user_id):
            slots.append(slot)
            continue
        successor = successor_beside([*kept, *slots])
        record(successor, "" if successor else f"{user_id} left and has no other active manager who may decide")
        if successor:
            slots.append(replace(successor, added=slot.added, escalation=slot.escalation))
    missing = not domain.eligibility.can_be_approved(step.mode, step.quorum, slots)
    if missing and escalate_to and domain.eligibility.eligible(escalate_to.user_id, requester, rule, [*kept, *slots]):
        slots.append(replace(escalate_to, in_place_of=user_id))
        record(escalate_to, "escalation approver of the step")
    return workflow.with_step(number, replace(step, slots=tuple(slots), escalate_to=escalate_to)), records


def _is_vacant(slot: ApproverSlot, user_id: str) -> bool:
    return slot.user_id == user_id and slot.decision is None
