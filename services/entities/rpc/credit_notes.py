"""gRPC servicer of credit notes."""

from billing.entities.v1 import credit_note_service_pb2 as pb
from billing.entities.v1.credit_note_pb2 import CreditNote

from kit import ids
from kit.db import Database
from kit.origin import Call
from services.entities import convert, service, store
from serving.pages import Pages


class CreditNoteServicer:
    """billing.entities.v1.CreditNoteService."""

    service = pb.DESCRIPTOR.services_by_name["CreditNoteService"]

    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def CreateCreditNote(self, request: pb.CreateCreditNoteRequest, call: Call) -> CreditNote:
        draft, dry_run = convert.credit_notes.request_from_proto(request), request.validate_only
        async with self._db.write(call, dry_run=dry_run) as tx:
            details = await service.credit_notes.create(tx, draft, dry_run=dry_run)
            return await tx.answer(convert.credit_notes.details_to_proto(details, dry_run=dry_run))

    async def ListCreditNotes(self, request: pb.ListCreditNotesRequest, call: Call) -> pb.ListCreditNotesResponse:
        page, filters = self._pages.read(request, call), convert.credit_notes.filter_from_proto(request)
        async with self._db.read(call) as tx:
            notes = await store.credit_notes.list_page(tx, page, filters)
        messages = map(convert.credit_notes.to_proto, notes.rows)
        return pb.ListCreditNotesResponse(credit_notes=messages, next_page_token=notes.next_page_token)

    async def GetCreditNote(self, request: pb.GetCreditNoteRequest, call: Call) -> CreditNote:
        async with self._db.read(call) as tx:
            note = await store.credit_notes.get(tx, ids.CREDIT_NOTE.parse(request.id))
            return convert.credit_notes.details_to_proto(await service.credit_notes.get_details(tx, note))

    async def ListCreditNoteLines(
        self, request: pb.ListCreditNoteLinesRequest, call: Call
    ) -> pb.ListCreditNoteLinesResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            note = await store.credit_notes.get(tx, ids.CREDIT_NOTE.parse(request.id))
            rows = await store.credit_notes.list_lines(tx, page, note.id)
            lines = await store.credit_notes.with_invoice_lines(tx, rows.rows)
        messages = [convert.credit_notes.line_to_proto(line, note.currency_code) for line in lines]
        return pb.ListCreditNoteLinesResponse(lines=messages, next_page_token=rows.next_page_token)

    async def RetryRefund(self, request: pb.RetryRefundRequest, call: Call) -> CreditNote:
        async with self._db.write(call) as tx:
            note = await service.refunds.retry(tx, ids.CREDIT_NOTE.parse(request.id))
            details = await service.credit_notes.get_details(tx, note)
            return await tx.answer(convert.credit_notes.details_to_proto(details))

    async def CreateDisputeCreditNote(self, request: pb.CreateDisputeCreditNoteRequest, call: Call) -> CreditNote:
        draft = convert.credit_notes.dispute_request_from_proto(request)
        async with self._db.write(call) as tx:
            details = await service.credit_notes.create(tx, draft)
            return await tx.answer(convert.credit_notes.details_to_proto(details))
