"""Builds the events that the approvals service publishes, and streams the published ones."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from datetime import datetime
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
    SubmissionRefused,
)
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from nats.aio.msg import Msg

from contract.values import money_to_proto, time_to_proto
from eventing.bus import EventBus
from kit import ids
from kit.errors import BillingError
from kit.telemetry import log
from services.approvals.domain.approvals import ApprovalDraft, ApprovalState
from services.approvals.domain.workflows import Step, WorkflowChange
from services.approvals.models.approvals import ApprovalRow

EVENTS: Final = {
    kind.DESCRIPTOR.name: kind
    for kind in (
        ApprovalRequested, ApprovalStepStarted, ApprovalReminded, ApprovalEscalated, ApprovalChangesRequested,
        ApprovalApproved, ApprovalRejected, ApprovalCancelled, ApprovalExpired,
    )
}  # fmt: skip
"""All events about requests, by name."""


def approval_facts(row: ApprovalRow) -> ApprovalFacts:
    """Return the fields of a request that every event contains."""
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
    """Return the event of a submission or resubmission."""
    return ApprovalRequested(approval=approval_facts(row))


def submission_refused(draft: ApprovalDraft, error: BillingError) -> SubmissionRefused:
    """Return the event that no request could be created for a subject of another service."""
    return SubmissionRefused(
        subject_type=draft.subject_type,
        subject_id=draft.subject_id,
        entity_id=ids.ENTITY.format_optional(draft.entity_id),
        reason=error.reason,
        message=error.message,
    )


def workflow_changed(row: ApprovalRow, change: WorkflowChange) -> Iterator[Message]:
    """Return the events of a change: its outcome, or the steps that started, were reminded or were escalated."""
    facts = approval_facts(row)
    if change.outcome:
        yield from _outcome(facts, row)
        return
    for number in change.started:
        step = change.workflow.step(number)
        yield _with_pending(ApprovalStepStarted(approval=facts, step=number, step_name=step.name), step)
    for number in change.reminded:
        yield _with_pending(ApprovalReminded(approval=facts, step=number), change.workflow.step(number))
    for number, slot in change.escalated:
        due_time = change.workflow.step(number).due_time
        yield ApprovalEscalated(
            approval=facts,
            step=number,
            user_id=slot.user_id,
            role=slot.role,
            due_time=time_to_proto(due_time) if due_time else None,
        )


def _with_pending(event: ApprovalStepStarted | ApprovalReminded, step: Step) -> Message:
    """Return the event with the users and roles that have not decided, and the due time of the step."""
    pending = [slot for slot in step.slots if slot.decision is None]
    event.user_ids.extend(slot.user_id for slot in pending if slot.user_id)
    event.roles.extend(slot.role for slot in pending if slot.role)
    if step.due_time:
        event.due_time.CopyFrom(time_to_proto(step.due_time))
    return event


def _outcome(facts: ApprovalFacts, row: ApprovalRow) -> Iterator[Message]:
    decided_by, comment = row.decided_by, row.decision_comment
    match row.state:
        case ApprovalState.APPROVED:
            yield ApprovalApproved(approval=facts, decided_by=decided_by)
        case ApprovalState.REJECTED:
            yield ApprovalRejected(approval=facts, decided_by=decided_by, comment=comment)
        case ApprovalState.CHANGES_REQUESTED:
            yield ApprovalChangesRequested(approval=facts, decided_by=decided_by, comment=comment)
        case ApprovalState.CANCELLED:
            yield ApprovalCancelled(approval=facts, decided_by=decided_by, comment=comment)
        case ApprovalState.EXPIRED:
            yield ApprovalExpired(approval=facts)


async def follow(
    bus: EventBus, tenant_id: UUID, *, after: int | None, approval_id: str
) -> AsyncGenerator[ApprovalEvent, None]:
    """Yield the published events of a tenant's requests after a position in the stream, each once, without end.

    With `approval_id`, only those of one request. If `after` is None, the first message has only the current position.
    Raises Unavailable if the position can't be determined.
    """
    if after is None:
        after = await bus.last_sequence()
        yield ApprovalEvent(event_id=str(after))
    package = ApprovalRequested.DESCRIPTOR.file.package
    async with aclosing(bus.subscribe_after(f"{package}.*.{tenant_id.hex}", after)) as messages:
        async for sequence, message in messages:
            event_type = message.subject.split(".")[-2]
            if event_type == SubmissionRefused.DESCRIPTOR.name:  # about no request
                continue
            try:
                event = json_format.Parse(message.data, EVENTS[event_type](), ignore_unknown_fields=True)
            except (KeyError, json_format.ParseError) as error:
                log.warning("unknown approval event skipped", sequence=sequence, error=error)
                continue
            facts: ApprovalFacts = getattr(event, "approval")  # noqa: B009 - every event has it
            if approval_id in {"", facts.approval_id}:
                yield ApprovalEvent(
                    event_id=str(sequence),
                    event_type=event_type,
                    approval=facts,
                    event_time=_event_time(message),
                )


def _event_time(message: Msg) -> Timestamp | None:
    """Return when the event was appended to the outbox; None if the message has no valid time."""
    try:
        return time_to_proto(datetime.fromisoformat((message.headers or {}).get("ce-time", "")))
    except ValueError:
        return None
