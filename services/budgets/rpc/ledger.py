"""LedgerService: charges, refunds, holds and entries."""

from typing import cast

from billing.budgets.v1 import charge_pb2
from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.charge_pb2 import Availability
from billing.budgets.v1.entry_pb2 import BudgetVerification, Entry
from billing.budgets.v1.hold_pb2 import Hold

from contract.values import money_from_proto, time_from_proto
from kit import ids
from kit.db import Database
from kit.origin import Call
from services.budgets import convert, service, store
from services.budgets.clients import Clients
from services.budgets.convert.movements import CHARGE
from services.budgets.domain.entries import EntryType
from services.budgets.domain.holds import HoldState
from services.budgets.errors.budgets import ApprovalRequired
from services.budgets.errors.charges import BatchRefused
from services.budgets.ledger import Ledger
from services.budgets.service.checks import Ask
from services.budgets.service.funds import Funds
from serving.pages import Pages


class LedgerServicer:
    """billing.budgets.v1.LedgerService."""

    service = pb.DESCRIPTOR.services_by_name["LedgerService"]

    def __init__(self, db: Database, pages: Pages, clients: Clients, ledger: Ledger, funds: Funds) -> None:
        self._db = db
        self._pages = pages
        self._approvals = clients.approvals
        self._ledger = ledger
        self._funds = funds

    async def CheckAvailability(self, request: pb.CheckAvailabilityRequest, call: Call) -> Availability:
        at = time_from_proto(request.charge_time) if request.HasField("charge_time") else None
        answers = await service.checks.check(self._ledger, call, convert.movements.asks_from_proto(request), at)
        return convert.movements.availability_to_proto(answers)

    async def Charge(self, request: pb.ChargeRequest, call: Call) -> charge_pb2.Charge:
        try:
            return cast("charge_pb2.Charge", await self._ledger.move(convert.movements.charge_line(request, call)))
        except ApprovalRequired as refusal:
            raise await self._asked_for(request, call, refusal) from None

    async def _asked_for(
        self, request: pb.ChargeRequest | pb.CreateHoldRequest, call: Call, refusal: ApprovalRequired
    ) -> ApprovalRequired:
        """The refusal, with the approval request that was opened where the caller wants that."""
        if request.open_approval:
            wanted = convert.movements.overspend_from_proto(request)
            refusal.metadata |= await self._approvals.open_overspend(call, wanted)
        return refusal

    async def BatchCharge(self, request: pb.BatchChargeRequest, call: Call) -> pb.BatchChargeResponse:
        lines = [convert.movements.charge_line(charge, call) for charge in request.charges]
        outcomes = await self._ledger.submit(lines, atomic=request.atomic)
        if request.atomic and isinstance(outcomes[0], BatchRefused):
            raise outcomes[0]
        return convert.movements.results_to_proto(outcomes)

    async def GetCharge(self, request: pb.GetChargeRequest, call: Call) -> charge_pb2.Charge:
        async with self._db.read(call) as tx:
            reply = await store.ledger.get_reply(tx, CHARGE, request.request_id)
            charge = charge_pb2.Charge.FromString(reply)
            await store.budgets.get(tx, ids.BUDGET.parse(charge.budget_id))
        return charge

    async def RefundCharge(self, request: pb.RefundChargeRequest, call: Call) -> charge_pb2.Refund:
        return cast("charge_pb2.Refund", await self._ledger.move(convert.movements.refund_line(request, call)))

    async def CreateHold(self, request: pb.CreateHoldRequest, call: Call) -> Hold:
        try:
            return cast("Hold", await self._ledger.move(convert.movements.hold_line(request, call)))
        except ApprovalRequired as refusal:
            raise await self._asked_for(request, call, refusal) from None

    async def HoldForApproval(self, request: pb.HoldForApprovalRequest, call: Call) -> Hold:
        return cast("Hold", await self._ledger.move(convert.movements.approval_hold_line(request, call)))

    async def ReleaseForApproval(
        self, request: pb.ReleaseForApprovalRequest, call: Call
    ) -> pb.ReleaseForApprovalResponse:
        released = await self._funds.call_off(call, convert.movements.round_from_proto(request))
        return pb.ReleaseForApprovalResponse(released=released)

    async def ReviewFunds(self, request: pb.ReviewFundsRequest, call: Call) -> pb.FundsReview:
        async with self._db.read(call) as tx:
            budget = await store.budgets.get(tx, ids.BUDGET.parse(request.budget_id, "budget_id"))
        if not request.HasField("amount"):
            return pb.FundsReview(budget=convert.budgets.to_proto(budget))
        asked = [Ask(budget.id, money_from_proto(request.amount))]
        (answer,) = await service.checks.check(self._ledger, call, asked, None)
        return convert.movements.review_to_proto(convert.budgets.to_proto(budget), answer)

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
        return cast("Hold", await self._ledger.move(convert.movements.change_line(request, call, entry_type)))

    async def GetHold(self, request: pb.GetHoldRequest, call: Call) -> Hold:
        async with self._db.read(call) as tx:
            hold_id = ids.HOLD.parse(request.hold_id, "hold_id")
            return convert.holds.hold_to_proto(
                convert.holds.stored_hold(await store.ledger.get_hold(tx, ids.BUDGET.parse(request.id), hold_id))
            )

    async def ListHolds(self, request: pb.ListHoldsRequest, call: Call) -> pb.ListHoldsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            budget = await store.budgets.get(tx, ids.BUDGET.parse(request.id))
            found = await store.ledger.list_holds(
                tx,
                page,
                budget.id,
                state=HoldState(Hold.State.Name(request.state)) if request.state else None,
                reference=request.reference,
            )
        listed = (convert.holds.hold_to_proto(convert.holds.stored_hold(row)) for row in found.rows)
        return pb.ListHoldsResponse(holds=listed, next_page_token=found.next_page_token)

    async def ListEntries(self, request: pb.ListEntriesRequest, call: Call) -> pb.ListEntriesResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            budget = await store.budgets.get(tx, ids.BUDGET.parse(request.id))
            found = await store.ledger.list_entries(
                tx,
                page,
                budget.id,
                entry_type=EntryType(Entry.Type.Name(request.entry_type)) if request.entry_type else None,
                as_of=time_from_proto(request.as_of_time) if request.HasField("as_of_time") else None,
            )
        entries = (convert.movements.entry_to_proto(row, budget.id) for row in found.rows)
        return pb.ListEntriesResponse(entries=entries, next_page_token=found.next_page_token)

    async def VerifyBudget(self, request: pb.VerifyBudgetRequest, call: Call) -> BudgetVerification:
        async with self._db.read(call) as tx:
            budget = await store.budgets.get(tx, ids.BUDGET.parse(request.id))
            return convert.budgets.verification_to_proto(*await store.ledger.sum_ledger(tx, budget.id))
