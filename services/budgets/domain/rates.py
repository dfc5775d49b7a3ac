"""Amounts in a foreign currency: converted at the rate of their day, and at that of the plan. Pure."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from kit import rates
from kit.dates import date_in
from kit.money import Money
from kit.rates import Rate
from services.budgets.domain.balances import Terms
from services.budgets.errors.rates import AmountTooSmall


@dataclass(frozen=True, slots=True)
class Conversion:
    """An amount in the budget's currency, and how it was converted."""

    amount: Money
    rate: Decimal
    rate_date: date
    plan_amount: Decimal | None
    """The amount at the rate of the period's first day, None if that is unknown; the difference is the FX effect."""


def days(terms: Terms, at: datetime) -> tuple[date, date]:
    """Return the days, in the budget's time zone, whose rates convert an amount of this moment and its plan amount."""
    return date_in(terms.time_zone, at), terms.period_start


def convert(amount: Money, currency: str, of_day: Rate, of_plan: Rate | None) -> Conversion:
    """Return the amount in `currency`, rounded half to even. Without a plan rate the FX effect is unknown.

    Raises AmountTooSmall if nothing is left of it, and AmountTooLarge if it has more digits than Money may have at one
    of the rates.
    """
    converted = rates.convert(amount, currency, of_day)
    if not converted.amount:
        raise AmountTooSmall(amount, currency)
    planned = rates.convert(amount, currency, of_plan).amount if of_plan else None
    return Conversion(converted, of_day.rate, of_day.rate_date, planned)
