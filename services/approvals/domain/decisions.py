"""Decisions and other actions of users on the workflow of a request. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from services.approvals import domain
from services.approvals.domain.approvals import ActionType, Actor, ApprovalAction
from services.approvals.domain.rules import Flow, Mode
from services.approvals.domain.workflows import (
    ActionRecord,
    ApproverSlot,
    Decision,
    Step,
    StepState,
    Workflow,
    WorkflowChange,
)
from services.approvals.errors.approvals import (
    AlreadyDecided,
    EscalationMissing,
    NotAnApprover,
    SelfApproval,
    TargetRefused,
)

_NotAllowed = NotAnApprover | SelfApproval | AlreadyDecided


def start(workflow: Workflow, now: datetime) -> WorkflowChange:
    """Start the first steps. A workflow without steps is approved."""
    return _continue(workflow, now, first=True)


def decide(
    workflow: Workflow, actor: Actor, decision: Decision, now: datetime, *, comment: str = "", step: int = 0
) -> WorkflowChange:
    """Record a decision in all active steps in which the actor is an approver, or in the step with that number.

    By a role or a delegation, nobody decides in more than one of the parallel steps of a rule.

    Raises NotAnApprover, SelfApproval or AlreadyDecided.
    """
    records: list[ActionRecord] = []
    errors: list[_NotAllowed] = []
    for number in _own_first(workflow, actor, step):
        try:
            index = _slot_of(workflow, number, actor)
        except (NotAnApprover, SelfApproval, AlreadyDecided) as error:
            errors.append(error)
            continue
        slot = workflow.step(number).slots[index]
        on_behalf_of = "" if slot.user_id in {"", actor.user_id} else slot.user_id
        decided = replace(slot, decision=decision, decided_by=actor.user_id, on_behalf_of=on_behalf_of, decide_time=now)
        workflow = workflow.with_slot(number, index, decided)
        records.append(
            ActionRecord(
                step=number,
                action=_ACTIONS[decision],
                actor=actor.user_id,
                on_behalf_of=on_behalf_of,
                comment=comment,
            )
        )
        if decision is not Decision.APPROVED:
            break
    if not records:
        raise _clearest(errors) if errors else NotAnApprover(_pending_approvers(workflow))
    return _evaluate(workflow, decision, records, now)


_ACTIONS: Final = {
    Decision.APPROVED: ActionType.APPROVE,
    Decision.REJECTED: ActionType.REJECT,
    Decision.CHANGES_REQUESTED: ActionType.REQUEST_CHANGES,
}
_NEGATIVE_OUTCOMES: Final = {
    Decision.REJECTED: ApprovalAction.REJECT,
    Decision.CHANGES_REQUESTED: ApprovalAction.REQUEST_CHANGES,
}


def _evaluate(workflow: Workflow, decision: Decision, records: Sequence[ActionRecord], now: datetime) -> WorkflowChange:
    """Apply the recorded decisions to the state of their steps, and start the next ones."""
    last = records[-1]
    if decision in _NEGATIVE_OUTCOMES:
        state = StepState.REJECTED if decision is Decision.REJECTED else StepState.ENDED
        workflow = workflow.with_step(last.step, replace(workflow.step(last.step), state=state))
        return WorkflowChange(
            workflow=workflow,
            outcome=_NEGATIVE_OUTCOMES[decision],
            decided_by=last.actor,
            comment=last.comment,
            records=tuple(records),
        )
    change = complete_steps(workflow, now)
    if change.outcome:
        change = replace(change, decided_by=last.actor, comment=last.comment)
    return replace(change, records=(*records, *change.records))


def complete_steps(workflow: Workflow, now: datetime) -> WorkflowChange:
    """Complete the active steps that are approved, and start the steps that are next."""
    for number in workflow.active_steps():
        step = workflow.step(number)
        if _is_approved(step):
            workflow = workflow.with_step(number, replace(step, state=StepState.APPROVED))
    return _continue(workflow, now)


def _own_first(workflow: Workflow, actor: Actor, step: int) -> Sequence[int]:
    """Return the numbers of the active steps, first those with a slot of the actor's own."""
    return sorted(
        workflow.active_steps(step),
        key=lambda number: not any(_is_own(slot, actor) for slot in workflow.step(number).slots),
    )


