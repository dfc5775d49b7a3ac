"""The rules of cost allocations: what may be allocated, at which rate, and what counts as the same cost."""

from dataclasses import dataclass, fields
from datetime import date, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import Final, TypeAlias
from uuid import UUID

from kit.money import DIGITS_MAX, Money, exponent
from kit.rates import RateMissing
from services.entities.domain.rates import Derivation, DerivedRate
from services.entities.errors.allocations import AllocationDateTooFar, AmountTooLarge

AHEAD_DAYS_MAX: Final = 366
"""So many days after today a cost may belong to: prepaid for a year, but no slip of the pen."""


class AllocationSource(StrEnum):
    """Allocation.Source."""

    USAGE = "USAGE"
    INVOICE = "INVOICE"
    CONTRACT = "CONTRACT"
    MANUAL = "MANUAL"
    SPLIT = "SPLIT"


Document: TypeAlias = tuple[AllocationSource, str]
"""What a cost comes from: its source and `source_ref`. A document counts once, unless the latter is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationDraft:
    """A cost as it is to be allocated."""

    entity_id: UUID | None
    """None: that of the department."""
    department_id: UUID | None
    """None: the entity bears it as a whole."""
    category: str
    source: AllocationSource
    source_ref: str
    """The document it comes from, which counts once for each source; empty where there is none."""
    amount: Money
    """Above zero."""
    quantity: Decimal | None
    unit: str
    gl_code: str
    """Empty: the department's usual one."""
    counterparty_entity_id: UUID | None
    allocation_date: date
    description: str

    @property
    def document(self) -> Document:
        """What the cost comes from."""
        return self.source, self.source_ref


@dataclass(frozen=True, slots=True)
class Converted:
    """An amount in the entity's currency, and how it came about."""

    amount: Money
    rate: Decimal | None
    """None where it is the currency in which the cost arose."""
    rate_date: date | None


def check_date(day: date, today: date) -> None:
    """Raise AllocationDateTooFar for a day that is more than AHEAD_DAYS_MAX after today."""
    latest = today + timedelta(days=AHEAD_DAYS_MAX)
    if day > latest:
        raise AllocationDateTooFar(day, latest)


def convert(amount: Money, currency: str, day: date, found: DerivedRate | None) -> Converted:
    """The amount in `currency` at the rate found for the day, rounded half to even to its last digit.

    Of an amount that is tiny in that currency nothing may be left; the cost keeps its own amount. Raises RateMissing
    where there is no rate, AmountTooLarge where the result has more digits than Money may have.
    """
    if found is None:
        raise RateMissing(amount.currency, to=currency, on=day)
    if found.derivation is Derivation.SAME:
        return Converted(amount, None, None)
    unit = Decimal(1).scaleb(-(exponent(currency) or 0))
    converted = (amount.amount * found.rate).quantize(unit, ROUND_HALF_EVEN)
    if converted.adjusted() >= DIGITS_MAX:
        raise AmountTooLarge(amount, to=currency)
    return Converted(Money(converted, currency), found.rate, found.effective_date)


def differing_fields(given: AllocationDraft, kept: AllocationDraft) -> list[str]:
    """In which fields a cost that is sent again differs from what was allocated; what was left open does not differ."""
    left_open = {"entity_id": given.entity_id is None, "gl_code": not given.gl_code}
    return [
        field.name
        for field in fields(AllocationDraft)
        if not left_open.get(field.name) and getattr(given, field.name) != getattr(kept, field.name)
    ]
