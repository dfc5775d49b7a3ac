"""The gRPC side of delegations."""

from billing.approvals.v1 import delegation_service_pb2 as pb
from billing.approvals.v1.delegation_pb2 import Delegation

from kit import clock, ids
from kit.db import Database
from kit.origin import Call
from services.approvals.clients import Clients
from services.approvals.convert.delegations import delegation_draft_from_proto, delegation_to_proto
from services.approvals.convert.requests import caller_of
from services.approvals.domain.delegations import DelegationState
from services.approvals.errors import ApproverInactive
from services.approvals.service import delegations
from services.approvals.store import delegations as store
from serving.pages import Pages


class DelegationServicer:
    """billing.approvals.v1.DelegationService."""

    service = pb.DESCRIPTOR.services_by_name["DelegationService"]

    def __init__(self, db: Database, pages: Pages, clients: Clients) -> None:
        self._db = db
        self._pages = pages
        self.clients = clients

    async def CreateDelegation(self, request: pb.CreateDelegationRequest, call: Call) -> Delegation:
        person = await self.clients.directory.find(call, request.delegate)
        async with self._db.write(call) as tx:
            if person is None or not person.active:
                raise ApproverInactive(request.delegate)
            row = await delegations.create_delegation(tx, caller_of(call), delegation_draft_from_proto(request))
            return await tx.answer(delegation_to_proto(row))

    async def ListDelegations(self, request: pb.ListDelegationsRequest, call: Call) -> pb.ListDelegationsResponse:
        page, caller = self._pages.read(request, call), caller_of(call)
        async with self._db.read(call) as tx:
            found = await store.list_delegations(
                tx,
                page,
                own="" if caller.admin else caller.user_id,
                delegator=request.delegator,
                delegate=request.delegate,
                state=DelegationState(Delegation.State.Name(request.state)) if request.state else None,
                now=clock.now(),
            )
        listed = map(delegation_to_proto, found.rows)
        return pb.ListDelegationsResponse(delegations=listed, next_page_token=found.next_page_token)

    async def DeleteDelegation(self, request: pb.DeleteDelegationRequest, call: Call) -> Delegation:
        async with self._db.write(call) as tx:
            row = await delegations.end_delegation(tx, caller_of(call), ids.DELEGATION.parse(request.id))
            return await tx.answer(delegation_to_proto(row))
