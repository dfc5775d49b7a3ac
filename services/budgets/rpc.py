"""The gRPC side of budgets: read the request, open a transaction, call the use case, return the message."""

from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Final, cast

from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1 import charge_pb2
from billing.budgets.v1.alert_pb2 import Alert, AlertEvent
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.charge_pb2 import Availability
from billing.budgets.v1.entry_pb2 import BudgetVerification, Entry
from billing.budgets.v1.forecast_pb2 import Forecast
from billing.budgets.v1.hold_pb2 import Hold
from billing.budgets.v1.rollover_pb2 import Rollover, Transfer
from billing.budgets.v1.summary_pb2 import LedgerEntry

from contract.values import date_from_text, money_from_proto, time_from_proto
from eventing.bus import EventBus
from kit import ids
from kit.db import Database
from kit.origin import Call
from services.budgets import events
from services.budgets.clients import Clients
from services.budgets.convert import movements
from services.budgets.convert.alerts import alert_to_proto, watch_from_proto
from services.budgets.convert.budgets import (
    budget_changes_from_proto,
    budget_draft_from_proto,
    budget_to_proto,
    verification_to_proto,
)
from services.budgets.convert.holds import hold_to_proto, stored_hold
from services.budgets.convert.reports import (
    feed_ask_from_proto,
    forecast_to_proto,
    ledger_entry_to_proto,
    summary_ask_from_proto,
    summary_to_proto,
)
from services.budgets.convert.rollovers import (
    rollover_from_proto,
    rollover_to_proto,
    transfer_from_proto,
    transfer_to_proto,
)
from services.budgets.convert.usage import unbudgeted_to_proto
from services.budgets.domain.lives import Action, AlertState, AlertType, EntryType, HoldState, State
from services.budgets.errors import ApprovalRequired, BatchRefused
from services.budgets.ledger import Ledger
from services.budgets.service import checks, definitions, forecasts, rollovers, transfers
from services.budgets.service.funds import Funds
from services.budgets.store import alerts, budgets, ledger, reports, usage
from serving.pages import Pages

_ENTRIES_AT_ONCE: Final = 500


class _OnlyTried(Exception):
    """Ends a transaction of which nothing is to be kept."""


