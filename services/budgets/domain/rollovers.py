"""Rollovers: the next period, and what is carried forward to it."""

from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, Decimal
from typing import Final

from kit.money import BP, DIGITS_MAX, Money, round_to
from services.budgets import domain
from services.budgets.domain.balances import LARGEST, ZERO, Balance, Movement
from services.budgets.domain.budgets import OverspendPolicy, PeriodType, Rollover
from services.budgets.domain.periods import Period
from services.budgets.errors.fields import InvalidField

CARRIED_MAX: Final = LARGEST - Decimal(10**DIGITS_MAX)
"""The most that is carried forward, so that the total with any amount is at most LARGEST."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloverRequest:
    """Input for a rollover; the defaults are those of an automatic one."""

    early: bool = False
    """Roll over although the period is not over."""
    next_amount: Money | None = None
    """None: the same as now."""
    next_period_end: date | None = None
    """Required for CUSTOM, and only for CUSTOM."""


@dataclass(frozen=True, slots=True)
class OpenHolds:
    """Sums over the open holds and commitments of one budget, without those of the budgets below it."""

    held: Decimal = ZERO
    committed: Decimal = ZERO
    count: int = 0

    @property
    def movement(self) -> Movement:
        """The change of a budget that the holds move to."""
        return Movement(held=self.held, committed=self.committed)


def next_period(period_type: PeriodType, anchor: date, current: Period, custom_end: date | None) -> Period:
    """Return the period after `current`; a CUSTOM period ends on `custom_end`.

    Raises InvalidField if a CUSTOM period has no end after its start, or if another type is given an end.
    """
    if period_type is not PeriodType.CUSTOM:
        if custom_end is not None:
            raise _invalid_end(f"the end of a {period_type} period is computed; leave it out")
        try:
            return domain.periods.period_of(period_type, anchor, current.number + 1)
        except ValueError as error:  # after the year 9999
            raise _invalid_end(str(error)) from None
    if custom_end is None or custom_end <= current.end:
        raise _invalid_end(f"is required for CUSTOM and must be after {current.end}")
    return Period(current.number + 1, current.end, custom_end)


def _invalid_end(description: str) -> InvalidField:
    return InvalidField("next_period_end_date", description, "period.end")


def carried_forward(
    balance: Balance,
    *,
    rollover: Rollover,
    cap: Decimal | None,
    carry_overspend: bool,
    moved_holds: Decimal,
    next_amount: Decimal,
) -> Decimal:
    """Return the amount that is carried forward to the next period; negative for overspending.

    `balance` is that of the closing budget after its open holds, `moved_holds` in all, have moved to the next one.
    Overspending is carried forward only with `carry_overspend`; anything else as `rollover` and `cap` determine. If the
    moved holds exceed the next amount, at least the difference is carried forward, as far as it is left. Unless the
    policy is REQUIRE_APPROVAL, the next total is then at least what the policy requires for the holds.
    At most CARRIED_MAX is carried forward; the rest stays in the old period.
    """
    rest = balance.available
    if rest < 0:
        carried = rest if carry_overspend else ZERO
    elif rollover is Rollover.NONE:
        carried = ZERO
    elif rollover is Rollover.CAPPED and cap is not None:
        carried = min(rest, cap)
    else:
        carried = rest
    if moved_holds <= 0:
        return _storable(carried)
    carried = max(carried, min(rest, moved_holds - next_amount))
    if balance.terms.policy is OverspendPolicy.REQUIRE_APPROVAL:
        return _storable(carried)
    return _storable(max(carried, least_total(balance, moved_holds) - next_amount))


def _storable(carried: Decimal) -> Decimal:
    return max(-LARGEST, min(carried, CARRIED_MAX))


def least_total(balance: Balance, used: Decimal) -> Decimal:
    """Return the smallest total (amount and carried forward) with which the policy allows `used`."""
    policy = balance.terms.policy
    if used <= 0 or policy is OverspendPolicy.WARN:
        return -LARGEST
    if policy is OverspendPolicy.ALLOW_WITHIN_TOLERANCE:
        return round_to(used * BP / (BP + balance.terms.tolerance_bp), balance.terms.currency, ROUND_CEILING)
    return used
