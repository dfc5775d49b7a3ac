"""The gRPC side of contracts."""

from billing.entities.v1 import contract_service_pb2 as contracts_pb
from billing.entities.v1.contract_pb2 import Contract
from billing.entities.v1.renewal_pb2 import RenewalCheck

from contract.values import date_from_text
from kit import ids
from kit.db import Database
from kit.origin import Call
from services.entities import convert, service, store
from services.entities.clients import Approvals
from services.entities.domain.contracts import ContractState, ContractType
from services.entities.service.contracts import NO_ANNEX
from serving.pages import Pages


class ContractServicer:
    """billing.entities.v1.ContractService."""

    service = contracts_pb.DESCRIPTOR.services_by_name["ContractService"]

    def __init__(self, db: Database, pages: Pages, approvals: Approvals) -> None:
        self._db = db
        self._pages = pages
        self._approvals = approvals

    async def CreateContract(self, request: contracts_pb.CreateContractRequest, call: Call) -> Contract:
        entity_id, terms = (
            ids.ENTITY.parse(request.entity_id, "entity_id"),
            convert.contracts.contract_terms_from_proto(request),
        )
        async with self._db.write(call) as tx:
            contract = await service.contracts.create_contract(tx, entity_id, terms)
            return await tx.answer(convert.contracts.contract_to_proto(contract, NO_ANNEX))

    async def ListContracts(
        self, request: contracts_pb.ListContractsRequest, call: Call
    ) -> contracts_pb.ListContractsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await store.contracts.list_contracts(
                tx,
                page,
                entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
                state=ContractState(Contract.State.Name(request.state)) if request.state else None,
                contract_type=ContractType(Contract.Type.Name(request.contract_type))
                if request.contract_type
                else None,
                ends_from=date_from_text(request.ends_from_date),
                ends_before=date_from_text(request.ends_before_date),
                text=request.q,
            )
            annexes = await service.contracts.find_annexes(tx, found.rows)
        listed = [convert.contracts.contract_to_proto(row, annexes[row.id]) for row in found.rows]
        return contracts_pb.ListContractsResponse(contracts=listed, next_page_token=found.next_page_token)

    async def GetContract(self, request: contracts_pb.GetContractRequest, call: Call) -> Contract:
        async with self._db.read(call) as tx:
            contract = await store.contracts.get_contract(tx, ids.CONTRACT.parse(request.id))
            return convert.contracts.contract_to_proto(contract, await service.contracts.get_annex(tx, contract))

    async def UpdateContract(self, request: contracts_pb.UpdateContractRequest, call: Call) -> Contract:
        contract_id, changes = ids.CONTRACT.parse(request.id), convert.contracts.contract_changes_from_proto(request)
        async with self._db.write(call) as tx:
            contract = await service.contracts.update_contract(tx, contract_id, changes, etag=request.etag)
            return await tx.answer(convert.contracts.contract_to_proto(contract, NO_ANNEX))

    async def SubmitContract(self, request: contracts_pb.SubmitContractRequest, call: Call) -> Contract:
        contract_id = ids.CONTRACT.parse(request.id)
        async with self._db.read(call) as tx:
            need, seen = await service.contracts.find_need(tx, contract_id)
        to_approve = await self._approvals.are_needed(call, need)
        async with self._db.write(call) as tx:
            contract = await service.contracts.submit_contract(
                tx, contract_id, to_approve=to_approve, seen=seen, etag=request.etag
            )
            return await tx.answer(convert.contracts.contract_to_proto(contract, NO_ANNEX))

    async def SignContract(self, request: contracts_pb.SignContractRequest, call: Call) -> Contract:
        contract_id, signature = ids.CONTRACT.parse(request.id), convert.contracts.signature_from_proto(request)
        async with self._db.write(call) as tx:
            contract = await service.contracts.sign_contract(tx, contract_id, signature, etag=request.etag)
            return await tx.answer(
                convert.contracts.contract_to_proto(contract, await service.contracts.get_annex(tx, contract))
            )

    async def ActivateContract(self, request: contracts_pb.ActivateContractRequest, call: Call) -> Contract:
        async with self._db.write(call) as tx:
            contract = await service.contracts.activate_contract(tx, ids.CONTRACT.parse(request.id), etag=request.etag)
            return await tx.answer(
                convert.contracts.contract_to_proto(contract, await service.contracts.get_annex(tx, contract))
            )

    async def CheckRenewal(self, request: contracts_pb.CheckRenewalRequest, call: Call) -> RenewalCheck:
        async with self._db.read(call) as tx:
            return convert.contracts.renewal_check_to_proto(
                await service.renewals.check_renewal(tx, ids.CONTRACT.parse(request.id))
            )

    async def RenewContract(self, request: contracts_pb.RenewContractRequest, call: Call) -> Contract:
        contract_id, ask = ids.CONTRACT.parse(request.id), convert.contracts.renewal_ask_from_proto(request)
        async with self._db.write(call) as tx:
            successor = await service.renewals.renew_contract(tx, contract_id, ask, etag=request.etag)
            return await tx.answer(convert.contracts.contract_to_proto(successor, NO_ANNEX))

    async def SuspendContract(self, request: contracts_pb.SuspendContractRequest, call: Call) -> Contract:
        contract_id = ids.CONTRACT.parse(request.id)
        async with self._db.write(call) as tx:
            contract = await service.contracts.suspend_contract(
                tx, contract_id, reason=request.reason, etag=request.etag
            )
            return await tx.answer(
                convert.contracts.contract_to_proto(contract, await service.contracts.get_annex(tx, contract))
            )

    async def ResumeContract(self, request: contracts_pb.ResumeContractRequest, call: Call) -> Contract:
        async with self._db.write(call) as tx:
            contract = await service.contracts.resume_contract(tx, ids.CONTRACT.parse(request.id), etag=request.etag)
            return await tx.answer(
                convert.contracts.contract_to_proto(contract, await service.contracts.get_annex(tx, contract))
            )

    async def TerminateContract(self, request: contracts_pb.TerminateContractRequest, call: Call) -> Contract:
        async with self._db.write(call) as tx:
            contract = await service.contracts.terminate_contract(
                tx,
                ids.CONTRACT.parse(request.id),
                effective=date_from_text(request.effective_date),
                reason=request.reason,
                for_cause=request.for_cause,
                etag=request.etag,
            )
            return await tx.answer(
                convert.contracts.contract_to_proto(contract, await service.contracts.get_annex(tx, contract))
            )

    async def SummarizeContracts(
        self, request: contracts_pb.SummarizeContractsRequest, call: Call
    ) -> contracts_pb.SummarizeContractsResponse:
        entity_ids = [ids.ENTITY.parse(id, "entity_ids") for id in request.entity_ids]
        async with self._db.read(call) as tx:
            found = await store.contracts.summarize(tx, entity_ids)
        return contracts_pb.SummarizeContractsResponse(
            summaries=map(convert.contracts.contract_summary_to_proto, found)
        )
