"""Use case of transfers: move amount from one budget to another."""

from dataclasses import dataclass
from datetime import date
from typing import Any

from clients.rates import RateQuery, Rates
from kit import clock
from kit.db import WriteSession
from kit.origin import Origin
from kit.rates import Rate, RateMissing
from services.budgets import domain, service, store
from services.budgets.domain.budgets import BudgetAction
from services.budgets.domain.entries import EntryType
from services.budgets.domain.postings import Entry
from services.budgets.domain.transfers import TransferRequest
from services.budgets.errors.budgets import CurrencyMismatch
from services.budgets.errors.fields import InvalidField
from services.budgets.models.budgets import BudgetRow


@dataclass(frozen=True, slots=True)
class TransferResult:
    """The budgets after a transfer, and its two entries."""

    source: BudgetRow
    target: BudgetRow
    source_entry: Entry
    target_entry: Entry


async def find_rate(
    rates: Rates, origin: Origin, request: TransferRequest, source: BudgetRow, target: BudgetRow
) -> Rate | None:
    """Return the rate of the transfer; None if both budgets have the same currency or there is no rate.

    Call it before the transaction. `transfer` raises RateMissing, so that a repeated request gets its first response.
    """
    if source.currency_code == target.currency_code:
        return None
    today = _rate_date(target)
    if request.rate is not None:
        return Rate(request.rate, today)
    (rate,) = await rates.find(origin, [RateQuery(source.currency_code, target.currency_code, today)])
    return rate


def _rate_date(target: BudgetRow) -> date:
    """Return today in the time zone of the target."""
    return domain.rates.days(target.balance.terms, clock.now())[0]


async def transfer(tx: WriteSession, request: TransferRequest, rate: Rate | None) -> TransferResult:
    """Lower the amount of the source and raise that of the target, with an entry in both ledgers.

    Raises BudgetNotFound, BudgetStateForbids, CurrencyMismatch, RateMissing, AmountTooSmall, AmountTooLarge,
    TransferExceedsBudget,
    InvalidField.
    """
    source, target = await store.budgets.lock_pair(tx, request.source_id, request.target_id)
    _check_rate(source, target, request, rate)
    for budget in (source, target):
        domain.budgets.advance(budget.id, budget.state, BudgetAction.CHANGE)
    amount = request.amount
    if amount.currency != source.currency_code:
        raise CurrencyMismatch(source.id, given=amount.currency, currency=source.currency_code)
    target_amount = domain.rates.convert(amount, target.currency_code, rate, None).amount if rate else amount
    domain.transfers.check_fits(source.balance, target.balance, amount, target_amount)
    source.amount -= amount.amount
    target.amount += target_amount.amount
    rate_fields: dict[str, Any] = {"rate": rate.rate, "rate_date": rate.rate_date} if rate else {}
    source_entry = service.entries.record(
        tx, [source], EntryType.TRANSFER_OUT, amount.amount,
        moved_amount=-amount.amount, counterpart_id=target.id, description=request.reason, **rate_fields,
    )  # fmt: skip
    target_entry = service.entries.record(
        tx, [target], EntryType.TRANSFER_IN, target_amount.amount,
        moved_amount=target_amount.amount, counterpart_id=source.id, description=request.reason,
        original=amount if rate else None, **rate_fields,
    )  # fmt: skip
    for budget in sorted((source, target), key=lambda budget: budget.id):
        await service.alerts.settle(tx, budget)
    return TransferResult(source, target, source_entry, target_entry)


def _check_rate(source: BudgetRow, target: BudgetRow, request: TransferRequest, rate: Rate | None) -> None:
    """Raise RateMissing, or InvalidField for a rate between budgets with the same currency."""
    if source.currency_code == target.currency_code:
        if request.rate is not None:
            raise InvalidField("rate", f"both budgets are in {source.currency_code}; leave it out", "rate.needless")
    elif rate is None:
        raise RateMissing(source.currency_code, to=target.currency_code, on=_rate_date(target))
