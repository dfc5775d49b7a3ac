"""Events of the approvals service to domain values."""

from billing.approvals.v1.approval_pb2 import Approval
from billing.approvals.v1.events_pb2 import (
    ApprovalFacts,
)

from contract.values import money_from_proto
from kit import ids
from services.budgets.domain.funds import Ended


def ended_from_proto(facts: ApprovalFacts) -> Ended:
    """An approval request that ended, as far as it is about a budget."""
    return Ended(
        approval_id=ids.APPROVAL.parse(facts.approval_id, "approval_id"),
        round=facts.round,
        budget_id=ids.BUDGET.parse(facts.budget_id, "budget_id"),
        hold_id=ids.HOLD.parse_optional(facts.hold_id, "hold_id"),
        amount=money_from_proto(facts.amount) if facts.HasField("amount") else None,
        raises=facts.request_type == Approval.BUDGET_INCREASE,
        title=facts.title,
    )