def _slot_of(workflow: Workflow, number: int, actor: Actor) -> int:
    """Return the index of the slot that the actor decides: their own, else one of their roles, else a delegated one.

    Raises AlreadyDecided, SelfApproval or NotAnApprover.
    """
    step, rule = workflow.step(number), workflow.rule_of(workflow.step(number))
    actor = _without_chains_of_requester(workflow, step, actor)
    if any(slot.decided_by == actor.user_id for slot in step.slots):
        raise AlreadyDecided(step.name)
    indexes = [
        index
        for matches in (_is_own, _is_of_role, _is_delegated)
        for index, slot in enumerate(step.slots)
        if slot.decision is None and matches(slot, actor)
    ]
    if not indexes:
        raise NotAnApprover(_pending_approvers(workflow))
    # A delegate of the requester does not decide on the requester's behalf, either.
    allowed = [
        index for index in indexes if domain.eligibility.eligible(step.slots[index].user_id, workflow.requester, rule)
    ]
    if not allowed or not domain.eligibility.eligible(actor.user_id, workflow.requester, rule):
        raise SelfApproval
    _check_parallel(workflow, number, step.slots[allowed[0]], actor)
    return allowed[0]


def _without_chains_of_requester(workflow: Workflow, step: Step, actor: Actor) -> Actor:
    """Return the actor without delegations by a chain through the requester, unless the rule allows self-approval."""
    if workflow.rule_of(step).allow_self_approval:
        return actor
    return replace(actor, acts_for=actor.acting_for(workflow.requester))


def _check_parallel(workflow: Workflow, number: int, slot: ApproverSlot, actor: Actor) -> None:
    """Raise AlreadyDecided if the actor decides in a parallel step, unless both slots are their own."""
    for other in domain.eligibility.parallel_steps(workflow, number):
        for theirs in other.slots:
            by_proxy = theirs.decided_by == actor.user_id and not _is_own(theirs, actor)
            if by_proxy or (_is_own(theirs, actor) and not _is_own(slot, actor)):
                raise AlreadyDecided(other.name, parallel=True)


def _is_own(slot: ApproverSlot, actor: Actor) -> bool:
    return bool(slot.user_id) and slot.user_id == actor.user_id


def _is_of_role(slot: ApproverSlot, actor: Actor) -> bool:
    return slot.role in actor.roles


def _is_delegated(slot: ApproverSlot, actor: Actor) -> bool:
    return slot.user_id in actor.acts_for


def _clearest(errors: Sequence[_NotAllowed]) -> _NotAllowed:
    """Return the most specific error: NotAnApprover only if there is no other."""
    return min(errors, key=lambda error: isinstance(error, NotAnApprover))


def _is_approved(step: Step) -> bool:
    """True if as many approved as the mode of the step requires."""
    if any(slot.added and slot.decision is None for slot in step.slots):
        return False
    if any(slot.escalation and slot.decision is Decision.APPROVED for slot in step.slots):
        return True
    approved = [slot for slot in step.slots if slot.decision is Decision.APPROVED]
    if step.mode is Mode.ALL:
        return len(approved) == len(step.slots)
    if step.mode is Mode.QUORUM:
        return len({slot.decided_by for slot in approved}) >= step.quorum
    # Added approvers are required in addition to one approver of the rule; they don't replace it.
    return any(not slot.added for slot in approved)


def _continue(workflow: Workflow, now: datetime, *, first: bool = False) -> WorkflowChange:
    """Start the next steps. The request is approved if none is left.

    With `first`, also record the rules that approve automatically, which have no steps.
    """
    started: list[int] = []
    records: list[ActionRecord] = []
    for rule_index, rule in enumerate(workflow.rules):
        numbers = [number for number, step in enumerate(workflow.steps, start=1) if step.rule_index == rule_index]
        if not numbers and rule.auto_approve and first:
            records.append(ActionRecord(action=ActionType.AUTO_APPROVE, comment=rule.reason))
        left = [number for number in numbers if workflow.step(number).state is not StepState.APPROVED]
        if not left:
            continue
        for number in left if rule.flow is Flow.PARALLEL else left[:1]:
            if workflow.step(number).state is StepState.WAITING:
                step = domain.deadlines.started(workflow.step(number), rule, now)
                workflow = workflow.with_step(number, step)
                started.append(number)
        return WorkflowChange(workflow=workflow, records=tuple(records), started=tuple(started))
    return WorkflowChange(workflow=workflow, outcome=ApprovalAction.APPROVE, records=tuple(records))


