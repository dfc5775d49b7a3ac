"""PeriodLockService: sets and lists period locks."""

from billing.budgets.v1 import period_lock_service_pb2 as pb
from billing.budgets.v1.period_lock_pb2 import PeriodLock

from kit.db import Database
from kit.origin import Call
from services.budgets import convert, service, store
from services.budgets.clients import Clients
from serving.pages import Pages


class PeriodLockServicer:
    """billing.budgets.v1.PeriodLockService."""

    service = pb.DESCRIPTOR.services_by_name["PeriodLockService"]

    def __init__(self, db: Database, pages: Pages, clients: Clients) -> None:
        self._db = db
        self._pages = pages
        self._owners = clients.owners

    async def SetPeriodLock(self, request: pb.SetPeriodLockRequest, call: Call) -> PeriodLock:
        draft = convert.period_locks.draft_from_proto(request)
        owner = await self._owners.find(call, draft.entity_id, None) if draft.entity_id else None
        async with self._db.write(call) as tx:
            row = await service.period_locks.set_lock(tx, draft, owner)
            return await tx.answer(convert.period_locks.to_proto(row))

    async def ListPeriodLocks(self, request: pb.ListPeriodLocksRequest, call: Call) -> pb.ListPeriodLocksResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            listed = await store.period_locks.list_page(tx, page)
        locks = map(convert.period_locks.to_proto, listed.rows)
        return pb.ListPeriodLocksResponse(period_locks=locks, next_page_token=listed.next_page_token)
