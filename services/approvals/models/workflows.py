"""Workflows as stored: JSON in the row of their request, so that a decision changes one row.

Empty fields are omitted. Some keys differ from the names of the fields: a field can be renamed, its stored key can't.
"""

from collections.abc import Mapping
from datetime import datetime, time
from typing import Any, TypeAlias
from uuid import UUID

from services.approvals.domain.rules import BusinessHours, Flow, Mode, OnExpiry
from services.approvals.domain.workflows import AppliedRule, ApproverSlot, Decision, Step, StepState, Workflow

WorkflowRecord: TypeAlias = dict[str, Any]
"""A workflow as JSON."""


def to_record(workflow: Workflow) -> WorkflowRecord:
    """Convert a workflow to JSON."""
    return {
        "requester": workflow.requester,
        "levels": [_rule_to_record(rule) for rule in workflow.rules],
        "steps": [_step_to_record(step) for step in workflow.steps],
    }


def from_record(record: WorkflowRecord) -> Workflow:
    """Convert stored JSON to a workflow."""
    return Workflow(
        requester=record["requester"],
        rules=tuple(_rule_from_record(rule) for rule in record["levels"]),
        steps=tuple(_step_from_record(step) for step in record["steps"]),
    )


def hours_to_record(hours: BusinessHours) -> dict[str, Any]:
    """Convert business hours to JSON."""
    return {
        "time_zone": hours.time_zone,
        "weekdays": sorted(hours.weekdays),
        "start": hours.start.isoformat("minutes"),
        "end": hours.end.isoformat("minutes"),
    }


def hours_from_record(record: Mapping[str, Any] | None) -> BusinessHours | None:
    """Convert stored JSON to business hours; None stays None."""
    if record is None:
        return None
    return BusinessHours(
        time_zone=record["time_zone"],
        weekdays=frozenset(record["weekdays"]),
        start=time.fromisoformat(record["start"]),
        end=time.fromisoformat(record["end"]),
    )


def _rule_to_record(rule: AppliedRule) -> Mapping[str, Any]:
    return _without_empty(
        rule_id=rule.rule_id.hex,
        rule_version=rule.rule_version,
        name=rule.name,
        reason=rule.reason,
        flow=rule.flow.value,
        auto_approve=rule.auto_approve,
        allow_self_approval=rule.allow_self_approval,
        on_expiry=rule.on_expiry.value,
        business_hours=hours_to_record(rule.business_hours) if rule.business_hours else None,
    )


def _rule_from_record(record: Mapping[str, Any]) -> AppliedRule:
    return AppliedRule(
        rule_id=UUID(record["rule_id"]),
        rule_version=record["rule_version"],
        name=record["name"],
        reason=record["reason"],
        flow=Flow(record["flow"]),
        auto_approve=record.get("auto_approve", False),
        allow_self_approval=record.get("allow_self_approval", False),
        on_expiry=OnExpiry(record["on_expiry"]),
        business_hours=hours_from_record(record.get("business_hours")),
    )


def _step_to_record(step: Step) -> Mapping[str, Any]:
    return _without_empty(
        name=step.name,
        level=step.rule_index,
        mode=step.mode.value,
        quorum=step.quorum,
        seats=[_slot_to_record(slot) for slot in step.slots],
        sla_hours=step.sla_hours,
        escalate_to=_slot_to_record(step.escalate_to) if step.escalate_to else None,
        state=step.state.value,
        start_time=_time_to_text(step.start_time),
        remind_time=_time_to_text(step.remind_time),
        due_time=_time_to_text(step.due_time),
        reminded=step.reminded,
        escalated=step.escalated,
    )


def _step_from_record(record: Mapping[str, Any]) -> Step:
    escalate_to = record.get("escalate_to")
    return Step(
        name=record["name"],
        rule_index=record.get("level", 0),
        mode=Mode(record["mode"]),
        quorum=record.get("quorum", 0),
        slots=tuple(_slot_from_record(slot) for slot in record.get("seats", ())),
        sla_hours=record["sla_hours"],
        escalate_to=_slot_from_record(escalate_to) if escalate_to else None,
        state=StepState(record["state"]),
        start_time=_time_from_text(record.get("start_time")),
        remind_time=_time_from_text(record.get("remind_time")),
        due_time=_time_from_text(record.get("due_time")),
        reminded=record.get("reminded", False),
        escalated=record.get("escalated", False),
    )


def _slot_to_record(slot: ApproverSlot) -> Mapping[str, Any]:
    return _without_empty(
        user_id=slot.user_id,
        role=slot.role,
        why=slot.reason,
        in_place_of=slot.in_place_of,
        extra=slot.added,
        superior=slot.escalation,
        decision=slot.decision.value if slot.decision else None,
        decided_by=slot.decided_by,
        on_behalf_of=slot.on_behalf_of,
        decide_time=_time_to_text(slot.decide_time),
    )


def _slot_from_record(record: Mapping[str, Any]) -> ApproverSlot:
    decision = record.get("decision")
    return ApproverSlot(
        user_id=record.get("user_id", ""),
        role=record.get("role", ""),
        reason=record.get("why", ""),
        in_place_of=record.get("in_place_of", ""),
        added=record.get("extra", False),
        escalation=record.get("superior", False),
        decision=Decision(decision) if decision else None,
        decided_by=record.get("decided_by", ""),
        on_behalf_of=record.get("on_behalf_of", ""),
        decide_time=_time_from_text(record.get("decide_time")),
    )


def _without_empty(**fields: Any) -> Mapping[str, Any]:
    """Return the fields that are not empty."""
    return {name: value for name, value in fields.items() if value}


def _time_to_text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _time_from_text(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