def delegate(workflow: Workflow, actor: Actor, target: str, *, comment: str = "", step: int = 0) -> WorkflowChange:
    """Assign the slot of the actor to another user, for this request only.

    Raises NotAnApprover, SelfApproval, AlreadyDecided or TargetRefused.
    """
    number, index = _first_slot_of(workflow, actor, step)
    current = workflow.step(number)
    _check_target(workflow, number, target)
    slot = current.slots[index]
    delegated = replace(
        slot,
        user_id=target,
        role="",
        reason=f"delegated by {actor.user_id}",
        in_place_of=slot.user_id or actor.user_id,
    )
    record = ActionRecord(step=number, action=ActionType.DELEGATE, actor=actor.user_id, target=target, comment=comment)
    return WorkflowChange(workflow=workflow.with_slot(number, index, delegated), records=(record,))


def add_approver(workflow: Workflow, actor: Actor, target: str, *, comment: str = "", step: int = 0) -> WorkflowChange:
    """Add an approver to a step, whose approval is then required too. For approvers of the step and administrators.

    Raises NotAnApprover or TargetRefused.
    """
    number = _first_step_of(workflow, actor, step)
    current = workflow.step(number)
    _check_target(workflow, number, target)
    slot = ApproverSlot(user_id=target, reason=f"added by {actor.user_id}", added=True)
    record = ActionRecord(
        step=number, action=ActionType.ADD_APPROVER, actor=actor.user_id, target=target, comment=comment
    )
    changed = replace(current, slots=(*current.slots, slot))
    return WorkflowChange(workflow=workflow.with_step(number, changed), records=(record,))


def escalate(workflow: Workflow, actor: Actor, now: datetime, *, comment: str = "", step: int = 0) -> WorkflowChange:
    """Escalate a step before its deadline. For approvers of the step and administrators.

    Raises NotAnApprover or EscalationMissing.
    """
    number = _first_step_of(workflow, actor, step)
    current = workflow.step(number)
    if current.escalated:
        raise EscalationMissing(current.name, "it is escalated already")
    if current.escalate_to is None:
        raise EscalationMissing(current.name, "its rule has no escalation approver")
    if domain.deadlines.escalation_approver(workflow, number) is None:
        raise EscalationMissing(current.name, "its escalation approver is the requester or has decided already")
    workflow, slot = domain.deadlines.escalate(workflow, number, now)
    target = slot.user_id or slot.role if slot else ""
    record = ActionRecord(step=number, action=ActionType.ESCALATE, actor=actor.user_id, target=target, comment=comment)
    return WorkflowChange(workflow=workflow, records=(record,), escalated=((number, slot),) if slot else ())


def _pending_approvers(workflow: Workflow) -> Sequence[str]:
    slots = [pending.slot for pending in workflow.pending_slots()]
    return [slot.user_id or f"anyone with the role {slot.role}" for slot in slots]


def _first_slot_of(workflow: Workflow, actor: Actor, step: int) -> tuple[int, int]:
    """Return the number of the first active step with a slot that the actor may decide, and the index of the slot."""
    errors: list[_NotAllowed] = []
    for number in _own_first(workflow, actor, step):
        try:
            return number, _slot_of(workflow, number, actor)
        except (NotAnApprover, SelfApproval, AlreadyDecided) as error:
            errors.append(error)
    raise _clearest(errors) if errors else NotAnApprover(_pending_approvers(workflow))


def _first_step_of(workflow: Workflow, actor: Actor, step: int) -> int:
    """Return the number of the first active step whose approver the actor is or was; for administrators, of any."""
    for number in workflow.active_steps(step):
        current = workflow.step(number)
        actor, slots = _without_chains_of_requester(workflow, current, actor), current.slots
        decided = any(slot.decided_by == actor.user_id for slot in slots)
        assigned = any(matches(slot, actor) for matches in (_is_own, _is_of_role, _is_delegated) for slot in slots)
        if actor.admin or decided or assigned:
            return number
    raise NotAnApprover(_pending_approvers(workflow))


def _check_target(workflow: Workflow, number: int, target: str) -> None:
    rule, slots = workflow.rule_of(workflow.step(number)), domain.eligibility.slots_beside(workflow, number)
    reason = domain.eligibility.ineligibility(target, workflow.requester, rule, slots)
    if reason:
        raise TargetRefused(reason)