class BudgetServicer:
    """billing.budgets.v1.BudgetService."""

    service = pb.DESCRIPTOR.services_by_name["BudgetService"]

    def __init__(
        self, db: Database, pages: Pages, clients: Clients, books: Ledger, funds: Funds, *, bus: EventBus
    ) -> None:
        self._db = db
        self._pages = pages
        self._owners = clients.owners
        self._exchange = clients.rates
        self._approvals = clients.approvals
        self._ledger = books
        self._funds = funds
        self._bus = bus

    async def CreateBudget(self, request: pb.CreateBudgetRequest, call: Call) -> Budget:
        entity_id = ids.ENTITY.parse(request.entity_id, "entity_id")
        department_id = ids.DEPARTMENT.parse_optional(request.department_id, "department_id")
        owner = await self._owners.find(call, entity_id, department_id)
        async with self._db.write(call) as tx:
            # Here, since the same request may ask for another period when the fiscal year or the day is another.
            draft = budget_draft_from_proto(request, owner.fiscal_year_start_month)
            budget = await definitions.create_budget(tx, draft, owner)
            return await tx.answer(budget_to_proto(budget))

    async def ListBudgets(self, request: pb.ListBudgetsRequest, call: Call) -> pb.ListBudgetsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await budgets.list_budgets(
                tx,
                page,
                entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
                department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
                parent_id=ids.BUDGET.parse_optional(request.parent_id, "parent_id"),
                state=State(Budget.State.Name(request.state)) if request.state else None,
                period_date=date_from_text(request.period_date),
                utilisation_min_bp=request.utilisation_min_bp,
            )
        listed = map(budget_to_proto, found.rows)
        return pb.ListBudgetsResponse(budgets=listed, next_page_token=found.next_page_token)

    async def GetBudget(self, request: pb.GetBudgetRequest, call: Call) -> Budget:
        async with self._db.read(call) as tx:
            return budget_to_proto(await budgets.get_budget(tx, ids.BUDGET.parse(request.id)))

    async def UpdateBudget(self, request: pb.UpdateBudgetRequest, call: Call) -> Budget:
        changes, amount = budget_changes_from_proto(request)
        async with self._db.write(call) as tx:
            budget_id = ids.BUDGET.parse(request.id)
            budget = await definitions.update_budget(
                tx, budget_id, changes, amount=amount, reason=request.reason, etag=request.etag
            )
            return await tx.answer(budget_to_proto(budget))

    async def ActivateBudget(self, request: pb.ActivateBudgetRequest, call: Call) -> Budget:
        return await self._change_state(request, call, Action.ACTIVATE)

    async def CloseBudget(self, request: pb.CloseBudgetRequest, call: Call) -> Budget:
        return await self._change_state(request, call, Action.CLOSE)

    async def ReopenBudget(self, request: pb.ReopenBudgetRequest, call: Call) -> Budget:
        async with self._db.read(call) as tx:
            budget = await budgets.get_budget(tx, ids.BUDGET.parse(request.id))
        owner = await self._owners.find(call, budget.entity_id, budget.department_id)
        async with self._db.write(call) as tx:
            budget = await definitions.reopen_budget(tx, budget.id, owner, etag=request.etag)
            return await tx.answer(budget_to_proto(budget))

    async def _change_state(
        self, request: pb.ActivateBudgetRequest | pb.CloseBudgetRequest, call: Call, action: Action
    ) -> Budget:
        async with self._db.write(call) as tx:
            budget = await definitions.change_state(tx, ids.BUDGET.parse(request.id), action, etag=request.etag)
            return await tx.answer(budget_to_proto(budget))

    async def TransferBudget(self, request: pb.TransferBudgetRequest, call: Call) -> Transfer:
        ask = transfer_from_proto(request)
        async with self._db.read(call) as tx:
            source = await budgets.get_budget(tx, ask.source_id)
            target = await budgets.get_budget(tx, ask.target_id)
        rate = await transfers.find_rate(self._exchange, call, ask, source, target)
        with suppress(_OnlyTried):
            async with self._db.write(call) as tx:
                done = await transfers.transfer(tx, ask, rate)
                reply = transfer_to_proto(done, tried=request.validate_only)
                if request.validate_only:
                    raise _OnlyTried
                return await tx.answer(reply)
        return reply

    async def RolloverBudget(self, request: pb.RolloverBudgetRequest, call: Call) -> Rollover:
        ask = rollover_from_proto(request)
        with suppress(_OnlyTried):
            async with self._db.write(call) as tx:
                done = await rollovers.roll_over(tx, ids.BUDGET.parse(request.id), ask)
                reply = rollover_to_proto(done, tried=request.validate_only)
                if request.validate_only:
                    raise _OnlyTried
                return await tx.answer(reply)
        return reply

    async def CheckAvailability(self, request: pb.CheckAvailabilityRequest, call: Call) -> Availability:
        at = time_from_proto(request.charge_time) if request.HasField("charge_time") else None
        answers = await checks.check(self._ledger, call, movements.asks_from_proto(request), at)
        return movements.availability_to_proto(answers)

    async def Charge(self, request: pb.ChargeRequest, call: Call) -> charge_pb2.Charge:
        try:
            return cast("charge_pb2.Charge", await self._ledger.move(movements.charge_line(request, call)))
        except ApprovalRequired as refusal:
            raise await self._asked_for(request, call, refusal) from None

    async def _asked_for(
        self, request: pb.ChargeRequest | pb.CreateHoldRequest, call: Call, refusal: ApprovalRequired
    ) -> ApprovalRequired:
        """The refusal, with the approval request that was opened where the caller wants that."""
        if request.open_approval:
            wanted = movements.overspend_from_proto(request)
            refusal.metadata |= await self._approvals.open_overspend(call, wanted)
        return refusal

    async def BatchCharge(self, request: pb.BatchChargeRequest, call: Call) -> pb.BatchChargeResponse:
        lines = [movements.charge_line(charge, call) for charge in request.charges]
        outcomes = await self._ledger.submit(lines, atomic=request.atomic)
        if request.atomic and isinstance(outcomes[0], BatchRefused):
            raise outcomes[0]
        return movements.results_to_proto(outcomes)

    async def GetCharge(self, request: pb.GetChargeRequest, call: Call) -> charge_pb2.Charge:
        async with self._db.read(call) as tx:
            reply = await ledger.get_reply(tx, movements.CHARGE, request.request_id)
            charge = charge_pb2.Charge.FromString(reply)
            await budgets.get_budget(tx, ids.BUDGET.parse(charge.budget_id))
        return charge

    async def RefundCharge(self, request: pb.RefundChargeRequest, call: Call) -> charge_pb2.Refund:
        return cast("charge_pb2.Refund", await self._ledger.move(movements.refund_line(request, call)))

    async def CreateHold(self, request: pb.CreateHoldRequest, call: Call) -> Hold:
        try:
            return cast("Hold", await self._ledger.move(movements.hold_line(request, call)))
        except ApprovalRequired as refusal:
            raise await self._asked_for(request, call, refusal) from None

    async def HoldForApproval(self, request: pb.HoldForApprovalRequest, call: Call) -> Hold:
        return cast("Hold", await self._ledger.move(movements.approval_hold_line(request, call)))

    async def ReleaseForApproval(
        self, request: pb.ReleaseForApprovalRequest, call: Call
    ) -> pb.ReleaseForApprovalResponse:
        released = await self._funds.call_off(call, movements.round_from_proto(request))
        return pb.ReleaseForApprovalResponse(released=released)

    async def ReviewFunds(self, request: pb.ReviewFundsRequest, call: Call) -> pb.FundsReview:
        async with self._db.read(call) as tx:
            budget = await budgets.get_budget(tx, ids.BUDGET.parse(request.budget_id, "budget_id"))
        if not request.HasField("amount"):
            return pb.FundsReview(budget=budget_to_proto(budget))
        asked = [checks.Ask(budget.id, money_from_proto(request.amount))]
        (answer,) = await checks.check(self._ledger, call, asked, None)
        return movements.review_to_proto(budget_to_proto(budget), answer)

    async def CommitHold(self, request: pb.CommitHoldRequest, call: Call) -> Hold:
        return await self._change_hold(request, call, EntryType.COMMIT)

    async def CaptureHold(self, request: pb.CaptureHoldRequest, call: Call) -> Hold:
        return await self._change_hold(request, call, EntryType.CAPTURE)

    async def ReleaseHold(self, request: pb.ReleaseHoldRequest, call: Call) -> Hold:
        return await self._change_hold(request, call, EntryType.RELEASE)

    async def _change_hold(
        self,
        request: pb.CommitHoldRequest | pb.CaptureHoldRequest | pb.ReleaseHoldRequest,
        call: Call,
        entry_type: EntryType,
    ) -> Hold:
        return cast("Hold", await self._ledger.move(movements.change_line(request, call, entry_type)))

    async def GetHold(self, request: pb.GetHoldRequest, call: Call) -> Hold:
        async with self._db.read(call) as tx:
            hold_id = ids.HOLD.parse(request.hold_id, "hold_id")
            return hold_to_proto(stored_hold(await ledger.get_hold(tx, ids.BUDGET.parse(request.id), hold_id)))

    async def ListHolds(self, request: pb.ListHoldsRequest, call: Call) -> pb.ListHoldsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            budget = await budgets.get_budget(tx, ids.BUDGET.parse(request.id))
            found = await ledger.list_holds(
                tx,
                page,
                budget.id,
                state=HoldState(Hold.State.Name(request.state)) if request.state else None,
                reference=request.reference,
            )
        listed = (hold_to_proto(stored_hold(row)) for row in found.rows)
        return pb.ListHoldsResponse(holds=listed, next_page_token=found.next_page_token)

    async def ListAlerts(self, request: pb.ListAlertsRequest, call: Call) -> pb.ListAlertsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            budget = await budgets.get_budget(tx, ids.BUDGET.parse(request.id))
            found = await alerts.list_alerts(
                tx,
                page,
                budget.id,
                state=AlertState(Alert.State.Name(request.state)) if request.state else None,
                alert_type=AlertType(Alert.Type.Name(request.alert_type)) if request.alert_type else None,
            )
        listed = map(alert_to_proto, found.rows)
        return pb.ListAlertsResponse(alerts=listed, next_page_token=found.next_page_token)

    async def ListAllAlerts(self, request: pb.ListAllAlertsRequest, call: Call) -> pb.ListAllAlertsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await alerts.list_alerts(
                tx,
                page,
                None,
                state=AlertState(Alert.State.Name(request.state)) if request.state else None,
                alert_type=AlertType(Alert.Type.Name(request.alert_type)) if request.alert_type else None,
                since=time_from_proto(request.since_time) if request.HasField("since_time") else None,
            )
        listed = map(alert_to_proto, found.rows)
        return pb.ListAllAlertsResponse(alerts=listed, next_page_token=found.next_page_token)

    async def AcknowledgeAlert(self, request: pb.AcknowledgeAlertRequest, call: Call) -> Alert:
        async with self._db.write(call) as tx:
            alert = await definitions.acknowledge_alert(tx, ids.ALERT.parse(request.id))
            return await tx.answer(alert_to_proto(alert))

    async def WatchAlerts(self, request: pb.WatchAlertsRequest, call: Call) -> AsyncIterator[AlertEvent]:
        watch = watch_from_proto(request, call.scope)
        if watch.budget_id is not None:
            async with self._db.read(call) as tx:
                await budgets.get_budget(tx, watch.budget_id)
        async with aclosing(events.raised_alerts(self._bus, call.tenant_id, watch)) as raised:
            async for event in raised:
                yield event

    async def ForecastBudget(self, request: pb.ForecastBudgetRequest, call: Call) -> Forecast:
        async with self._db.read(call) as tx:
            budget = await budgets.get_budget(tx, ids.BUDGET.parse(request.id))
            return forecast_to_proto(await forecasts.foresee(tx, budget))

    async def ListEntries(self, request: pb.ListEntriesRequest, call: Call) -> pb.ListEntriesResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            budget = await budgets.get_budget(tx, ids.BUDGET.parse(request.id))
            found = await ledger.list_entries(
                tx,
                page,
                budget.id,
                entry_type=EntryType(Entry.Type.Name(request.entry_type)) if request.entry_type else None,
                as_of=time_from_proto(request.as_of_time) if request.HasField("as_of_time") else None,
            )
        entries = (movements.entry_to_proto(row, budget.id) for row in found.rows)
        return pb.ListEntriesResponse(entries=entries, next_page_token=found.next_page_token)

    async def ListUnbudgetedSpend(
        self, request: pb.ListUnbudgetedSpendRequest, call: Call
    ) -> pb.ListUnbudgetedSpendResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await usage.list_unbudgeted(
                tx,
                page,
                entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
                department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
                category=request.category,
                reason=request.reason,
                start=date_from_text(request.start_date),
                end=date_from_text(request.end_date),
            )
        listed = map(unbudgeted_to_proto, found.rows)
        return pb.ListUnbudgetedSpendResponse(unbudgeted_spend=listed, next_page_token=found.next_page_token)

    async def VerifyBudget(self, request: pb.VerifyBudgetRequest, call: Call) -> BudgetVerification:
        async with self._db.read(call) as tx:
            budget = await budgets.get_budget(tx, ids.BUDGET.parse(request.id))
            return verification_to_proto(*await ledger.sum_ledger(tx, budget.id))

    async def SummarizeBudgets(self, request: pb.SummarizeBudgetsRequest, call: Call) -> pb.SummarizeBudgetsResponse:
        async with self._db.read(call) as tx:
            found = await reports.summarize(tx, summary_ask_from_proto(request))
        return pb.SummarizeBudgetsResponse(summaries=map(summary_to_proto, found))

    async def StreamEntries(self, request: pb.StreamEntriesRequest, call: Call) -> AsyncIterator[LedgerEntry]:
        ask, after = feed_ask_from_proto(request)
        more = True
        while more:  # no transaction is open while the caller takes what was found
            async with self._db.read(call) as tx:
                found = await reports.entries_after(tx, ask, after, _ENTRIES_AT_ONCE)
            for entry, budget in found:
                after = entry.id
                yield ledger_entry_to_proto(entry, budget)
            more = len(found) == _ENTRIES_AT_ONCE
