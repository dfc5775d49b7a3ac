"""BudgetService: definition, life cycle, transfers and rollovers of budgets."""

from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget, CostBudgetPreview
from billing.budgets.v1.rollover_pb2 import Rollover, Transfer

from contract.values import date_from_text
from kit import clock, ids
from kit.db import Database
from kit.origin import Call
from services.budgets import convert, domain, service, store
from services.budgets.clients import Clients
from services.budgets.domain.budgets import BudgetAction
from services.budgets.service.allocated_costs import AllocatedCosts
from serving.pages import Pages


class BudgetServicer:
    """billing.budgets.v1.BudgetService."""

    service = pb.DESCRIPTOR.services_by_name["BudgetService"]

    def __init__(self, db: Database, pages: Pages, clients: Clients, allocated_costs: AllocatedCosts) -> None:
        self._db = db
        self._allocated_costs = allocated_costs
        self._pages = pages
        self._owners = clients.owners
        self._rates = clients.rates

    async def CreateBudget(self, request: pb.CreateBudgetRequest, call: Call) -> Budget:
        draft = convert.budgets.draft_from_proto(request)
        owner = await self._owners.find(call, draft.entity_id, draft.department_id)
        async with self._db.write(call) as tx:
            budget = await service.budgets.create(tx, draft, owner)
            return await tx.answer(convert.budgets.to_proto(budget))

    async def ListBudgets(self, request: pb.ListBudgetsRequest, call: Call) -> pb.ListBudgetsResponse:
        page, filters = self._pages.read(request, call), convert.budgets.filter_from_proto(request)
        async with self._db.read(call) as tx:
            listed = await store.budgets.list_page(tx, page, filters)
        budgets = map(convert.budgets.to_proto, listed.rows)
        return pb.ListBudgetsResponse(budgets=budgets, next_page_token=listed.next_page_token)

    async def GetBudget(self, request: pb.GetBudgetRequest, call: Call) -> Budget:
        async with self._db.read(call) as tx:
            budget = await store.budgets.get(tx, ids.BUDGET.parse(request.id))
        return convert.budgets.to_proto(budget)

    async def PreviewCostBudget(self, request: pb.PreviewCostBudgetRequest, call: Call) -> CostBudgetPreview:
        entity_id = ids.ENTITY.parse(request.entity_id, "entity_id")
        department_id = ids.DEPARTMENT.parse_optional(request.department_id, "department_id")
        day = date_from_text(request.allocation_date)
        owner = await self._owners.find_of_cost(call, entity_id, department_id, day)
        cost = convert.allocated_costs.attributes_from_proto(request, owner, clock.now())
        preview = await self._allocated_costs.preview(call, cost)
        return convert.allocated_costs.preview_to_proto(preview.budget, preview.explanation, preview.matches)

    async def UpdateBudget(self, request: pb.UpdateBudgetRequest, call: Call) -> Budget:
        changes = convert.budgets.update_from_proto(request)
        async with self._db.write(call) as tx:
            budget = await service.budgets.update(tx, ids.BUDGET.parse(request.id), changes, etag=request.etag)
            return await tx.answer(convert.budgets.to_proto(budget))

    async def ActivateBudget(self, request: pb.ActivateBudgetRequest, call: Call) -> Budget:
        return await self._change_state(request, call, BudgetAction.ACTIVATE)

    async def CloseBudget(self, request: pb.CloseBudgetRequest, call: Call) -> Budget:
        return await self._change_state(request, call, BudgetAction.CLOSE)

    async def ReopenBudget(self, request: pb.ReopenBudgetRequest, call: Call) -> Budget:
        async with self._db.read(call) as tx:
            budget = await store.budgets.get(tx, ids.BUDGET.parse(request.id))
        owner = await self._owners.find(call, budget.entity_id, budget.department_id)
        async with self._db.write(call) as tx:
            budget = await service.budgets.reopen(tx, budget.id, owner, etag=request.etag)
            return await tx.answer(convert.budgets.to_proto(budget))

    async def _change_state(
        self, request: pb.ActivateBudgetRequest | pb.CloseBudgetRequest, call: Call, action: BudgetAction
    ) -> Budget:
        async with self._db.write(call) as tx:
            budget = await service.budgets.change_state(tx, ids.BUDGET.parse(request.id), action, etag=request.etag)
            return await tx.answer(convert.budgets.to_proto(budget))

    async def TransferBudget(self, request: pb.TransferBudgetRequest, call: Call) -> Transfer:
        transfer, dry_run = convert.transfers.request_from_proto(request), request.validate_only
        domain.transfers.check(transfer)
        async with self._db.read(call) as tx:
            source = await store.budgets.get(tx, transfer.source_id)
            target = await store.budgets.get(tx, transfer.target_id)
        rate = await service.transfers.find_rate(self._rates, call, transfer, source, target)
        async with self._db.write(call, dry_run=dry_run) as tx:
            result = await service.transfers.transfer(tx, transfer, rate)
            reply = convert.transfers.to_proto(
                result.source, result.target, result.source_entry, result.target_entry, dry_run=dry_run
            )
            return await tx.answer(reply)

    async def RolloverBudget(self, request: pb.RolloverBudgetRequest, call: Call) -> Rollover:
        rollover, dry_run = convert.rollovers.request_from_proto(request), request.validate_only
        async with self._db.write(call, dry_run=dry_run) as tx:
            result = await service.rollovers.roll_over(tx, ids.BUDGET.parse(request.id), rollover)
            reply = convert.rollovers.to_proto(
                result.closed,
                result.opened,
                moved_holds=result.moved_holds,
                opened_budgets=result.opened_budgets,
                dry_run=dry_run,
            )
            return await tx.answer(reply)
