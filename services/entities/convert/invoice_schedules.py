"""Conversion of invoice schedules and their runs."""

from collections.abc import Mapping
from typing import Any, Final

from billing.entities.v1 import invoice_schedule_service_pb2 as pb
from billing.entities.v1.invoice_pb2 import Invoice
from billing.entities.v1.invoice_schedule_pb2 import InvoiceRun, InvoiceRunProblem, InvoiceSchedule

from contract.values import enum_or_none, time_to_proto
from kit import ids
from services.entities import convert
from services.entities.domain.billing_documents import RatePolicy
from services.entities.domain.invoice_schedules import (
    TIME_OF_DAY_DEFAULT,
    InvoiceFrequency,
    InvoiceRunAction,
    InvoiceScheduleDraft,
    InvoiceScheduleFilter,
)
from services.entities.models.invoice_schedules import InvoiceRunRow, InvoiceScheduleRow


def to_proto(row: InvoiceScheduleRow) -> InvoiceSchedule:
    """Convert a schedule."""
    period = row.next_period
    return InvoiceSchedule(
        id=ids.INVOICE_SCHEDULE.format(row.id),
        entity_id=ids.ENTITY.format(row.entity_id),
        billing_profile_id=ids.BILLING_PROFILE.format_optional(row.billing_profile_id),
        currency_code=row.currency_code,
        rate_policy=Invoice.RatePolicy.Value(row.rate_policy),
        frequency=InvoiceSchedule.Frequency.Value(row.frequency),
        day_of_month=row.day_of_month,
        time_of_day=row.time_of_day,
        time_zone=row.time_zone,
        action=InvoiceSchedule.Action.Value(row.action),
        require_einvoice=row.require_einvoice,
        active=row.active,
        next_period_start_date=period.start.isoformat(),
        next_period_end_date=period.end.isoformat(),
        next_run_time=time_to_proto(row.next_run_time) if row.active else None,
        delete_time=time_to_proto(row.delete_time) if row.delete_time else None,
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def run_to_proto(row: InvoiceRunRow) -> InvoiceRun:
    """Convert a run."""
    return InvoiceRun(
        id=ids.INVOICE_RUN.format(row.id),
        schedule_id=ids.INVOICE_SCHEDULE.format(row.schedule_id),
        entity_id=ids.ENTITY.format(row.entity_id),
        period_start_date=row.period_start.isoformat(),
        period_end_date=row.period_end.isoformat(),
        due_time=time_to_proto(row.due_time),
        state=InvoiceRun.State.Value(row.state),
        attempts=row.attempts,
        attempt_time=time_to_proto(row.attempt_time),
        retry_time=time_to_proto(row.retry_time) if row.retry_time else None,
        invoice_id=ids.INVOICE.format_optional(row.invoice_id),
        invoice_number=row.invoice_number,
        invoice_state=Invoice.State.Value(row.invoice_state) if row.invoice_state else Invoice.STATE_UNSPECIFIED,
        problems=[InvoiceRunProblem(reason=each.reason, message=each.message) for each in row.problems],
    )


def draft_from_proto(request: pb.CreateInvoiceScheduleRequest) -> InvoiceScheduleDraft:
    """Parse CreateInvoiceScheduleRequest."""
    return InvoiceScheduleDraft(
        entity_id=ids.ENTITY.parse(request.entity_id, "entity_id"),
        billing_profile_id=ids.BILLING_PROFILE.parse_optional(request.billing_profile_id, "billing_profile_id"),
        currency_code=request.currency_code,
        rate_policy=enum_or_none(RatePolicy, Invoice.RatePolicy, request.rate_policy) or RatePolicy.PERIOD_END,
        frequency=InvoiceFrequency(InvoiceSchedule.Frequency.Name(request.frequency)),
        day_of_month=request.day_of_month,
        time_of_day=request.time_of_day or TIME_OF_DAY_DEFAULT,
        time_zone=request.time_zone,
        action=InvoiceRunAction(InvoiceSchedule.Action.Name(request.action)),
        require_einvoice=request.require_einvoice,
        active=request.active if request.HasField("active") else True,
    )


def filter_from_proto(request: pb.ListInvoiceSchedulesRequest) -> InvoiceScheduleFilter:
    """Return the filters of ListInvoiceSchedulesRequest."""
    return InvoiceScheduleFilter(
        entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
        active=request.active if request.HasField("active") else None,
    )


_SCHEDULE_CLEARED: Final[Mapping[str, Any]] = {
    "billing_profile_id": "",
    "currency_code": "",
    "rate_policy": RatePolicy.PERIOD_END,
    "time_of_day": TIME_OF_DAY_DEFAULT,
    "require_einvoice": False,
    "active": False,
}
"""Value of each optional field after it is cleared; the others can't be cleared."""


def changes_from_proto(request: pb.UpdateInvoiceScheduleRequest) -> Mapping[str, Any]:
    """Return the columns that UpdateInvoiceScheduleRequest changes, with their new values. Raises InvalidFields."""
    changes = convert.changes.changed_columns(request, _SCHEDULE_CLEARED)
    if "billing_profile_id" in changes:
        profile = changes["billing_profile_id"]
        changes["billing_profile_id"] = ids.BILLING_PROFILE.parse_optional(profile, "billing_profile_id")
    if changes.get("rate_policy") and request.rate_policy:
        changes["rate_policy"] = RatePolicy(Invoice.RatePolicy.Name(request.rate_policy))
    if "action" in changes:
        changes["action"] = InvoiceRunAction(InvoiceSchedule.Action.Name(request.action))
    return changes
