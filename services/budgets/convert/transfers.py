"""Conversion of transfers."""

from decimal import Decimal

from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1.rollover_pb2 import Transfer

from contract.values import date_text, money_from_proto, money_to_proto
from kit import ids
from kit.money import Money
from services.budgets import convert
from services.budgets.domain.postings import Entry
from services.budgets.domain.transfers import TransferRequest
from services.budgets.models.budgets import BudgetRow


def request_from_proto(request: pb.TransferBudgetRequest) -> TransferRequest:
    """Parse TransferBudgetRequest."""
    return TransferRequest(
        source_id=ids.BUDGET.parse(request.id),
        target_id=ids.BUDGET.parse(request.to_budget_id, "to_budget_id"),
        amount=money_from_proto(request.amount),
        rate=Decimal(request.rate) if request.rate else None,
        reason=request.reason,
    )


def to_proto(
    source: BudgetRow, target: BudgetRow, source_entry: Entry, target_entry: Entry, *, dry_run: bool
) -> Transfer:
    """Convert a transfer; the entries of a dry run have no ids, since they are not stored."""
    return Transfer(
        source=convert.budgets.to_proto(source),
        target=convert.budgets.to_proto(target),
        amount=money_to_proto(Money(source_entry.amount, source_entry.currency_code)),
        target_amount=money_to_proto(Money(target_entry.amount, target_entry.currency_code)),
        rate=convert.numbers.rate_text(target_entry.rate),
        rate_date=date_text(target_entry.rate_date),
        source_entry_id="" if dry_run else ids.ENTRY.format(source_entry.id),
        target_entry_id="" if dry_run else ids.ENTRY.format(target_entry.id),
    )
