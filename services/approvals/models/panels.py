"""Panels as they are kept: JSON on the row of their request, so that a decision is one row."""

from collections.abc import Mapping
from datetime import datetime, time
from typing import Any
from uuid import UUID

from services.approvals.domain.lives import Decision, Flow, Mode, OnExpiry, StepState
from services.approvals.domain.rules import BusinessHours
from services.approvals.domain.seats import Level, Panel, Seat, Step

PanelRecord = dict[str, Any]
"""A panel, as it is kept; what has its usual value is left out."""


def panel_record(panel: Panel) -> PanelRecord:
    """A panel as it is kept."""
    return {
        "requester": panel.requester,
        "levels": [_level_record(level) for level in panel.levels],
        "steps": [_step_record(step) for step in panel.steps],
    }


def panel_of(record: PanelRecord) -> Panel:
    """The panel that was kept."""
    return Panel(
        requester=record["requester"],
        levels=tuple(_level_of(kept) for kept in record["levels"]),
        steps=tuple(_step_of(kept) for kept in record["steps"]),
    )


def hours_record(hours: BusinessHours) -> Mapping[str, Any]:
    """Business hours as they are kept."""
    return {
        "time_zone": hours.time_zone,
        "weekdays": sorted(hours.weekdays),
        "start": hours.start.isoformat("minutes"),
        "end": hours.end.isoformat("minutes"),
    }


def hours_of(kept: Mapping[str, Any] | None) -> BusinessHours | None:
    """The business hours that were kept, if any were."""
    if kept is None:
        return None
    return BusinessHours(
        time_zone=kept["time_zone"],
        weekdays=frozenset(kept["weekdays"]),
        start=time.fromisoformat(kept["start"]),
        end=time.fromisoformat(kept["end"]),
    )


def _level_record(level: Level) -> Mapping[str, Any]:
    return _said(
        rule_id=level.rule_id.hex,
        rule_version=level.rule_version,
        name=level.name,
        reason=level.reason,
        flow=level.flow.value,
        auto_approve=level.auto_approve,
        allow_self_approval=level.allow_self_approval,
        on_expiry=level.on_expiry.value,
        business_hours=hours_record(level.business_hours) if level.business_hours else None,
    )


def _level_of(kept: Mapping[str, Any]) -> Level:
    return Level(
        rule_id=UUID(kept["rule_id"]),
        rule_version=kept["rule_version"],
        name=kept["name"],
        reason=kept["reason"],
        flow=Flow(kept["flow"]),
        auto_approve=kept.get("auto_approve", False),
        allow_self_approval=kept.get("allow_self_approval", False),
        on_expiry=OnExpiry(kept["on_expiry"]),
        business_hours=hours_of(kept.get("business_hours")),
    )


def _step_record(step: Step) -> Mapping[str, Any]:
    return _said(
        name=step.name,
        level=step.level,
        mode=step.mode.value,
        quorum=step.quorum,
        seats=[_seat_record(seat) for seat in step.seats],
        sla_hours=step.sla_hours,
        escalate_to=_seat_record(step.escalate_to) if step.escalate_to else None,
        state=step.state.value,
        start_time=_moment(step.start_time),
        remind_time=_moment(step.remind_time),
        due_time=_moment(step.due_time),
        reminded=step.reminded,
        escalated=step.escalated,
    )


def _step_of(kept: Mapping[str, Any]) -> Step:
    escalate_to = kept.get("escalate_to")
    return Step(
        name=kept["name"],
        level=kept.get("level", 0),
        mode=Mode(kept["mode"]),
        quorum=kept.get("quorum", 0),
        seats=tuple(_seat_of(seat) for seat in kept.get("seats", ())),
        sla_hours=kept["sla_hours"],
        escalate_to=_seat_of(escalate_to) if escalate_to else None,
        state=StepState(kept["state"]),
        start_time=_time(kept.get("start_time")),
        remind_time=_time(kept.get("remind_time")),
        due_time=_time(kept.get("due_time")),
        reminded=kept.get("reminded", False),
        escalated=kept.get("escalated", False),
    )


def _seat_record(seat: Seat) -> Mapping[str, Any]:
    return _said(
        user_id=seat.user_id,
        role=seat.role,
        why=seat.why,
        in_place_of=seat.in_place_of,
        extra=seat.extra,
        superior=seat.superior,
        decision=seat.decision.value if seat.decision else None,
        decided_by=seat.decided_by,
        on_behalf_of=seat.on_behalf_of,
        decide_time=_moment(seat.decide_time),
    )


def _seat_of(kept: Mapping[str, Any]) -> Seat:
    decision = kept.get("decision")
    return Seat(
        user_id=kept.get("user_id", ""),
        role=kept.get("role", ""),
        why=kept.get("why", ""),
        in_place_of=kept.get("in_place_of", ""),
        extra=kept.get("extra", False),
        superior=kept.get("superior", False),
        decision=Decision(decision) if decision else None,
        decided_by=kept.get("decided_by", ""),
        on_behalf_of=kept.get("on_behalf_of", ""),
        decide_time=_time(kept.get("decide_time")),
    )


def _said(**fields: Any) -> Mapping[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value}


def _moment(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _time(kept: str | None) -> datetime | None:
    return datetime.fromisoformat(kept) if kept else None
