"""Conversion of holds."""

from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.hold_pb2 import Hold as HoldMessage

from contract.values import (
    date_text,
    enum_or_none,
    money_from_proto,
    money_or_none,
    money_to_proto,
    time_or_none,
    time_to_proto,
)
from kit import idempotency, ids
from kit.origin import Call
from services.budgets import convert
from services.budgets.domain.entries import EntryType
from services.budgets.domain.holds import Hold, HoldDraft, HoldFilter, HoldState
from services.budgets.domain.postings import PostingRequest


def create_from_proto(request: pb.CreateHoldRequest, call: Call) -> PostingRequest:
    """Parse CreateHoldRequest."""
    return PostingRequest(
        entry_type=EntryType.HOLD,
        budget_id=ids.BUDGET.parse(request.id),
        amount=money_from_proto(request.amount),
        request_key=(call.tenant_id, call.method, call.key),
        fingerprint=call.fingerprint,
        description=request.description,
        reference=request.reference,
        hold=HoldDraft(
            description=request.description,
            reference=request.reference,
            expire_time=time_or_none(request, "expire_time"),
        ),
    )


def approval_hold_from_proto(request: pb.HoldForApprovalRequest, call: Call) -> PostingRequest:
    """Parse HoldForApprovalRequest."""
    return PostingRequest(
        entry_type=EntryType.HOLD,
        budget_id=ids.BUDGET.parse(request.budget_id, "budget_id"),
        amount=money_from_proto(request.amount),
        request_key=(call.tenant_id, call.method, call.key),
        # Without the actor: a user or the clock may continue the opening of the same request.
        fingerprint=idempotency.fingerprint(request, ""),
        description=request.description,
        reference=request.approval_id,
        hold=HoldDraft(
            description=request.description,
            reference=request.approval_id,
            approval_id=ids.APPROVAL.parse(request.approval_id, "approval_id"),
        ),
    )


def change_from_proto(
    request: pb.CommitHoldRequest | pb.CaptureHoldRequest | pb.ReleaseHoldRequest, call: Call, entry_type: EntryType
) -> PostingRequest:
    """Parse CommitHoldRequest, CaptureHoldRequest or ReleaseHoldRequest."""
    posting = PostingRequest(
        entry_type=entry_type,
        budget_id=ids.BUDGET.parse(request.id),
        hold_id=ids.HOLD.parse(request.hold_id, "hold_id"),
        request_key=(call.tenant_id, call.method, call.key),
        fingerprint=call.fingerprint,
    )
    if not isinstance(request, pb.CommitHoldRequest):
        posting.amount = money_or_none(request, "amount")
    if isinstance(request, pb.CaptureHoldRequest):
        posting.description, posting.reference = request.description, request.reference
        posting.charge_time = time_or_none(request, "charge_time")
        posting.release_rest = request.release_rest
    return posting


def filter_from_proto(request: pb.ListHoldsRequest) -> HoldFilter:
    """Return the filters of ListHoldsRequest."""
    return HoldFilter(
        budget_id=ids.BUDGET.parse(request.id),
        state=enum_or_none(HoldState, HoldMessage.State, request.state),
        reference=request.reference,
    )


def to_proto(hold: Hold) -> HoldMessage:
    """Return the message of a hold."""
    return HoldMessage(
        id=ids.HOLD.format(hold.id),
        budget_id=ids.BUDGET.format(hold.budget_id),
        amount=money_to_proto(hold.money(hold.amount)),
        captured=money_to_proto(hold.money(hold.captured)),
        released=money_to_proto(hold.money(hold.released)),
        open=money_to_proto(hold.money(hold.open)),
        state=HoldMessage.State.Value(hold.state),
        expire_time=time_to_proto(hold.expire_time) if hold.expire_time else None,
        original_amount=money_to_proto(hold.original) if hold.original else None,
        original_open=money_to_proto(hold.original_left) if hold.original_left else None,
        rate=convert.numbers.rate_text(hold.rate),
        rate_date=date_text(hold.rate_date),
        description=hold.description,
        reference=hold.reference,
        request_id=hold.request_id,
        actor=hold.actor,
        last_entry_id=ids.ENTRY.format(hold.last_entry_id),
        create_time=time_to_proto(hold.create_time),
        update_time=time_to_proto(hold.update_time),
        approval_id=ids.APPROVAL.format_optional(hold.approval_id),
    )
