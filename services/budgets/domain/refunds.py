"""Refunds: a charge is reversed at most once, in parts or as a whole. Pure."""

from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from kit.money import Money
from services.budgets.domain.balances import ZERO, Movement
from services.budgets.domain.entries import EntryType
from services.budgets.errors.budgets import CurrencyMismatch
from services.budgets.errors.charges import RefundExceedsCharge


@dataclass(frozen=True, slots=True)
class Charged:
    """A charge or a capture with what was refunded of it; `original` is in the currency in which it was requested."""

    id: UUID
    budget_id: UUID
    entry_type: EntryType
    amount: Money
    original: Money
    refunded: Decimal
    original_refunded: Decimal


@dataclass(frozen=True, slots=True)
class Refund:
    """The refunded amount in the budget's currency and in that of the charge."""

    amount: Money
    original: Money
    movement: Movement


def refund(charged: Charged, requested: Money | None) -> Refund:
    """Refund an amount in the currency of the charge or of its budget, or all that is left of it (None).

    A charge in a foreign currency is refunded at its own rate: after each refund both sums agree to the smallest unit
    of their currency, and the last refund completes both. An amount that converts to less than that unit counts only in
    its own currency.
    Raises RefundExceedsCharge or CurrencyMismatch.
    """
    left = charged.amount.amount - charged.refunded
    original_left = charged.original.amount - charged.original_refunded
    available = Money(original_left, charged.original.currency)
    if requested is None:
        amount, original = left, original_left
    elif requested.currency == charged.original.currency:
        original = requested.amount
        total = charged.amount.pro_rata(charged.original_refunded + original, charged.original.amount)
        amount = total.amount - charged.refunded
    elif requested.currency == charged.amount.currency:
        available = Money(left, charged.amount.currency)
        amount = requested.amount
        total = charged.original.pro_rata(charged.refunded + amount, charged.amount.amount)
        original = total.amount - charged.original_refunded
    else:
        raise CurrencyMismatch(charged.budget_id, given=requested.currency, currency=charged.amount.currency)
    if amount > left or original > original_left or not (amount or original):
        raise RefundExceedsCharge(charged.id, requested=requested or available, available=available)
    captured = -amount if charged.entry_type is EntryType.CAPTURE else ZERO
    return Refund(
        Money(amount, charged.amount.currency),
        Money(original, charged.original.currency),
        Movement(spent=-amount, captured=captured),
    )
