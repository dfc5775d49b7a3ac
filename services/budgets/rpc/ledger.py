"""LedgerService: charges, refunds, holds and entries."""

from typing import Final

from billing.budgets.v1 import charge_pb2
from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.charge_pb2 import Availability, Refund
from billing.budgets.v1.entry_pb2 import BudgetVerification
from billing.budgets.v1.hold_pb2 import Hold

from contract.values import money_from_proto, time_or_none
from kit import ids
from kit.db import Database
from kit.origin import Call
from kit.tasks import in_pieces
from services.budgets import convert, service, store
from services.budgets.clients import Clients
from services.budgets.domain.entries import EntryType
from services.budgets.domain.postings import AvailabilityQuery
from services.budgets.errors.budgets import ApprovalRequired
from services.budgets.errors.charges import BatchRefused, ChargeNotFound
from services.budgets.ledger import Ledger
from services.budgets.service.approval_holds import ApprovalHolds
from serving.calls import SerializedReply
from serving.pages import Pages

_CONVERTED_AT_ONCE: Final = 64
"""After so many charges of one request other calls run."""


class LedgerServicer:
    """billing.budgets.v1.LedgerService."""

    service = pb.DESCRIPTOR.services_by_name["LedgerService"]

    def __init__(
        self, db: Database, pages: Pages, clients: Clients, ledger: Ledger, approval_holds: ApprovalHolds
    ) -> None:
        self._db = db
        self._pages = pages
        self._approvals = clients.approvals
        self._ledger = ledger
        self._approval_holds = approval_holds

    async def CheckAvailability(self, request: pb.CheckAvailabilityRequest, call: Call) -> Availability:
        queries = convert.availability.queries_from_proto(request)
        results = await service.availability.check(self._ledger, call, queries, time_or_none(request, "charge_time"))
        reply = convert.availability.to_proto(results[:1])
        async for piece in in_pieces(results[1:], _CONVERTED_AT_ONCE):
            reply.lines.extend(map(convert.availability.line_to_proto, piece))
        return reply

    async def Charge(self, request: pb.ChargeRequest, call: Call) -> SerializedReply[charge_pb2.Charge]:
        posting = convert.postings.charge_from_proto(request, call)
        try:
            return SerializedReply(await self._ledger.post(call, posting))
        except ApprovalRequired as refusal:
            raise await self._with_approval(request, call, refusal) from None

    async def _with_approval(
        self, request: pb.ChargeRequest | pb.CreateHoldRequest, call: Call, refusal: ApprovalRequired
    ) -> ApprovalRequired:
        """Return the refusal; with the id of a new approval request if the caller set `open_approval`."""
        if request.open_approval:
            overspend = convert.approvals.overspend_from_proto(request)
            refusal.metadata |= await self._approvals.open_overspend(call, overspend)
        return refusal

    async def BatchCharge(self, request: pb.BatchChargeRequest, call: Call) -> pb.BatchChargeResponse:
        postings = [
            convert.postings.charge_from_proto(charge, call)
            async for charges in in_pieces(request.charges, _CONVERTED_AT_ONCE)
            for charge in charges
        ]
        outcomes = await self._ledger.post_many(call, postings, atomic=request.atomic)
        if request.atomic and isinstance(outcomes[0], BatchRefused):
            raise outcomes[0]
        return convert.postings.results_to_proto(outcomes)

    async def GetCharge(self, request: pb.GetChargeRequest, call: Call) -> charge_pb2.Charge:
        async with self._db.read(call) as tx:
            reply = await store.idempotency.get_reply(tx, convert.postings.CHARGE, request.request_id)
            charge = charge_pb2.Charge.FromString(reply)
            if call.scope is None:
                return charge
            visible = await store.budgets.list_by_ids(tx, convert.postings.chain_ids(charge))
        if ids.BUDGET.parse(charge.budget_id) not in visible:
            raise ChargeNotFound(request.request_id)  # as for a key that was never used
        convert.postings.conceal(charge, visible.__contains__)
        return charge

    async def RefundCharge(self, request: pb.RefundChargeRequest, call: Call) -> SerializedReply[Refund]:
        return SerializedReply(await self._ledger.post(call, convert.postings.refund_from_proto(request, call)))

    async def CreateHold(self, request: pb.CreateHoldRequest, call: Call) -> SerializedReply[Hold]:
        posting = convert.holds.create_from_proto(request, call)
        try:
            return SerializedReply(await self._ledger.post(call, posting))
        except ApprovalRequired as refusal:
            raise await self._with_approval(request, call, refusal) from None

    async def HoldForApproval(self, request: pb.HoldForApprovalRequest, call: Call) -> SerializedReply[Hold]:
        return SerializedReply(await self._ledger.post(call, convert.holds.approval_hold_from_proto(request, call)))

    async def ReleaseForApproval(
        self, request: pb.ReleaseForApprovalRequest, call: Call
    ) -> pb.ReleaseForApprovalResponse:
        released = await self._approval_holds.cancel(call, convert.approvals.release_from_proto(request))
        return pb.ReleaseForApprovalResponse(released=released)

    async def ReviewFunds(self, request: pb.ReviewFundsRequest, call: Call) -> pb.FundsReview:
        async with self._db.read(call) as tx:
            budget = await store.budgets.get(tx, ids.BUDGET.parse(request.budget_id, "budget_id"))
        if not request.HasField("amount"):
            return pb.FundsReview(budget=convert.budgets.to_proto(budget))
        query = AvailabilityQuery(budget.id, money_from_proto(request.amount))
        (result,) = await service.availability.check(self._ledger, call, [query], None)
        return convert.approvals.review_to_proto(convert.budgets.to_proto(budget), result)

    async def CommitHold(self, request: pb.CommitHoldRequest, call: Call) -> SerializedReply[Hold]:
        return await self._change_hold(request, call, EntryType.COMMIT)

    async def CaptureHold(self, request: pb.CaptureHoldRequest, call: Call) -> SerializedReply[Hold]:
        return await self._change_hold(request, call, EntryType.CAPTURE)

    async def ReleaseHold(self, request: pb.ReleaseHoldRequest, call: Call) -> SerializedReply[Hold]:
        return await self._change_hold(request, call, EntryType.RELEASE)

    async def _change_hold(
        self,
        request: pb.CommitHoldRequest | pb.CaptureHoldRequest | pb.ReleaseHoldRequest,
        call: Call,
        entry_type: EntryType,
    ) -> SerializedReply[Hold]:
        return SerializedReply(
            await self._ledger.post(call, convert.holds.change_from_proto(request, call, entry_type))
        )

    async def GetHold(self, request: pb.GetHoldRequest, call: Call) -> Hold:
        budget_id, hold_id = ids.BUDGET.parse(request.id), ids.HOLD.parse(request.hold_id, "hold_id")
        async with self._db.read(call) as tx:
            return convert.holds.to_proto((await store.holds.get(tx, budget_id, hold_id)).hold)

    async def ListHolds(self, request: pb.ListHoldsRequest, call: Call) -> pb.ListHoldsResponse:
        page, filters = self._pages.read(request, call), convert.holds.filter_from_proto(request)
        async with self._db.read(call) as tx:
            await store.budgets.get(tx, filters.budget_id)
            listed = await store.holds.list_page(tx, page, filters)
        holds = (convert.holds.to_proto(row.hold) for row in listed.rows)
        return pb.ListHoldsResponse(holds=holds, next_page_token=listed.next_page_token)

    async def ListEntries(self, request: pb.ListEntriesRequest, call: Call) -> pb.ListEntriesResponse:
        page, filters = self._pages.read(request, call), convert.entries.filter_from_proto(request)
        async with self._db.read(call) as tx:
            await store.budgets.get(tx, filters.budget_id)
            listed = await store.entries.list_page(tx, page, filters)
            hidden = await store.budgets.find_hidden(tx, (row.counterpart_id for row in listed.rows))
        entries = (convert.entries.to_proto(row, filters.budget_id, hidden) for row in listed.rows)
        return pb.ListEntriesResponse(entries=entries, next_page_token=listed.next_page_token)

    async def VerifyBudget(self, request: pb.VerifyBudgetRequest, call: Call) -> BudgetVerification:
        async with self._db.read(call) as tx:
            budget = await store.budgets.get(tx, ids.BUDGET.parse(request.id))
            return convert.entries.verification_to_proto(*await service.entries.verify(tx, budget.id))
