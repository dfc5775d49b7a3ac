"""Money in another currency: at the rate of the day it belongs to, and at that of the plan. Pure."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from zoneinfo import ZoneInfo

from kit.money import Money, exponent
from kit.rates import Rate
from services.budgets.domain.balances import Terms
from services.budgets.errors.rates import AmountTooSmall


@dataclass(frozen=True, slots=True)
class Conversion:
    """An amount in the budget's currency, and how it came about."""

    amount: Money
    rate: Decimal
    rate_date: date
    plan_amount: Decimal
    """What it would be at the rate of the first day of the budget's period: what is spent more than that is the effect
    of the exchange rate, and no spending."""


def days(terms: Terms, at: datetime) -> tuple[date, date]:
    """The day, in the budget's time zone, whose rate converts what belongs to a moment; and the day of the plan's."""
    return at.astimezone(ZoneInfo(terms.time_zone)).date(), terms.period_start


def convert(amount: Money, currency: str, of_day: Rate, of_plan: Rate | None) -> Conversion:
    """The amount in `currency`, rounded half to even to its last digit; without a plan rate there is no effect.

    Raises AmountTooSmall where nothing is left of it.
    """
    unit = Decimal(1).scaleb(-(exponent(currency) or 0))
    converted = (amount.amount * of_day.rate).quantize(unit, ROUND_HALF_EVEN)
    if not converted:
        raise AmountTooSmall(amount, currency)
    planned = (amount.amount * of_plan.rate).quantize(unit, ROUND_HALF_EVEN) if of_plan else converted
    return Conversion(Money(converted, currency), of_day.rate, of_day.rate_date, planned)
