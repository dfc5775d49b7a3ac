"""The gRPC side of budgets: read the request, open a transaction, call the use case, return the message."""

from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1 import charge_pb2
from billing.budgets.v1.alert_pb2 import Alert
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.charge_pb2 import Availability
from billing.budgets.v1.entry_pb2 import BudgetVerification, Entry

from contract.values import date_from_text, money_from_proto, time_from_proto
from kit import ids
from kit.db import Database
from kit.origin import Call
from services.budgets import convert, service, store
from services.budgets.domain import Action, AlertState, AlertType, EntryType, State
from services.budgets.peers import Owners
from serving.pages import Pages


class BudgetServicer:
    """billing.budgets.v1.BudgetService."""

    service = pb.DESCRIPTOR.services_by_name["BudgetService"]

    def __init__(self, db: Database, pages: Pages, owners: Owners) -> None:
        self._db = db
        self._pages = pages
        self._owners = owners

    async def CreateBudget(self, request: pb.CreateBudgetRequest, call: Call) -> Budget:
        draft = convert.budget_draft_from_proto(request)
        await self._owners.check_active(call, draft.entity_id, draft.department_id)
        async with self._db.write(call) as tx:
            budget = await service.create_budget(tx, draft)
            return await tx.answer(convert.budget_to_proto(budget))

    async def ListBudgets(self, request: pb.ListBudgetsRequest, call: Call) -> pb.ListBudgetsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await store.list_budgets(
                tx,
                page,
                entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
                department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
                parent_id=ids.BUDGET.parse_optional(request.parent_id, "parent_id"),
                state=State(Budget.State.Name(request.state)) if request.state else None,
                period_date=date_from_text(request.period_date),
                utilisation_min_bp=request.utilisation_min_bp,
            )
        budgets = map(convert.budget_to_proto, found.rows)
        return pb.ListBudgetsResponse(budgets=budgets, next_page_token=found.next_page_token)

    async def GetBudget(self, request: pb.GetBudgetRequest, call: Call) -> Budget:
        async with self._db.read(call) as tx:
            return convert.budget_to_proto(await store.get_budget(tx, ids.BUDGET.parse(request.id)))

    async def UpdateBudget(self, request: pb.UpdateBudgetRequest, call: Call) -> Budget:
        changes, amount = convert.budget_changes_from_proto(request)
        async with self._db.write(call) as tx:
            budget_id = ids.BUDGET.parse(request.id)
            budget = await service.update_budget(tx, budget_id, changes, amount=amount, etag=request.etag)
            return await tx.answer(convert.budget_to_proto(budget))

    async def ActivateBudget(self, request: pb.ActivateBudgetRequest, call: Call) -> Budget:
        return await self._change_state(request, call, Action.ACTIVATE)

    async def CloseBudget(self, request: pb.CloseBudgetRequest, call: Call) -> Budget:
        return await self._change_state(request, call, Action.CLOSE)

    async def ReopenBudget(self, request: pb.ReopenBudgetRequest, call: Call) -> Budget:
        async with self._db.read(call) as tx:
            budget = await store.get_budget(tx, ids.BUDGET.parse(request.id))
        await self._owners.check_active(call, budget.entity_id, budget.department_id)
        return await self._change_state(request, call, Action.REOPEN)

    async def _change_state(
        self,
        request: pb.ActivateBudgetRequest | pb.CloseBudgetRequest | pb.ReopenBudgetRequest,
        call: Call,
        action: Action,
    ) -> Budget:
        async with self._db.write(call) as tx:
            budget = await service.change_state(tx, ids.BUDGET.parse(request.id), action, etag=request.etag)
            return await tx.answer(convert.budget_to_proto(budget))

    async def CheckAvailability(self, request: pb.CheckAvailabilityRequest, call: Call) -> Availability:
        at = time_from_proto(request.charge_time) if request.HasField("charge_time") else None
        async with self._db.read(call) as tx:
            budget_id, amount = ids.BUDGET.parse(request.id), money_from_proto(request.amount)
            return convert.availability_to_proto(await service.check_availability(tx, budget_id, amount, at))

    async def Charge(self, request: pb.ChargeRequest, call: Call) -> charge_pb2.Charge:
        draft = convert.charge_draft_from_proto(request)
        async with self._db.write(call) as tx:
            entry, decision = await service.charge(tx, ids.BUDGET.parse(request.id), draft)
            return await tx.answer(convert.charge_to_proto(entry, decision))

    async def GetCharge(self, request: pb.GetChargeRequest, call: Call) -> charge_pb2.Charge:
        async with self._db.read(call) as tx:
            return convert.recorded_charge_to_proto(*await store.get_charge(tx, request.request_id))

    async def ListAlerts(self, request: pb.ListAlertsRequest, call: Call) -> pb.ListAlertsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            budget = await store.get_budget(tx, ids.BUDGET.parse(request.id))
            found = await store.list_alerts(
                tx,
                page,
                budget.id,
                state=AlertState(Alert.State.Name(request.state)) if request.state else None,
                alert_type=AlertType(Alert.Type.Name(request.alert_type)) if request.alert_type else None,
            )
        alerts = map(convert.alert_to_proto, found.rows)
        return pb.ListAlertsResponse(alerts=alerts, next_page_token=found.next_page_token)

    async def ListAllAlerts(self, request: pb.ListAllAlertsRequest, call: Call) -> pb.ListAllAlertsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await store.list_alerts(
                tx,
                page,
                None,
                state=AlertState(Alert.State.Name(request.state)) if request.state else None,
                alert_type=AlertType(Alert.Type.Name(request.alert_type)) if request.alert_type else None,
                since=time_from_proto(request.since_time) if request.HasField("since_time") else None,
            )
        alerts = map(convert.alert_to_proto, found.rows)
        return pb.ListAllAlertsResponse(alerts=alerts, next_page_token=found.next_page_token)

    async def AcknowledgeAlert(self, request: pb.AcknowledgeAlertRequest, call: Call) -> Alert:
        async with self._db.write(call) as tx:
            alert = await service.acknowledge_alert(tx, ids.ALERT.parse(request.id))
            return await tx.answer(convert.alert_to_proto(alert))

    async def ListEntries(self, request: pb.ListEntriesRequest, call: Call) -> pb.ListEntriesResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            budget = await store.get_budget(tx, ids.BUDGET.parse(request.id))
            found = await store.list_entries(
                tx,
                page,
                budget.id,
                entry_type=EntryType(Entry.Type.Name(request.entry_type)) if request.entry_type else None,
                as_of=time_from_proto(request.as_of_time) if request.HasField("as_of_time") else None,
            )
        entries = (convert.entry_to_proto(row, budget.id) for row in found.rows)
        return pb.ListEntriesResponse(entries=entries, next_page_token=found.next_page_token)

    async def VerifyBudget(self, request: pb.VerifyBudgetRequest, call: Call) -> BudgetVerification:
        async with self._db.read(call) as tx:
            budget = await store.get_budget(tx, ids.BUDGET.parse(request.id))
            return convert.verification_to_proto(*await store.sum_ledger(tx, budget.id))
