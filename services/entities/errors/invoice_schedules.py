"""Errors of invoice schedules."""

from uuid import UUID

from kit import ids
from kit.errors import AlreadyExists, FailedPrecondition
from kit.resources import ResourceNotFound


class InvoiceScheduleNotFound(ResourceNotFound):
    reason = "INVOICE_SCHEDULE_NOT_FOUND"
    kind = ids.INVOICE_SCHEDULE


class InvoiceScheduleExists(AlreadyExists):
    reason = "INVOICE_SCHEDULE_EXISTS"

    def __init__(self, entity_id: UUID) -> None:
        text = ids.ENTITY.format(entity_id)
        super().__init__(
            f"The entity {text} has an invoice schedule already; change it, or delete it first.", entity_id=text
        )


class InvoiceScheduleDeleted(FailedPrecondition):
    reason = "INVOICE_SCHEDULE_DELETED"

    def __init__(self, schedule_id: UUID) -> None:
        text = ids.INVOICE_SCHEDULE.format(schedule_id)
        super().__init__(f"The invoice schedule {text} is deleted; create another one.", invoice_schedule_id=text)
