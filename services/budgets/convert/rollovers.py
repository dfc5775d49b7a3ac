"""Transfers and rollovers: requests to what the use cases take, and what came of them to messages."""

from decimal import Decimal

from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1.rollover_pb2 import Rollover, Transfer

from contract.values import date_from_text, money_from_proto, money_to_proto
from kit import ids
from kit.errors import InvalidFields, Violation
from services.budgets.convert.budgets import budget_to_proto
from services.budgets.convert.numbers import rate_text
from services.budgets.service.rollovers import RolledOver, RolloverAsk
from services.budgets.service.transfers import TransferAsk, Transferred


def transfer_from_proto(request: pb.TransferBudgetRequest) -> TransferAsk:
    """What TransferBudget asks for; raises InvalidFields for a budget to itself, and for a rate of nothing."""
    if request.to_budget_id == request.id:
        raise InvalidFields([Violation("to_budget_id", "must be another budget", "transfer.itself")])
    rate = Decimal(request.rate) if request.rate else None
    if rate is not None and not rate:
        raise InvalidFields([Violation("rate", "must be above zero", "rate.positive")])
    return TransferAsk(
        source_id=ids.BUDGET.parse(request.id),
        target_id=ids.BUDGET.parse(request.to_budget_id, "to_budget_id"),
        amount=money_from_proto(request.amount),
        rate=rate,
        reason=request.reason,
    )


def transfer_to_proto(done: Transferred, *, tried: bool) -> Transfer:
    """What a transfer did, or would do where it was only `tried`."""
    source_entry, target_entry = ("", "") if tried else map(ids.ENTRY.format, (entry.id for entry in done.entries))
    return Transfer(
        source=budget_to_proto(done.source),
        target=budget_to_proto(done.target),
        amount=money_to_proto(done.amount),
        target_amount=money_to_proto(done.target_amount),
        rate=rate_text(done.rate.rate) if done.rate else "",
        rate_date=done.rate.rate_date.isoformat() if done.rate else "",
        source_entry_id=source_entry,
        target_entry_id=target_entry,
    )


def rollover_from_proto(request: pb.RolloverBudgetRequest) -> RolloverAsk:
    """What RolloverBudget asks for."""
    return RolloverAsk(
        early=request.early,
        next_amount=money_from_proto(request.next_amount) if request.HasField("next_amount") else None,
        next_period_end=date_from_text(request.next_period_end_date),
    )


def rollover_to_proto(done: RolledOver, *, tried: bool) -> Rollover:
    """What a rollover did, or would do where it was only `tried`."""
    opened = budget_to_proto(done.opened) if done.opened else None
    if opened and tried:
        opened.id = ""
    return Rollover(
        closed=budget_to_proto(done.closed),
        opened=opened,
        carried=opened.carried if opened else None,
        moved_hold_count=done.moved_holds,
        opened_budget_count=done.opened_budgets,
    )
