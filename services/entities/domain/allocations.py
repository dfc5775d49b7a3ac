"""Allocations of costs: input types, conversion to the entity's currency, and duplicates."""

from dataclasses import dataclass, field, fields
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

from kit import rates
from kit.money import Money
from kit.rates import Rate, RateMissing
from services.entities.domain.rates import Derivation, DerivedRate
from services.entities.errors.allocations import AllocationDateTooFar

AHEAD_DAYS_MAX: Final = 366
"""Maximum number of days that a cost may be dated after today: covers costs prepaid for a year, and catches typos."""


class AllocationSource(StrEnum):
    """Allocation.Source."""

    USAGE = "USAGE"
    INVOICE = "INVOICE"
    CONTRACT = "CONTRACT"
    MANUAL = "MANUAL"
    SPLIT = "SPLIT"


Document: TypeAlias = tuple[AllocationSource, str]
"""The document that a cost comes from: source and `source_ref`. Unless that is empty, it is allocated only once, and
again after a reversal."""


@dataclass(frozen=True, slots=True)
class ConvertedAmount:
    """An amount in the entity's currency, with the rate that it was converted at."""

    amount: Money
    rate: Decimal | None
    """None if the currencies are the same."""
    rate_date: date | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationDraft:
    """Input for a new allocation."""

    entity_id: UUID | None
    """None: the entity of the department."""
    department_id: UUID | None
    """None: the cost belongs to the entity as a whole."""
    category: str
    source: AllocationSource
    source_ref: str
    """The document behind the cost, unique for each source; may be empty."""
    amount: Money
    """Above zero."""
    quantity: Decimal | None
    unit: str
    gl_code: str
    """Empty: the GL code of the department."""
    counterparty_entity_id: UUID | None
    contract_id: UUID | None
    """The contract that the cost arose under; None if it is not linked to one."""
    allocation_date: date
    description: str
    converted: ConvertedAmount | None = field(default=None, compare=False)
    """The amount in the entity's currency; None: it is converted at the rate of the date."""

    @property
    def document(self) -> Document:
        """The document that the cost comes from."""
        return self.source, self.source_ref


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditDraft:
    """Input for a credit of a part of an allocation."""

    allocation_id: UUID
    amount: Money
    """Above zero."""
    source_ref: str
    """The document of the credit; may be empty."""
    day: date | None
    """None: the date of the allocation."""
    reason: str


class AllocationPosition(NamedTuple):
    """Position in a list of allocations that is sorted by date, newest first."""

    day: date
    id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationQuery:
    """Filters and page of a list of allocations; None or empty text does not filter."""

    department_id: UUID
    include_descendants: bool
    start: date | None = None
    end: date | None = None
    """First day after the period."""
    category: str = ""
    source: AllocationSource | None = None
    after: AllocationPosition | None = None
    """None: start with the newest."""
    limit: int


def check_date(day: date, today: date) -> None:
    """Raise AllocationDateTooFar if `day` is more than AHEAD_DAYS_MAX days after today."""
    latest = today + timedelta(days=AHEAD_DAYS_MAX)
    if day > latest:
        raise AllocationDateTooFar(day, latest)


def convert(amount: Money, currency: str, day: date, rate: DerivedRate | None) -> ConvertedAmount:
    """Convert the amount to `currency` at the rate of the day, rounded half to even to the unit of the currency.

    A tiny amount may become zero; the allocation keeps the original amount as well. Raises RateMissing if there is no
    rate, AmountTooLarge.
    """
    converted = convert_total(amount, currency, day, rate)
    check_size(amount, converted)
    return converted


def convert_total(amount: Money, currency: str, day: date, rate: DerivedRate | None) -> ConvertedAmount:
    """Convert like `convert` a sum that may have more digits than a single amount. Raises RateMissing."""
    if rate is None:
        raise RateMissing(amount.currency, to=currency, on=day)
    if rate.derivation is Derivation.SAME:
        return ConvertedAmount(amount, None, None)
    return ConvertedAmount(amount.at_rate(rate.rate, currency), rate.rate, rate.effective_date)


def check_size(amount: Money, converted: ConvertedAmount) -> None:
    """Raise AmountTooLarge if the converted amount has more digits than Money may have."""
    if converted.rate is not None and converted.rate_date is not None:
        rates.check_size(amount, converted.amount, Rate(converted.rate, converted.rate_date))


def differing_fields(draft: AllocationDraft, stored: AllocationDraft) -> list[str]:
    """Return the fields in which a repeated draft differs from the stored one, except omitted optional fields."""
    omitted = {"entity_id": draft.entity_id is None, "gl_code": not draft.gl_code}
    return [
        each.name
        for each in fields(AllocationDraft)
        if each.compare and not omitted.get(each.name) and getattr(draft, each.name) != getattr(stored, each.name)
    ]
