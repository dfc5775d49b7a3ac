"""Transfers between budgets: the request and its limits."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from uuid import UUID

from kit.money import DIGITS_MAX, Money, unit
from services.budgets import domain
from services.budgets.domain.balances import ZERO, Balance
from services.budgets.errors.fields import InvalidField
from services.budgets.errors.transfers import TransferExceedsBudget

_AMOUNT_LIMIT: Final = Decimal(10**DIGITS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRequest:
    """Input for a transfer."""

    source_id: UUID
    target_id: UUID
    amount: Money
    """In the currency of the source."""
    rate: Decimal | None
    """Units of the target's currency for one of the source's; None: the exchange rate of today."""
    reason: str


def check(request: TransferRequest) -> None:
    """Raise InvalidField for a transfer to the same budget, or for a rate of zero."""
    if request.target_id == request.source_id:
        raise InvalidField("to_budget_id", "must be another budget", "transfer.itself")
    if request.rate is not None and not request.rate:
        raise InvalidField("rate", "must be above zero", "rate.positive")


def transferable(balance: Balance) -> Decimal:
    """Return the largest amount that a budget can transfer: the rest is above zero and covers what is used."""
    least_total = domain.rollovers.least_total(balance, balance.used)
    return max(ZERO, min(balance.amount - unit(balance.terms.currency), balance.total - least_total))


def check_fits(source: Balance, target: Balance, amount: Money, target_amount: Money) -> None:
    """Raise TransferExceedsBudget, or InvalidField if the target would have too many digits."""
    most = transferable(source)
    if amount.amount > most:
        raise TransferExceedsBudget(
            source.terms.id,
            requested=amount,
            transferable=source.money(most),
            amount=source.money(source.amount),
            used=source.money(source.used),
        )
    if target.amount + target_amount.amount >= _AMOUNT_LIMIT:
        raise InvalidField(
            "amount.amount",
            f"the target budget may have at most {DIGITS_MAX} digits before the decimal point",
            "money.amount",
        )
