"""Conversion of rollovers."""

from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1.rollover_pb2 import Rollover

from contract.values import date_from_text, money_or_none
from services.budgets import convert
from services.budgets.domain.rollovers import RolloverRequest
from services.budgets.models.budgets import BudgetRow


def request_from_proto(request: pb.RolloverBudgetRequest) -> RolloverRequest:
    """Parse RolloverBudgetRequest."""
    return RolloverRequest(
        early=request.early,
        next_amount=money_or_none(request, "next_amount"),
        next_period_end=date_from_text(request.next_period_end_date),
    )


def to_proto(
    closed: BudgetRow, opened: BudgetRow | None, *, moved_holds: int, opened_budgets: int, dry_run: bool
) -> Rollover:
    """Convert a rollover; the budget that a dry run would open has no id, since it is not stored."""
    opened_message = convert.budgets.to_proto(opened) if opened else None
    if opened_message and dry_run:
        opened_message.id = ""
    return Rollover(
        closed=convert.budgets.to_proto(closed),
        opened=opened_message,
        carried=opened_message.carried if opened_message else None,
        moved_hold_count=moved_holds,
        opened_budget_count=opened_budgets,
    )
