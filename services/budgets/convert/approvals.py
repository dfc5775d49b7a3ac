"""Conversion of events and requests of the approvals service."""

from billing.approvals.v1.approval_pb2 import Approval
from billing.approvals.v1.events_pb2 import ApprovalFacts
from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.charge_pb2 import Availability

from contract.values import money_from_proto, money_or_none, money_to_proto
from kit import ids
from services.budgets.domain.approval_holds import ApprovalOutcome, Overspend
from services.budgets.domain.postings import AvailabilityResult


def outcome_from_proto(facts: ApprovalFacts) -> ApprovalOutcome:
    """Return the outcome of an approval request for a budget."""
    return ApprovalOutcome(
        approval_id=ids.APPROVAL.parse(facts.approval_id, "approval_id"),
        round=facts.round,
        budget_id=ids.BUDGET.parse(facts.budget_id, "budget_id"),
        hold_id=ids.HOLD.parse_optional(facts.hold_id, "hold_id"),
        amount=money_or_none(facts, "amount"),
        is_increase=facts.request_type == Approval.BUDGET_INCREASE,
        title=facts.title,
    )


def release_from_proto(request: pb.ReleaseForApprovalRequest) -> ApprovalOutcome:
    """Return the round of an approval request whose hold is to be released."""
    return ApprovalOutcome(
        approval_id=ids.APPROVAL.parse(request.approval_id, "approval_id"),
        round=request.round,
        budget_id=ids.BUDGET.parse(request.budget_id, "budget_id"),
        hold_id=None,
        amount=None,
        is_increase=False,
        title="",
    )


def overspend_from_proto(request: pb.ChargeRequest | pb.CreateHoldRequest) -> Overspend:
    """Return the overspend for which approval is requested if the request is refused."""
    return Overspend(
        budget_id=ids.BUDGET.parse(request.id),
        amount=money_from_proto(request.amount),
        description=request.description,
        reference=request.reference,
        key=f"{request.DESCRIPTOR.name}:{request.request_id}",
    )


def review_to_proto(budget: Budget, result: AvailabilityResult) -> pb.FundsReview:
    """Return a budget, and whether it would accept a charge."""
    verdict = Availability.Verdict.Value(result.availability.verdict)
    return pb.FundsReview(budget=budget, amount=money_to_proto(result.amount), verdict=verdict)
