"""From one period to the next: which days that has, and what is carried over. Pure."""

from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, Decimal

from kit.money import BP, Money, exponent
from services.budgets import domain
from services.budgets.domain.balances import LARGEST, ZERO, Balance
from services.budgets.domain.budgets import OverspendPolicy, PeriodType, Rollover
from services.budgets.domain.periods import Period


def next_period(period_type: PeriodType, anchor: date, current: Period, custom_end: date | None) -> Period:
    """The period after `current`; a CUSTOM one ends at `custom_end`.

    Raises ValueError where a CUSTOM period has no end after its start, and where another is given one.
    """
    if period_type is not PeriodType.CUSTOM:
        if custom_end is not None:
            raise ValueError(f"the end of a {period_type} period is computed")
        return domain.periods.period_of(period_type, anchor, current.number + 1)
    if custom_end is None or custom_end <= current.end:
        raise ValueError(f"a CUSTOM period from {current.end} must end after that")
    return Period(current.number + 1, current.end, custom_end)


def carried_over(
    left: Balance,
    *,
    rollover: Rollover,
    cap: Decimal | None,
    carry_overspend: bool,
    aside: Decimal,
    next_amount: Decimal,
) -> Decimal:
    """What goes over to the next period from a budget whose open holds, `aside` in all, have just left it.

    Overspending goes over only if `carry_overspend`. Otherwise `rollover` says how much of what is left goes over; and
    where the holds need more than the next amount, they bring it along as far as it is left, in any case as much as a
    policy that sets a limit asks for them.
    """
    rest = left.available
    if rest < 0:
        carried = rest if carry_overspend else ZERO
    elif rollover is Rollover.NONE:
        carried = ZERO
    elif rollover is Rollover.CAPPED and cap is not None:
        carried = min(rest, cap)
    else:
        carried = rest
    if aside <= 0:
        return carried
    carried = max(carried, min(rest, aside - next_amount))
    approved = left.terms.policy is OverspendPolicy.REQUIRE_APPROVAL
    return carried if approved else max(carried, least_total(left, aside) - next_amount)


def least_total(balance: Balance, used: Decimal) -> Decimal:
    """What the budget must have at least, by its policy, for so much to be used of it."""
    policy = balance.terms.policy
    if used <= 0 or policy is OverspendPolicy.WARN:
        return -LARGEST
    if policy is OverspendPolicy.ALLOW_WITHIN_TOLERANCE:
        return (used * BP / (BP + balance.terms.tolerance_bp)).quantize(_unit(balance), ROUND_CEILING)
    return used


def transferable(balance: Balance) -> Decimal:
    """The most that may be taken away from the amount: something stays, and enough for what is used of it."""
    return max(ZERO, min(balance.amount - _unit(balance), balance.total - least_total(balance, balance.used)))


def _unit(balance: Balance) -> Decimal:
    return Decimal(1).scaleb(-(exponent(balance.terms.currency) or 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloverRequest:
    """How somebody wants a budget to be rolled over."""

    early: bool = False
    next_amount: Money | None = None
    next_period_end: date | None = None
