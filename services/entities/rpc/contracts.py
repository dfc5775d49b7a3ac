"""gRPC servicer of contracts."""

from billing.entities.v1 import contract_service_pb2 as pb
from billing.entities.v1.contract_pb2 import Contract
from billing.entities.v1.renewal_pb2 import RenewalCheck

from kit import ids
from kit.db import Database
from kit.origin import Call
from services.entities import convert, service, store
from services.entities.clients import Approvals
from serving.pages import Pages


class ContractServicer:
    """billing.entities.v1.ContractService."""

    service = pb.DESCRIPTOR.services_by_name["ContractService"]

    def __init__(self, db: Database, pages: Pages, approvals: Approvals) -> None:
        self._db = db
        self._pages = pages
        self._approvals = approvals

    async def CreateContract(self, request: pb.CreateContractRequest, call: Call) -> Contract:
        entity_id, terms = ids.ENTITY.parse(request.entity_id, "entity_id"), convert.contracts.terms_from_proto(request)
        async with self._db.write(call) as tx:
            contract = await service.contracts.create(tx, entity_id, terms)
            return await tx.answer(convert.contracts.to_proto(contract))

    async def ListContracts(self, request: pb.ListContractsRequest, call: Call) -> pb.ListContractsResponse:
        page, filters = self._pages.read(request, call), convert.contracts.filter_from_proto(request)
        async with self._db.read(call) as tx:
            contracts = await store.contracts.list_page(tx, page, filters)
            details = await service.contracts.list_details(tx, contracts.rows)
        messages = [convert.contracts.to_proto(row, details[row.id]) for row in contracts.rows]
        return pb.ListContractsResponse(contracts=messages, next_page_token=contracts.next_page_token)

    async def GetContract(self, request: pb.GetContractRequest, call: Call) -> Contract:
        async with self._db.read(call) as tx:
            contract = await store.contracts.get(tx, ids.CONTRACT.parse(request.id))
            return convert.contracts.to_proto(contract, await service.contracts.get_details(tx, contract))

    async def UpdateContract(self, request: pb.UpdateContractRequest, call: Call) -> Contract:
        contract_id, changes = ids.CONTRACT.parse(request.id), convert.contracts.changes_from_proto(request)
        async with self._db.write(call) as tx:
            contract = await service.contracts.update(tx, contract_id, changes, etag=request.etag)
            return await tx.answer(convert.contracts.to_proto(contract))

    async def SubmitContract(self, request: pb.SubmitContractRequest, call: Call) -> Contract:
        contract_id = ids.CONTRACT.parse(request.id)
        async with self._db.read(call) as tx:
            need, checked_etag = await service.contracts.find_approval_need(tx, contract_id)
        needs_approval = await self._approvals.are_needed(call, need)
        async with self._db.write(call) as tx:
            contract = await service.contracts.submit(
                tx, contract_id, needs_approval=needs_approval, checked_etag=checked_etag, etag=request.etag
            )
            return await tx.answer(convert.contracts.to_proto(contract))

    async def SignContract(self, request: pb.SignContractRequest, call: Call) -> Contract:
        contract_id, draft = ids.CONTRACT.parse(request.id), convert.contracts.signature_from_proto(request)
        async with self._db.write(call) as tx:
            contract = await service.contracts.sign(tx, contract_id, draft, etag=request.etag)
            details = await service.contracts.get_details(tx, contract)
            return await tx.answer(convert.contracts.to_proto(contract, details))

    async def ActivateContract(self, request: pb.ActivateContractRequest, call: Call) -> Contract:
        async with self._db.write(call) as tx:
            contract = await service.contracts.activate(tx, ids.CONTRACT.parse(request.id), etag=request.etag)
            details = await service.contracts.get_details(tx, contract)
            return await tx.answer(convert.contracts.to_proto(contract, details))

    async def CheckRenewal(self, request: pb.CheckRenewalRequest, call: Call) -> RenewalCheck:
        async with self._db.read(call) as tx:
            assessment = await service.renewals.check(tx, ids.CONTRACT.parse(request.id))
        return convert.renewals.check_to_proto(assessment)

    async def RenewContract(self, request: pb.RenewContractRequest, call: Call) -> Contract:
        contract_id, renewal = ids.CONTRACT.parse(request.id), convert.renewals.request_from_proto(request)
        async with self._db.write(call) as tx:
            successor = await service.renewals.renew(tx, contract_id, renewal, etag=request.etag)
            return await tx.answer(convert.contracts.to_proto(successor))

    async def SuspendContract(self, request: pb.SuspendContractRequest, call: Call) -> Contract:
        contract_id = ids.CONTRACT.parse(request.id)
        async with self._db.write(call) as tx:
            contract = await service.contracts.suspend(tx, contract_id, reason=request.reason, etag=request.etag)
            details = await service.contracts.get_details(tx, contract)
            return await tx.answer(convert.contracts.to_proto(contract, details))

    async def ResumeContract(self, request: pb.ResumeContractRequest, call: Call) -> Contract:
        async with self._db.write(call) as tx:
            contract = await service.contracts.resume(tx, ids.CONTRACT.parse(request.id), etag=request.etag)
            details = await service.contracts.get_details(tx, contract)
            return await tx.answer(convert.contracts.to_proto(contract, details))

    async def TerminateContract(self, request: pb.TerminateContractRequest, call: Call) -> Contract:
        contract_id, termination = ids.CONTRACT.parse(request.id), convert.contracts.termination_from_proto(request)
        async with self._db.write(call) as tx:
            contract = await service.contracts.terminate(tx, contract_id, termination, etag=request.etag)
            details = await service.contracts.get_details(tx, contract)
            return await tx.answer(convert.contracts.to_proto(contract, details))

    async def WithdrawTermination(self, request: pb.WithdrawTerminationRequest, call: Call) -> Contract:
        contract_id = ids.CONTRACT.parse(request.id)
        async with self._db.write(call) as tx:
            contract = await service.contracts.withdraw_termination(tx, contract_id, etag=request.etag)
            details = await service.contracts.get_details(tx, contract)
            return await tx.answer(convert.contracts.to_proto(contract, details))

    async def SummarizeContracts(
        self, request: pb.SummarizeContractsRequest, call: Call
    ) -> pb.SummarizeContractsResponse:
        entity_ids = [ids.ENTITY.parse(id, "entity_ids") for id in request.entity_ids]
        async with self._db.read(call) as tx:
            totals = await store.contracts.summarize(tx, entity_ids)
        return pb.SummarizeContractsResponse(summaries=map(convert.contracts.totals_to_proto, totals))
