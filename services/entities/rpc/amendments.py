"""The gRPC side of amendments."""

from contextlib import suppress
from uuid import UUID

from billing.entities.v1 import amendment_service_pb2 as amendments_pb
from billing.entities.v1.amendment_pb2 import Amendment

from kit import ids
from kit.db import Database
from kit.origin import Call
from services.entities import convert, service, store
from services.entities.clients import Approvals
from services.entities.domain.amendments import AmendmentState, AmendmentType
from services.entities.service.amendments import AmendmentDraft
from serving.pages import Pages


class _OnlyTried(Exception):
    """Ends a transaction of which nothing is to stay."""


class AmendmentServicer:
    """billing.entities.v1.AmendmentService."""

    service = amendments_pb.DESCRIPTOR.services_by_name["AmendmentService"]

    def __init__(self, db: Database, pages: Pages, approvals: Approvals) -> None:
        self._db = db
        self._pages = pages
        self._approvals = approvals

    async def CreateAmendment(self, request: amendments_pb.CreateAmendmentRequest, call: Call) -> Amendment:
        contract_id, draft = ids.CONTRACT.parse(request.id), convert.amendments.amendment_draft_from_proto(request)
        to_approve = not request.validate_only and await self._is_to_be_approved(call, contract_id, draft)
        with suppress(_OnlyTried):
            async with self._db.write(call) as tx:
                amendment = await service.amendments.create_amendment(
                    tx, contract_id, draft, to_approve=to_approve, etag=request.etag
                )
                reply = convert.amendments.amendment_to_proto(amendment, tried=request.validate_only)
                if request.validate_only:
                    raise _OnlyTried
                return await tx.answer(reply)
        return reply

    async def _is_to_be_approved(self, call: Call, contract_id: UUID, draft: AmendmentDraft) -> bool:
        async with self._db.read(call) as tx:
            need = await service.amendments.find_need(tx, contract_id, draft)
        return await self._approvals.are_needed(call, need)

    async def ListAmendments(
        self, request: amendments_pb.ListAmendmentsRequest, call: Call
    ) -> amendments_pb.ListAmendmentsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            contract = await store.contracts.get_contract(tx, ids.CONTRACT.parse(request.id))
            found = await store.amendments.list_amendments(
                tx,
                page,
                contract.id,
                state=AmendmentState(Amendment.State.Name(request.state)) if request.state else None,
                amendment_type=AmendmentType(Amendment.Type.Name(request.amendment_type))
                if request.amendment_type
                else None,
            )
        listed = [convert.amendments.amendment_to_proto(row, listed=True) for row in found.rows]
        return amendments_pb.ListAmendmentsResponse(amendments=listed, next_page_token=found.next_page_token)

    async def GetAmendment(self, request: amendments_pb.GetAmendmentRequest, call: Call) -> Amendment:
        contract_id, amendment_id = ids.CONTRACT.parse(request.id), _amendment_id(request.amendment_id)
        async with self._db.read(call) as tx:
            contract = await store.contracts.get_contract(tx, contract_id)
            return convert.amendments.amendment_to_proto(
                await store.amendments.get_amendment(tx, contract.id, amendment_id)
            )

    async def ApproveAmendment(self, request: amendments_pb.ApproveAmendmentRequest, call: Call) -> Amendment:
        contract_id, amendment_id = ids.CONTRACT.parse(request.id), _amendment_id(request.amendment_id)
        async with self._db.write(call) as tx:
            amendment = await service.amendments.approve_amendment(tx, contract_id, amendment_id, etag=request.etag)
            return await tx.answer(convert.amendments.amendment_to_proto(amendment))

    async def RejectAmendment(self, request: amendments_pb.RejectAmendmentRequest, call: Call) -> Amendment:
        contract_id, amendment_id = ids.CONTRACT.parse(request.id), _amendment_id(request.amendment_id)
        async with self._db.write(call) as tx:
            amendment = await service.amendments.reject_amendment(
                tx, contract_id, amendment_id, reason=request.reason, etag=request.etag
            )
            return await tx.answer(convert.amendments.amendment_to_proto(amendment))

    async def ApplyAmendment(self, request: amendments_pb.ApplyAmendmentRequest, call: Call) -> Amendment:
        contract_id, amendment_id = ids.CONTRACT.parse(request.id), _amendment_id(request.amendment_id)
        async with self._db.write(call) as tx:
            amendment = await service.amendments.apply_amendment(tx, contract_id, amendment_id, etag=request.etag)
            return await tx.answer(convert.amendments.amendment_to_proto(amendment))


def _amendment_id(text: str) -> UUID:
    return ids.AMENDMENT.parse(text, "amendment_id")
