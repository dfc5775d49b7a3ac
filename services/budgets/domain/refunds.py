"""Refunds: what was charged comes back, at most once. Pure."""

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from uuid import UUID

from kit.money import Money, exponent
from services.budgets.domain.balances import Movement
from services.budgets.domain.entries import EntryType
from services.budgets.errors.budgets import CurrencyMismatch
from services.budgets.errors.charges import RefundExceedsCharge


@dataclass(frozen=True, slots=True)
class Charged:
    """A charge, or a capture, with what was refunded of it; `original` is in the currency in which it was made."""

    id: UUID
    budget_id: UUID
    entry_type: EntryType
    amount: Money
    original: Money
    refunded: Decimal
    original_refunded: Decimal


@dataclass(frozen=True, slots=True)
class Refund:
    """How much comes back, in the budget's currency and in that of the charge."""

    amount: Money
    original: Money
    movement: Movement


def refund(charged: Charged, asked: Money | None) -> Refund:
    """Give back `asked`, in the currency of the charge or of its budget, or all that is left where None.

    A charge in another currency comes back at the rate at which it was made: after each refund both sums agree to the
    last digit of their currency, and after the last one both are the whole. What is less than such a digit moves
    nothing yet. Raises RefundExceedsCharge or CurrencyMismatch.
    """
    left = charged.amount.amount - charged.refunded
    original_left = charged.original.amount - charged.original_refunded
    available = Money(original_left, charged.original.currency)
    if asked is None:
        amount, original = left, original_left
    elif asked.currency == charged.original.currency:
        original = asked.amount
        amount = _share(charged.amount, charged.original_refunded + original, charged.original) - charged.refunded
    elif asked.currency == charged.amount.currency:
        available = Money(left, charged.amount.currency)
        amount = asked.amount
        original = _share(charged.original, charged.refunded + amount, charged.amount) - charged.original_refunded
    else:
        raise CurrencyMismatch(charged.budget_id, given=asked.currency, currency=charged.amount.currency)
    if amount > left or original > original_left or not (amount or original):
        raise RefundExceedsCharge(charged.id, requested=asked or available, available=available)
    captured = -amount if charged.entry_type is EntryType.CAPTURE else Decimal(0)
    return Refund(
        Money(amount, charged.amount.currency),
        Money(original, charged.original.currency),
        Movement(spent=-amount, captured=captured),
    )


def _share(whole: Money, part: Decimal, of: Money) -> Decimal:
    """`part` of `of`, as that much of `whole`, to the last digit of its currency."""
    unit = Decimal(1).scaleb(-(exponent(whole.currency) or 0))
    return (whole.amount * part / of.amount).quantize(unit, ROUND_HALF_EVEN)
