"""RPCs of delegations."""

from billing.approvals.v1 import delegation_service_pb2 as pb
from billing.approvals.v1.delegation_pb2 import Delegation

from kit import clock, ids
from kit.db import Database
from kit.origin import Call
from services.approvals import convert, service, store
from services.approvals.clients import Clients
from services.approvals.domain.approvals import Actor
from serving.pages import Pages


class DelegationServicer:
    """billing.approvals.v1.DelegationService."""

    service = pb.DESCRIPTOR.services_by_name["DelegationService"]

    def __init__(self, db: Database, pages: Pages, clients: Clients) -> None:
        self._db = db
        self._pages = pages
        self._clients = clients

    async def CreateDelegation(self, request: pb.CreateDelegationRequest, call: Call) -> Delegation:
        draft, actor = convert.delegations.draft_from_proto(request), await self._actor(call)
        delegate = await self._clients.directory.find(call, draft.delegate)
        delegator = actor
        if draft.delegator not in {"", actor.user_id}:
            delegator = await service.users.with_presence(self._clients, call, Actor(user_id=draft.delegator))
        async with self._db.write(call) as tx:
            row = await service.delegations.create(tx, actor, draft, delegate=delegate, delegator=delegator)
            return await tx.answer(convert.delegations.to_proto(row, clock.now()))

    async def _actor(self, call: Call) -> Actor:
        return await service.users.with_presence(self._clients, call, convert.approvals.actor_from_call(call))

    async def ListDelegations(self, request: pb.ListDelegationsRequest, call: Call) -> pb.ListDelegationsResponse:
        page, now = self._pages.read(request, call), clock.now()
        filters = convert.delegations.filter_from_proto(request)
        async with self._db.read(call) as tx:
            actor = await service.delegations.with_delegations(tx, convert.approvals.actor_from_call(call))
            delegations = await store.delegations.list_page(tx, page, actor, filters, now)
        return pb.ListDelegationsResponse(
            delegations=(convert.delegations.to_proto(row, now) for row in delegations.rows),
            next_page_token=delegations.next_page_token,
        )

    async def DeleteDelegation(self, request: pb.DeleteDelegationRequest, call: Call) -> Delegation:
        actor, delegation_id = await self._actor(call), ids.DELEGATION.parse(request.id)
        async with self._db.write(call) as tx:
            row = await service.delegations.end(tx, actor, delegation_id)
            return await tx.answer(convert.delegations.to_proto(row, clock.now()))
