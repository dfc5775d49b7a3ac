"""Amounts that go from one budget to another."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final

from clients.rates import RateQuery, Rates
from kit import clock
from kit.db import WriteSession
from kit.errors import InvalidFields, Violation
from kit.money import DIGITS_MAX, Money
from kit.origin import Origin
from kit.rates import Rate, RateMissing
from services.budgets import domain, service, store
from services.budgets.domain.budgets import BudgetAction
from services.budgets.domain.entries import EntryType
from services.budgets.domain.postings import Entry
from services.budgets.domain.transfers import TransferRequest
from services.budgets.errors.budgets import CurrencyMismatch
from services.budgets.errors.transfers import TransferExceedsBudget
from services.budgets.models.budgets import BudgetRow

_LARGEST: Final = Decimal(10**DIGITS_MAX)


@dataclass(frozen=True, slots=True)
class TransferResult:
    """The budgets after a transfer, and its two entries."""

    source: BudgetRow
    target: BudgetRow
    source_entry: Entry
    target_entry: Entry


async def find_rate(
    exchange: Rates, origin: Origin, ask: TransferRequest, source: BudgetRow, target: BudgetRow
) -> Rate | None:
    """The rate from one budget to the other, None where both are in one currency or there is none.

    Asked for outside a transaction, and judged inside it: after the key was looked up.
    """
    if source.currency_code == target.currency_code:
        return None
    today = _today(target)
    if ask.rate is not None:
        return Rate(ask.rate, today)
    (rate,) = await exchange.find(origin, [RateQuery(source.currency_code, target.currency_code, today)])
    return rate


def _today(target: BudgetRow) -> date:
    """The day whose rate a transfer to the budget takes."""
    return domain.rates.days(target.balance.terms, clock.now())[0]


async def transfer(tx: WriteSession, ask: TransferRequest, rate: Rate | None) -> TransferResult:
    """Lower the amount of one budget and raise that of the other; raises why that can't be done."""
    source, target = await store.budgets.lock_pair(tx, ask.source_id, ask.target_id)
    _check_rate(source, target, ask, rate)
    for budget in (source, target):
        domain.budgets.advance(budget.id, budget.state, BudgetAction.CHANGE)
    if ask.amount.currency != source.currency_code:
        raise CurrencyMismatch(source.id, given=ask.amount.currency, currency=source.currency_code)
    reaches = domain.rates.convert(ask.amount, target.currency_code, rate, None).amount if rate else ask.amount
    _check_fits(source, target, ask.amount, reaches)
    source.amount -= ask.amount.amount
    target.amount += reaches.amount
    applied: dict[str, Any] = {"rate": rate.rate, "rate_date": rate.rate_date} if rate else {}
    left = service.entries.record(
        tx, [source], EntryType.TRANSFER_OUT, ask.amount.amount,
        moved_amount=-ask.amount.amount, counterpart_id=target.id, description=ask.reason, **applied,
    )  # fmt: skip
    came = service.entries.record(
        tx, [target], EntryType.TRANSFER_IN, reaches.amount,
        moved_amount=reaches.amount, counterpart_id=source.id, description=ask.reason,
        original=ask.amount if rate else None, **applied,
    )  # fmt: skip
    for budget in sorted((source, target), key=lambda budget: budget.id):
        await service.alerts.settle(tx, budget)
    return TransferResult(source, target, left, came)


def _check_rate(source: BudgetRow, target: BudgetRow, ask: TransferRequest, rate: Rate | None) -> None:
    """Raise RateMissing, or InvalidFields for a rate where there is nothing to convert."""
    if source.currency_code == target.currency_code:
        if ask.rate is not None:
            told = f"both budgets are in {source.currency_code}"
            raise InvalidFields([Violation("rate", told, "rate.needless")])
    elif rate is None:
        raise RateMissing(source.currency_code, to=target.currency_code, on=_today(target))


def _check_fits(source: BudgetRow, target: BudgetRow, amount: Money, reaches: Money) -> None:
    balance = source.balance
    most = domain.rollovers.transferable(balance)
    if amount.amount > most:
        raise TransferExceedsBudget(
            source.id,
            requested=amount,
            transferable=balance.money(most),
            amount=balance.money(balance.amount),
            used=balance.money(balance.used),
        )
    if target.amount + reaches.amount >= _LARGEST:
        told = f"the other budget may have at most {DIGITS_MAX} digits before the point"
        raise InvalidFields([Violation("amount.amount", told, "money.amount")])
