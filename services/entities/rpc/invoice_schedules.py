"""InvoiceScheduleService: schedules of consolidated invoices and their runs."""

from billing.entities.v1 import invoice_schedule_service_pb2 as pb
from billing.entities.v1.invoice_schedule_pb2 import InvoiceRun, InvoiceSchedule

from contract.values import enum_or_none
from kit import ids
from kit.db import Database
from kit.origin import Call
from services.entities import convert, service, store
from services.entities.domain.invoice_schedules import InvoiceRunState
from serving.pages import Pages


class InvoiceScheduleServicer:
    """billing.entities.v1.InvoiceScheduleService."""

    service = pb.DESCRIPTOR.services_by_name["InvoiceScheduleService"]

    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def CreateInvoiceSchedule(self, request: pb.CreateInvoiceScheduleRequest, call: Call) -> InvoiceSchedule:
        draft = convert.invoice_schedules.draft_from_proto(request)
        async with self._db.write(call) as tx:
            schedule = await service.invoice_schedules.create(tx, draft)
            return await tx.answer(convert.invoice_schedules.to_proto(schedule))

    async def ListInvoiceSchedules(
        self, request: pb.ListInvoiceSchedulesRequest, call: Call
    ) -> pb.ListInvoiceSchedulesResponse:
        page, filters = self._pages.read(request, call), convert.invoice_schedules.filter_from_proto(request)
        async with self._db.read(call) as tx:
            listed = await store.invoice_schedules.list_page(tx, page, filters)
        schedules = map(convert.invoice_schedules.to_proto, listed.rows)
        return pb.ListInvoiceSchedulesResponse(invoice_schedules=schedules, next_page_token=listed.next_page_token)

    async def GetInvoiceSchedule(self, request: pb.GetInvoiceScheduleRequest, call: Call) -> InvoiceSchedule:
        async with self._db.read(call) as tx:
            schedule = await store.invoice_schedules.get(tx, ids.INVOICE_SCHEDULE.parse(request.id))
        return convert.invoice_schedules.to_proto(schedule)

    async def UpdateInvoiceSchedule(self, request: pb.UpdateInvoiceScheduleRequest, call: Call) -> InvoiceSchedule:
        schedule_id = ids.INVOICE_SCHEDULE.parse(request.id)
        changes = convert.invoice_schedules.changes_from_proto(request)
        async with self._db.write(call) as tx:
            schedule = await service.invoice_schedules.update(tx, schedule_id, changes, etag=request.etag)
            return await tx.answer(convert.invoice_schedules.to_proto(schedule))

    async def DeleteInvoiceSchedule(self, request: pb.DeleteInvoiceScheduleRequest, call: Call) -> InvoiceSchedule:
        schedule_id = ids.INVOICE_SCHEDULE.parse(request.id)
        async with self._db.write(call) as tx:
            schedule = await service.invoice_schedules.delete(tx, schedule_id, etag=request.etag)
            return await tx.answer(convert.invoice_schedules.to_proto(schedule))

    async def ListInvoiceRuns(self, request: pb.ListInvoiceRunsRequest, call: Call) -> pb.ListInvoiceRunsResponse:
        page, state = self._pages.read(request, call), enum_or_none(InvoiceRunState, InvoiceRun.State, request.state)
        async with self._db.read(call) as tx:
            schedule = await store.invoice_schedules.get(tx, ids.INVOICE_SCHEDULE.parse(request.id))
            listed = await store.invoice_schedules.list_runs(tx, page, schedule.id, state)
        runs = map(convert.invoice_schedules.run_to_proto, listed.rows)
        return pb.ListInvoiceRunsResponse(invoice_runs=runs, next_page_token=listed.next_page_token)
