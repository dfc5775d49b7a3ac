"""Test driver for invoice schedules: calls their RPCs, makes runs due, and runs them."""

from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
from billing.entities.v1 import invoice_schedule_service_pb2 as pb
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.invoice_schedule_pb2 import InvoiceRun, InvoiceSchedule

from kit import ids
from tests.harness.callers import Caller
from tests.harness.services import Entities

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


class InvoiceScheduleApi:
    """Calls InvoiceScheduleService on behalf of a caller."""

    def __init__(self, caller: Caller, stubs: Entities) -> None:
        self.caller = caller
        self.stub = stubs.invoice_schedules

    async def create(self, entity: Entity, **fields: Any) -> InvoiceSchedule:
        """Monthly drafts, on the first day at midnight UTC."""
        required = {
            "entity_id": entity.id, "frequency": InvoiceSchedule.MONTHLY, "day_of_month": 1, "time_of_day": "00:00",
            "time_zone": "UTC", "action": InvoiceSchedule.DRAFT,
        }  # fmt: skip
        request = pb.CreateInvoiceScheduleRequest(**{**required, **fields})
        return await self.caller.call(self.stub.CreateInvoiceSchedule, request)

    async def get(self, schedule: InvoiceSchedule) -> InvoiceSchedule:
        return await self.caller.call(self.stub.GetInvoiceSchedule, pb.GetInvoiceScheduleRequest(id=schedule.id))

    async def ids(self, **filters: Any) -> list[str]:
        """The ids of all schedules that match."""
        request = pb.ListInvoiceSchedulesRequest(page_size=1000, **filters)
        response = await self.caller.call(self.stub.ListInvoiceSchedules, request)
        return [schedule.id for schedule in response.invoice_schedules]

    async def update(self, schedule: InvoiceSchedule, *paths: str, **fields: Any) -> InvoiceSchedule:
        """Change the fields that are set, or those in `paths`."""
        request = pb.UpdateInvoiceScheduleRequest(id=schedule.id, **fields)
        request.update_mask.paths.extend(paths)
        return await self.caller.call(self.stub.UpdateInvoiceSchedule, request)

    async def delete(self, schedule: InvoiceSchedule, **fields: Any) -> InvoiceSchedule:
        request = pb.DeleteInvoiceScheduleRequest(id=schedule.id, **fields)
        return await self.caller.call(self.stub.DeleteInvoiceSchedule, request)

    async def runs(self, schedule: InvoiceSchedule, **filters: Any) -> list[InvoiceRun]:
        """All runs that match, newest first."""
        request = pb.ListInvoiceRunsRequest(id=schedule.id, page_size=1000, **filters)
        return list((await self.caller.call(self.stub.ListInvoiceRuns, request)).invoice_runs)


def schedule_id(schedule: InvoiceSchedule) -> UUID:
    return ids.INVOICE_SCHEDULE.parse(schedule.id)


async def let_months_pass(admin: Admin, schedule: InvoiceSchedule, months: int = 1) -> None:
    """Move the next period back, and make its timer due: as if no run had been made for that long."""
    await admin.execute(
        "update entities.invoice_schedules set next_period_end = next_period_end - make_interval(months => $2)"
        " where id = $1",
        schedule_id(schedule),
        months,
    )
    await admin.execute("update entities.timers set due_time = now() where resource_id = $1", schedule_id(schedule))


async def timers_of(admin: Admin, schedule: InvoiceSchedule) -> list[Any]:
    """The due times of the timers of the schedule."""
    query = "select due_time from entities.timers where resource_id = $1 and kind = 'invoice-run'"
    return [row["due_time"] for row in await admin.fetch(query, schedule_id(schedule))]
