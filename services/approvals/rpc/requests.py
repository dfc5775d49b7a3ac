"""The gRPC side of requests."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from uuid import UUID

from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, BudgetImpact

from eventing.bus import EventBus
from kit import ids
from kit.db import Database
from kit.errors import BillingError
from kit.idempotency import Replay
from kit.money import Money
from kit.origin import Call
from services.approvals import events
from services.approvals.clients import Clients
from services.approvals.convert.requests import (
    act_from_proto,
    action_to_proto,
    approval_to_proto,
    ask_from_proto,
    caller_of,
    changes_from_proto,
    filter_from_proto,
    impact_problem,
    impact_to_proto,
    level_to_proto,
    need_from_proto,
    preview_to_proto,
    refusal_to_proto,
    summary_to_proto,
    time_or_none,
)
from services.approvals.service import deciding, requests
from services.approvals.service.opening import Opening
from services.approvals.store import requests as store
from serving.pages import Pages


class ApprovalServicer:
    """billing.approvals.v1.ApprovalService."""

    service = pb.DESCRIPTOR.services_by_name["ApprovalService"]

    def __init__(self, db: Database, pages: Pages, clients: Clients, opening: Opening, *, bus: EventBus) -> None:
        self._db = db
        self._pages = pages
        self.clients = clients
        self._opening = opening
        self._bus = bus

    async def CreateApproval(self, request: pb.CreateApprovalRequest, call: Call) -> Approval:
        ask = ask_from_proto(request, call)
        if request.validate_only:
            row = await self._opening.preview(call, ask)
            return preview_to_proto(row, impact=await self._impact(call, row.budget_id, row.money))
        prepared = await self._opening.prepare(call, ask)
        async with self._db.write(call) as tx:
            return await tx.answer(approval_to_proto(await self._opening.open(tx, prepared)))

    async def OpenApproval(self, request: pb.OpenApprovalRequest, call: Call) -> Approval:
        prepared = await self._opening.prepare(call, ask_from_proto(request, call))
        async with self._db.write(call) as tx:
            return await tx.answer(approval_to_proto(await self._opening.open(tx, prepared)))

    async def CheckApprovalNeed(self, request: pb.CheckApprovalNeedRequest, call: Call) -> pb.CheckApprovalNeedResponse:
        route = await self._opening.find_need(call, need_from_proto(request, call))
        return pb.CheckApprovalNeedResponse(needed=bool(route), rules=map(level_to_proto, route))

    async def ListApprovals(self, request: pb.ListApprovalsRequest, call: Call) -> pb.ListApprovalsResponse:
        page, wanted = self._pages.read(request, call), filter_from_proto(request)
        async with self._db.read(call) as tx:
            found = await store.list_requests(tx, page, await deciding.view(tx, caller_of(call)), wanted)
        listed = map(approval_to_proto, found.rows)
        return pb.ListApprovalsResponse(approvals=listed, next_page_token=found.next_page_token)

    async def GetApproval(self, request: pb.GetApprovalRequest, call: Call) -> Approval:
        async with self._db.read(call) as tx:
            viewer = await deciding.view(tx, caller_of(call))
            row = await store.get_request(tx, ids.APPROVAL.parse(request.id), viewer)
        return approval_to_proto(row, impact=await self._impact(call, row.budget_id, row.money))

    async def _impact(self, call: Call, budget_id: UUID | None, amount: Money | None) -> BudgetImpact | None:
        if budget_id is None or amount is None:
            return None
        try:
            return impact_to_proto(await self.clients.budgets.review(call, budget_id, amount))
        except BillingError as refusal:
            return impact_problem(ids.BUDGET.format(budget_id), refusal)

    async def ActOnApproval(self, request: pb.ActOnApprovalRequest, call: Call) -> Approval:
        act, caller = act_from_proto(request), caller_of(call)
        deciding.check_act(act)
        target = await self.clients.directory.find(call, act.target) if act.target else None
        async with self._db.write(call) as tx:
            deciding.check_target(act, target)
            row = await deciding.act(tx, ids.APPROVAL.parse(request.id), caller, act)
            return await tx.answer(approval_to_proto(row))

    async def BatchActOnApprovals(
        self, request: pb.BatchActOnApprovalsRequest, call: Call
    ) -> pb.BatchActOnApprovalsResponse:
        act = act_from_proto(request)
        deciding.check_act(act)
        results = [await self._decided(id, act, call) for id in request.ids]
        decided = sum(result.HasField("approval") for result in results)
        return pb.BatchActOnApprovalsResponse(
            results=results, decided_count=decided, refused_count=len(results) - decided
        )

    async def _decided(self, id: str, act: deciding.Act, call: Call) -> pb.ApprovalResult:
        """One request of a batch, in a transaction of its own, under the key of the batch and the request."""
        one = replace(call, key=f"{call.key}:{id}" if call.key else "")
        try:
            async with self._db.write(one) as tx:
                row = await deciding.act(tx, ids.APPROVAL.parse(id), caller_of(call), act)
                return await tx.answer(pb.ApprovalResult(approval=approval_to_proto(row)))
        except Replay as replay:
            return pb.ApprovalResult.FromString(replay.reply)
        except BillingError as refusal:
            return pb.ApprovalResult(refusal=refusal_to_proto(id, refusal))

    async def ResubmitApproval(self, request: pb.ResubmitApprovalRequest, call: Call) -> Approval:
        prepared = await self._opening.prepare_again(
            call,
            ids.APPROVAL.parse(request.id),
            caller_of(call),
            changes_from_proto(request),
            comment=request.comment,
            etag=request.etag,
        )
        async with self._db.write(call) as tx:
            return await tx.answer(approval_to_proto(await self._opening.open(tx, prepared)))

    async def CancelApproval(self, request: pb.CancelApprovalRequest, call: Call) -> Approval:
        caller = caller_of(call)
        async with self._db.write(call) as tx:
            viewer = await deciding.view(tx, caller)
            row = await store.lock_request(tx, ids.APPROVAL.parse(request.id), viewer)
            await requests.cancel(tx, row, caller, comment=request.comment, etag=request.etag)
            return await tx.answer(approval_to_proto(row))

    async def ListApprovalActions(
        self, request: pb.ListApprovalActionsRequest, call: Call
    ) -> pb.ListApprovalActionsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            viewer = await deciding.view(tx, caller_of(call))
            row = await store.get_request(tx, ids.APPROVAL.parse(request.id), viewer)
            found = await store.list_actions(tx, page, row.id)
        actions = map(action_to_proto, found.rows)
        return pb.ListApprovalActionsResponse(actions=actions, next_page_token=found.next_page_token)

    async def SummarizeApprovals(
        self, request: pb.SummarizeApprovalsRequest, call: Call
    ) -> pb.SummarizeApprovalsResponse:
        entity_ids = [ids.ENTITY.parse(id, "entity_ids") for id in request.entity_ids]
        async with self._db.read(call) as tx:
            found = await store.summarize(
                tx, entity_ids, time_or_none(request, "since_time"), time_or_none(request, "until_time")
            )
        return pb.SummarizeApprovalsResponse(summaries=map(summary_to_proto, found))

    async def WatchApprovals(self, request: pb.WatchApprovalsRequest, call: Call) -> AsyncIterator[pb.ApprovalEvent]:
        after = int(request.after_event_id) if request.after_event_id else None
        happening = events.happened(self._bus, call.tenant_id, after=after, approval_id=request.approval_id)
        async with aclosing(happening) as told:
            async for event in told:
                yield event
