"""RPCs of approval requests."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from uuid import UUID

from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, BudgetImpact

from contract.values import time_or_none
from eventing.bus import EventBus
from kit import ids
from kit.db import Database
from kit.errors import BillingError
from kit.idempotency import Replay
from kit.money import Money
from kit.origin import Call
from services.approvals import convert, events, service, store
from services.approvals.clients import Clients
from services.approvals.domain.approvals import ActionRequest, ActionType, Actor
from services.approvals.service.opening import OpeningSaga, PreparedApproval
from serving.pages import Pages


class ApprovalServicer:
    """billing.approvals.v1.ApprovalService."""

    service = pb.DESCRIPTOR.services_by_name["ApprovalService"]

    def __init__(self, db: Database, pages: Pages, clients: Clients, opening: OpeningSaga, *, bus: EventBus) -> None:
        self._db = db
        self._pages = pages
        self._clients = clients
        self._opening = opening
        self._bus = bus

    async def CreateApproval(self, request: pb.CreateApprovalRequest, call: Call) -> Approval:
        draft = convert.approvals.draft_from_proto(request, call)
        if request.validate_only:
            row = await self._opening.preview(call, draft)
            impact = await self._budget_impact(call, row.budget_id, row.money)
            return convert.approvals.preview_to_proto(row, impact=impact)
        return await self._open_with_impact(call, await self._opening.prepare(call, draft))

    async def _open_with_impact(self, call: Call, prepared: PreparedApproval) -> Approval:
        impact = await self._budget_impact(call, prepared.budget_id, prepared.amount)
        async with self._db.write(call) as tx:
            row = await self._opening.open(tx, prepared)
            return await tx.answer(convert.approvals.to_proto(row, impact=impact))

    async def OpenApproval(self, request: pb.OpenApprovalRequest, call: Call) -> Approval:
        prepared = await self._opening.prepare(call, convert.approvals.draft_from_proto(request, call))
        async with self._db.write(call) as tx:
            return await tx.answer(convert.approvals.to_proto(await self._opening.open(tx, prepared)))

    async def CheckApprovalNeed(self, request: pb.CheckApprovalNeedRequest, call: Call) -> pb.CheckApprovalNeedResponse:
        need = await self._opening.check_need(call, convert.approvals.draft_of_need_from_proto(request, call))
        return pb.CheckApprovalNeedResponse(
            needed=need.needed, rules=map(convert.approvals.applied_rule_to_proto, need.rules)
        )

    async def ListApprovals(self, request: pb.ListApprovalsRequest, call: Call) -> pb.ListApprovalsResponse:
        page, filters = self._pages.read(request, call), convert.approvals.filter_from_proto(request)
        async with self._db.read(call) as tx:
            actor = await service.delegations.with_delegations(tx, convert.approvals.actor_from_call(call))
            approvals = await store.approvals.list_page(tx, page, actor, filters)
        return pb.ListApprovalsResponse(
            approvals=map(convert.approvals.to_proto, approvals.rows), next_page_token=approvals.next_page_token
        )

    async def GetApproval(self, request: pb.GetApprovalRequest, call: Call) -> Approval:
        async with self._db.read(call) as tx:
            actor = await service.delegations.with_delegations(tx, convert.approvals.actor_from_call(call))
            row = await store.approvals.get(tx, ids.APPROVAL.parse(request.id), actor)
        impact = await self._budget_impact(call, row.budget_id, row.money)
        return convert.approvals.to_proto(row, impact=impact)

    async def _budget_impact(self, call: Call, budget_id: UUID | None, amount: Money | None) -> BudgetImpact | None:
        if budget_id is None or amount is None:
            return None
        try:
            budget = await self._clients.budgets.review(call, budget_id, amount)
        except BillingError as error:
            return convert.approvals.impact_problem_to_proto(budget_id, error)
        return convert.approvals.impact_to_proto(budget)

    async def ActOnApproval(self, request: pb.ActOnApprovalRequest, call: Call) -> Approval:
        action, actor = convert.approvals.action_request_from_proto(request), convert.approvals.actor_from_call(call)
        if action.action is not ActionType.COMMENT:  # everybody who can read the request may comment
            call.principal.check_permission(convert.approvals.DECIDE)
        service.decisions.check(action)
        actor = await service.users.with_presence(self._clients, call, actor)
        target = await self._clients.directory.find(call, action.target) if action.target else None
        async with self._db.write(call) as tx:
            await service.decisions.check_target(tx, action, target)
            row = await service.decisions.act(tx, ids.APPROVAL.parse(request.id), actor, action)
            return await tx.answer(convert.approvals.to_proto(row))

    async def BatchActOnApprovals(
        self, request: pb.BatchActOnApprovalsRequest, call: Call
    ) -> pb.BatchActOnApprovalsResponse:
        action = convert.approvals.action_request_from_proto(request)
        service.decisions.check(action)
        actor = convert.approvals.actor_from_call(call)
        actor = await service.users.with_presence(self._clients, call, actor)
        results = [await self._result_of_action(id, actor, action, call) for id in request.ids]
        decided = sum(result.HasField("approval") for result in results)
        return pb.BatchActOnApprovalsResponse(
            results=results, decided_count=decided, refused_count=len(results) - decided
        )

    async def _result_of_action(self, id: str, actor: Actor, action: ActionRequest, call: Call) -> pb.ApprovalResult:
        """Act on one request of a batch, in its own transaction, under a key of the batch and the request."""
        single = replace(call, key=f"{call.key}:{id}" if call.key else "")
        try:
            async with self._db.write(single) as tx:
                row = await service.decisions.act(tx, ids.APPROVAL.parse(id), actor, action)
                return await tx.answer(pb.ApprovalResult(approval=convert.approvals.to_proto(row)))
        except Replay as replay:
            return pb.ApprovalResult.FromString(replay.reply)
        except BillingError as error:
            return pb.ApprovalResult(refusal=convert.approvals.refusal_to_proto(id, error))

    async def ResubmitApproval(self, request: pb.ResubmitApprovalRequest, call: Call) -> Approval:
        actor = convert.approvals.actor_from_call(call)
        prepared = await self._opening.prepare_resubmission(
            call,
            ids.APPROVAL.parse(request.id),
            await service.users.with_presence(self._clients, call, actor),
            convert.approvals.changes_from_proto(request),
            comment=request.comment,
            etag=request.etag,
        )
        return await self._open_with_impact(call, prepared)

    async def CancelApproval(self, request: pb.CancelApprovalRequest, call: Call) -> Approval:
        actor = convert.approvals.actor_from_call(call)
        actor = await service.users.with_presence(self._clients, call, actor)
        async with self._db.write(call) as tx:
            actor = await service.delegations.with_delegations(tx, actor)
            row = await store.approvals.lock(tx, ids.APPROVAL.parse(request.id), actor)
            await service.approvals.cancel(tx, row, actor, comment=request.comment, etag=request.etag)
            return await tx.answer(convert.approvals.to_proto(row))

    async def ListApprovalActions(
        self, request: pb.ListApprovalActionsRequest, call: Call
    ) -> pb.ListApprovalActionsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            actor = await service.delegations.with_delegations(tx, convert.approvals.actor_from_call(call))
            row = await store.approvals.get(tx, ids.APPROVAL.parse(request.id), actor)
            actions = await store.approvals.list_actions(tx, page, row.id)
        return pb.ListApprovalActionsResponse(
            actions=map(convert.approvals.action_to_proto, actions.rows), next_page_token=actions.next_page_token
        )

    async def SummarizeApprovals(
        self, request: pb.SummarizeApprovalsRequest, call: Call
    ) -> pb.SummarizeApprovalsResponse:
        entity_ids = [ids.ENTITY.parse(id, "entity_ids") for id in request.entity_ids]
        since, until = time_or_none(request, "since_time"), time_or_none(request, "until_time")
        async with self._db.read(call) as tx:
            summaries = await store.approvals.summarize(tx, entity_ids, since, until)
        return pb.SummarizeApprovalsResponse(summaries=map(convert.approvals.summary_to_proto, summaries))

    async def WatchApprovals(self, request: pb.WatchApprovalsRequest, call: Call) -> AsyncIterator[pb.ApprovalEvent]:
        after = int(request.after_event_id) if request.after_event_id else None
        feed = events.published.follow(self._bus, call.tenant_id, after=after, approval_id=request.approval_id)
        async with aclosing(feed) as published:
            async for event in published:
                yield event
