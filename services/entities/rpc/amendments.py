"""gRPC servicer of amendments."""

from uuid import UUID

from billing.entities.v1 import amendment_service_pb2 as pb
from billing.entities.v1.amendment_pb2 import Amendment

from kit import ids
from kit.db import Database
from kit.origin import Call
from services.entities import convert, service, store
from services.entities.clients import Approvals
from services.entities.domain.amendments import AmendmentDraft
from services.entities.domain.approval_needs import ApprovalCheck
from serving.pages import Pages


class AmendmentServicer:
    """billing.entities.v1.AmendmentService."""

    service = pb.DESCRIPTOR.services_by_name["AmendmentService"]

    def __init__(self, db: Database, pages: Pages, approvals: Approvals) -> None:
        self._db = db
        self._pages = pages
        self._approvals = approvals

    async def CreateAmendment(self, request: pb.CreateAmendmentRequest, call: Call) -> Amendment:
        contract_id, draft = ids.CONTRACT.parse(request.id), convert.amendments.draft_from_proto(request)
        dry_run = request.validate_only
        approval = None if dry_run else await self._check_approval(call, contract_id, draft)
        async with self._db.write(call, dry_run=dry_run) as tx:
            amendment = await service.amendments.create(tx, contract_id, draft, approval=approval, etag=request.etag)
            return await tx.answer(convert.amendments.to_proto(amendment, dry_run=dry_run))

    async def _check_approval(self, call: Call, contract_id: UUID, draft: AmendmentDraft) -> ApprovalCheck:
        async with self._db.read(call) as tx:
            need = await service.amendments.find_approval_need(tx, contract_id, draft)
        return ApprovalCheck(need, await self._approvals.are_needed(call, need))

    async def ListAmendments(self, request: pb.ListAmendmentsRequest, call: Call) -> pb.ListAmendmentsResponse:
        page, filters = self._pages.read(request, call), convert.amendments.filter_from_proto(request)
        async with self._db.read(call) as tx:
            contract = await store.contracts.get(tx, ids.CONTRACT.parse(request.id))
            amendments = await store.amendments.list_page(tx, page, contract.id, filters)
        messages = [convert.amendments.to_proto(row, include_fees=False) for row in amendments.rows]
        return pb.ListAmendmentsResponse(amendments=messages, next_page_token=amendments.next_page_token)

    async def GetAmendment(self, request: pb.GetAmendmentRequest, call: Call) -> Amendment:
        contract_id, amendment_id = ids.CONTRACT.parse(request.id), _amendment_id(request.amendment_id)
        async with self._db.read(call) as tx:
            contract = await store.contracts.get(tx, contract_id)
            return convert.amendments.to_proto(await store.amendments.get(tx, contract.id, amendment_id))

    async def ApproveAmendment(self, request: pb.ApproveAmendmentRequest, call: Call) -> Amendment:
        contract_id, amendment_id = ids.CONTRACT.parse(request.id), _amendment_id(request.amendment_id)
        async with self._db.write(call) as tx:
            amendment = await service.amendments.approve(tx, contract_id, amendment_id, etag=request.etag)
            return await tx.answer(convert.amendments.to_proto(amendment))

    async def RejectAmendment(self, request: pb.RejectAmendmentRequest, call: Call) -> Amendment:
        contract_id, amendment_id = ids.CONTRACT.parse(request.id), _amendment_id(request.amendment_id)
        async with self._db.write(call) as tx:
            amendment = await service.amendments.reject(
                tx, contract_id, amendment_id, reason=request.reason, etag=request.etag
            )
            return await tx.answer(convert.amendments.to_proto(amendment))

    async def ApplyAmendment(self, request: pb.ApplyAmendmentRequest, call: Call) -> Amendment:
        contract_id, amendment_id = ids.CONTRACT.parse(request.id), _amendment_id(request.amendment_id)
        async with self._db.write(call) as tx:
            amendment = await service.amendments.apply(tx, contract_id, amendment_id, etag=request.etag)
            return await tx.answer(convert.amendments.to_proto(amendment))


def _amendment_id(text: str) -> UUID:
    return ids.AMENDMENT.parse(text, "amendment_id")
