"""Deadlines of steps: reminder, escalation and expiry, in all hours or in business hours. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from services.approvals import domain
from services.approvals.domain.approvals import ActionType, ApprovalAction
from services.approvals.domain.rules import BusinessHours, OnExpiry
from services.approvals.domain.workflows import (
    ActionRecord,
    AppliedRule,
    ApproverSlot,
    Step,
    StepState,
    Workflow,
    WorkflowChange,
)


def add_time(start: datetime, duration: timedelta, business: BusinessHours | None) -> datetime:
    """Return the time `duration` after `start`, in UTC. With business hours, only those count.

    Business hours are local time: a day with a clock change has as many as any other.
    """
    if business is None:
        return start + duration
    left = duration
    zone = ZoneInfo(business.time_zone)
    local = start.astimezone(zone).replace(tzinfo=None)
    while True:
        opens, closes = datetime.combine(local, business.start), datetime.combine(local, business.end)
        if local.isoweekday() in business.weekdays and local < closes:
            begins = max(local, opens)
            if begins + left <= closes:
                return (begins + left).replace(tzinfo=zone).astimezone(UTC)
            left -= closes - begins
        local = datetime.combine(local.date() + timedelta(days=1), business.start)


def started(step: Step, rule: AppliedRule, now: datetime) -> Step:
    """Return the step, active since `now`, with its times."""
    return replace(
        step,
        state=StepState.ACTIVE,
        start_time=now,
        remind_time=add_time(now, step.sla / 2, rule.business_hours),
        due_time=add_time(now, step.sla, rule.business_hours),
    )


def next_due_time(workflow: Workflow) -> datetime | None:
    """Return the time of the next reminder, escalation or expiry; None if no step is active."""
    times = []
    for number in workflow.active_steps():
        step = workflow.step(number)
        times += [step.due_time] if step.reminded else [step.remind_time, step.due_time]
    return min((moment for moment in times if moment), default=None)


def apply(workflow: Workflow, now: datetime) -> WorkflowChange:
    """Apply the deadlines that have passed.

    A step is reminded after half of its SLA and escalated at its end. If it is still undecided after the same time
    again, the request ends as `on_expiry` of its rule specifies.
    """
    records: list[ActionRecord] = []
    reminded: list[int] = []
    escalated: list[tuple[int, ApproverSlot]] = []
    for number in workflow.active_steps():
        step = workflow.step(number)
        if step.due_time and step.due_time <= now:
            if step.escalated:
                return _expired(workflow, number, records)
            workflow, slot = escalate(workflow, number, now)
            target = slot.user_id or slot.role if slot else ""
            records.append(ActionRecord(step=number, action=ActionType.ESCALATE, target=target))
            if slot:
                escalated.append((number, slot))
        elif step.remind_time and step.remind_time <= now and not step.reminded:
            workflow = workflow.with_step(number, replace(step, reminded=True))
            records.append(ActionRecord(step=number, action=ActionType.REMIND))
            reminded.append(number)
    return WorkflowChange(
        workflow=workflow, records=tuple(records), reminded=tuple(reminded), escalated=tuple(escalated)
    )


def _expired(workflow: Workflow, number: int, records: Sequence[ActionRecord]) -> WorkflowChange:
    step = workflow.step(number)
    rejected = workflow.rule_of(step).on_expiry is OnExpiry.REJECTED
    comment = f"The step {step.name!r} was not decided in time."
    action = ActionType.REJECT if rejected else ActionType.EXPIRE
    return WorkflowChange(
        workflow=workflow,
        outcome=ApprovalAction.REJECT if rejected else ApprovalAction.EXPIRE,
        comment=comment,
        records=(*records, ActionRecord(step=number, action=action, comment=comment)),
    )


def escalation_approver(workflow: Workflow, number: int) -> ApproverSlot | None:
    """Return the slot that an escalation of the step adds; None if it has none that may decide."""
    step = workflow.step(number)
    slot = step.escalate_to
    if slot is None or not domain.eligibility.eligible(slot.user_id, workflow.requester, workflow.rule_of(step)):
        return None
    return None if domain.eligibility.has_decided(workflow, number, slot.user_id) else slot


def escalate(workflow: Workflow, number: int, now: datetime) -> tuple[Workflow, ApproverSlot | None]:
    """Escalate a step: add its escalation approver, and give it its SLA once more.

    Returns the changed workflow and the added slot. If the escalation approver has a pending slot in the step already,
    none is added: the approval of the existing slot becomes sufficient.
    """
    step = workflow.step(number)
    slots, added = step.slots, None
    approver = escalation_approver(workflow, number)
    if approver:
        pending = [
            index for index, slot in enumerate(slots) if slot.decision is None and slot.assignee == approver.assignee
        ]
        if pending:
            slots = tuple(replace(slot, escalation=index in pending) for index, slot in enumerate(slots))
        else:
            added = replace(approver, escalation=True)
            slots = (*slots, added)
    due_time = add_time(now, step.sla, workflow.rule_of(step).business_hours)
    changed = replace(step, slots=slots, escalated=True, reminded=True, due_time=due_time)
    return workflow.with_step(number, changed), added
