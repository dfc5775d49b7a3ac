"""What the approvals service says."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Final
from uuid import UUID

from billing.approvals.v1.approval_pb2 import Approval
from billing.approvals.v1.approval_service_pb2 import ApprovalEvent
from billing.approvals.v1.events_pb2 import (
    ApprovalApproved,
    ApprovalCancelled,
    ApprovalChangesRequested,
    ApprovalEscalated,
    ApprovalExpired,
    ApprovalFacts,
    ApprovalRejected,
    ApprovalReminded,
    ApprovalRequested,
    ApprovalStepStarted,
)
from google.protobuf import json_format
from google.protobuf.message import Message

from contract.values import money_to_proto, time_to_proto
from eventing.bus import EventBus
from kit import ids
from kit.telemetry import log
from services.approvals.domain.lives import ApprovalState
from services.approvals.domain.seats import Change, Panel, Step
from services.approvals.models.requests import ApprovalRow

EVENTS: Final = {
    kind.DESCRIPTOR.name: kind
    for kind in (
        ApprovalRequested, ApprovalStepStarted, ApprovalReminded, ApprovalEscalated, ApprovalChangesRequested,
        ApprovalApproved, ApprovalRejected, ApprovalCancelled, ApprovalExpired,
    )
}  # fmt: skip
"""All that is said of requests, by name."""


def facts_of(row: ApprovalRow) -> ApprovalFacts:
    """What every event says of a request."""
    return ApprovalFacts(
        approval_id=ids.APPROVAL.format(row.id),
        round=row.round,
        request_type=Approval.Type.Value(row.request_type),
        title=row.title,
        requester=row.requester,
        entity_id=ids.ENTITY.format(row.entity_id),
        department_id=ids.DEPARTMENT.format_optional(row.department_id),
        budget_id=ids.BUDGET.format_optional(row.budget_id),
        hold_id=ids.HOLD.format_optional(row.hold_id),
        amount=money_to_proto(row.money) if row.money else None,
        subject_type=row.subject_type,
        subject_id=row.subject_id,
    )


def approval_requested(row: ApprovalRow) -> ApprovalRequested:
    """Somebody asks."""
    return ApprovalRequested(approval=facts_of(row))


def of_change(row: ApprovalRow, panel: Panel, change: Change) -> Iterator[Message]:
    """What is said when the panel of a request has changed: to whom it turns now, and what came of it."""
    facts = facts_of(row)
    if change.outcome:
        yield from _outcome(facts, row)
        return
    for number in change.started:
        step = panel.steps[number - 1]
        started = ApprovalStepStarted(approval=facts, step=number, step_name=step.name)
        yield _asking(started, step)
    for number in change.reminded:
        yield _asking(ApprovalReminded(approval=facts, step=number), panel.steps[number - 1])
    for number, seat in change.escalated:
        due = panel.steps[number - 1].due_time
        yield ApprovalEscalated(
            approval=facts,
            step=number,
            user_id=seat.user_id,
            role=seat.role,
            due_time=time_to_proto(due) if due else None,
        )


def _asking(said: ApprovalStepStarted | ApprovalReminded, step: Step) -> Message:
    """The event with those who are asked and have not decided, and until when."""
    waiting = [seat for seat in step.seats if seat.decision is None]
    said.user_ids.extend(seat.user_id for seat in waiting if seat.user_id)
    said.roles.extend(seat.role for seat in waiting if seat.role)
    if step.due_time:
        said.due_time.CopyFrom(time_to_proto(step.due_time))
    return said


def _outcome(facts: ApprovalFacts, row: ApprovalRow) -> Iterator[Message]:
    by, comment = row.decided_by, row.decision_comment
    match row.state:
        case ApprovalState.APPROVED:
            yield ApprovalApproved(approval=facts, decided_by=by)
        case ApprovalState.REJECTED:
            yield ApprovalRejected(approval=facts, decided_by=by, comment=comment)
        case ApprovalState.CHANGES_REQUESTED:
            yield ApprovalChangesRequested(approval=facts, decided_by=by, comment=comment)
        case ApprovalState.CANCELLED:
            yield ApprovalCancelled(approval=facts, decided_by=by, comment=comment)
        case ApprovalState.EXPIRED:
            yield ApprovalExpired(approval=facts)


async def happened(
    bus: EventBus, tenant_id: UUID, *, after: int | None, approval_id: str
) -> AsyncGenerator[ApprovalEvent, None]:
    """What happens to the requests of a tenant, or to one, after an event, each once, without end.

    Where it is to begin with the next event, one without facts comes first. Raises Unavailable where it can't be found
    out where that is.
    """
    if after is None:
        after = await bus.last_sequence()
        yield ApprovalEvent(event_id=str(after))
    package = ApprovalRequested.DESCRIPTOR.file.package
    async with aclosing(bus.subscribe_after(f"{package}.*.{tenant_id.hex}", after)) as followed:
        async for sequence, message in followed:
            name = message.subject.split(".")[-2]
            try:
                said = json_format.Parse(message.data, EVENTS[name](), ignore_unknown_fields=True)
            except (KeyError, json_format.ParseError) as error:
                log.warning("this is no event of a request", sequence=sequence, error=repr(error)[:300])
                continue
            facts: ApprovalFacts = getattr(said, "approval")  # noqa: B009 - all of them have it
            if approval_id in {"", facts.approval_id}:
                yield ApprovalEvent(event_id=str(sequence), event_type=name, approval=facts)
