"""BudgetService: definition, life cycle, transfers and rollovers of budgets."""

from contextlib import suppress

from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.rollover_pb2 import Rollover, Transfer

from contract.values import date_from_text
from kit import ids
from kit.db import Database
from kit.origin import Call
from services.budgets import convert, service, store
from services.budgets.clients import Clients
from services.budgets.domain.budgets import BudgetAction, BudgetState
from serving.pages import Pages


class _OnlyTried(Exception):
    """Rolls back a dry run."""


class BudgetServicer:
    """billing.budgets.v1.BudgetService."""

    service = pb.DESCRIPTOR.services_by_name["BudgetService"]

    def __init__(self, db: Database, pages: Pages, clients: Clients) -> None:
        self._db = db
        self._pages = pages
        self._owners = clients.owners
        self._exchange = clients.rates

    async def CreateBudget(self, request: pb.CreateBudgetRequest, call: Call) -> Budget:
        entity_id = ids.ENTITY.parse(request.entity_id, "entity_id")
        department_id = ids.DEPARTMENT.parse_optional(request.department_id, "department_id")
        owner = await self._owners.find(call, entity_id, department_id)
        async with self._db.write(call) as tx:
            # Here, since the same request may ask for another period when the fiscal year or the day is another.
            draft = convert.budgets.draft_from_proto(request, owner.fiscal_year_start_month)
            budget = await service.budgets.create(tx, draft, owner)
            return await tx.answer(convert.budgets.to_proto(budget))

    async def ListBudgets(self, request: pb.ListBudgetsRequest, call: Call) -> pb.ListBudgetsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await store.budgets.list_page(
                tx,
                page,
                entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
                department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
                parent_id=ids.BUDGET.parse_optional(request.parent_id, "parent_id"),
                state=BudgetState(Budget.State.Name(request.state)) if request.state else None,
                period_date=date_from_text(request.period_date),
                utilisation_min_bp=request.utilisation_min_bp,
            )
        listed = map(convert.budgets.to_proto, found.rows)
        return pb.ListBudgetsResponse(budgets=listed, next_page_token=found.next_page_token)

    async def GetBudget(self, request: pb.GetBudgetRequest, call: Call) -> Budget:
        async with self._db.read(call) as tx:
            return convert.budgets.to_proto(await store.budgets.get(tx, ids.BUDGET.parse(request.id)))

    async def UpdateBudget(self, request: pb.UpdateBudgetRequest, call: Call) -> Budget:
        changes, amount = convert.budgets.changes_from_proto(request)
        async with self._db.write(call) as tx:
            budget_id = ids.BUDGET.parse(request.id)
            budget = await service.budgets.update(
                tx, budget_id, changes, amount=amount, reason=request.reason, etag=request.etag
            )
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
        ask = convert.transfers.request_from_proto(request)
        async with self._db.read(call) as tx:
            source = await store.budgets.get(tx, ask.source_id)
            target = await store.budgets.get(tx, ask.target_id)
        rate = await service.transfers.find_rate(self._exchange, call, ask, source, target)
        with suppress(_OnlyTried):
            async with self._db.write(call) as tx:
                done = await service.transfers.transfer(tx, ask, rate)
                reply = convert.transfers.to_proto(
                    done.source, done.target, done.source_entry, done.target_entry, dry_run=request.validate_only
                )
                if request.validate_only:
                    raise _OnlyTried
                return await tx.answer(reply)
        return reply

    async def RolloverBudget(self, request: pb.RolloverBudgetRequest, call: Call) -> Rollover:
        ask = convert.rollovers.request_from_proto(request)
        with suppress(_OnlyTried):
            async with self._db.write(call) as tx:
                done = await service.rollovers.roll_over(tx, ids.BUDGET.parse(request.id), ask)
                reply = convert.rollovers.to_proto(
                    done.closed,
                    done.opened,
                    moved_holds=done.moved_holds,
                    opened_budgets=done.opened_budgets,
                    dry_run=request.validate_only,
                )
                if request.validate_only:
                    raise _OnlyTried
                return await tx.answer(reply)
        return reply
