"""Splits: input types, and the division of a cost into shares that sum to it exactly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Final
from uuid import UUID

from kit import dates
from kit.money import Money, apportion, unit
from services.entities import domain
from services.entities.domain.allocation_rules import SplitTerms
from services.entities.domain.allocations import ConvertedAmount
from services.entities.domain.rates import DerivedRate
from services.entities.errors.allocation_rules import SplitWeightNegative, SplitWeightsAllZero

WEIGHT_PLACES: Final = 6
"""Decimal places of a weight, the same as of a quantity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostToSplit:
    """A cost before it is split."""

    amount: Money
    allocation_date: date
    category: str
    gl_code: str
    """Empty: the GL code of each department."""
    description: str
    source_ref: str
    source_department_id: UUID | None
    """The department that the cost was allocated to; None: none, or an entity as a whole."""
    source_entity_id: UUID | None = None
    """The entity that the cost was allocated to."""
    counterparty_entity_id: UUID | None = None
    """The supplier, if it is an entity of the group."""
    contract_id: UUID | None = None
    """The contract whose commitment the cost counts for."""
    booked: ConvertedAmount | None = None
    """What the cost was allocated with, in the currency of its entity; None if it was not allocated before."""


@dataclass(frozen=True, slots=True)
class UsagePeriod:
    """The days from `start` until before `end`."""

    start: date
    end: date


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitDraft:
    """Input for a split: either `rule_id` or `terms`, and either `cost` or `allocation_id`."""

    rule_id: UUID | None
    terms: SplitTerms | None
    cost: CostToSplit | None
    allocation_id: UUID | None
    source_ref: str
    """Identifies the cost, which is split only once."""
    description: str
    """Empty: the description of the allocation."""
    usage: UsagePeriod | None
    """Period of the usage that decides the shares; None: the month of the cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFilter:
    """Filters of a list of splits; None or empty text does not filter."""

    rule_id: UUID | None = None
    source_ref: str = ""
    start: date | None = None
    end: date | None = None
    """First day after the period."""


@dataclass(frozen=True, slots=True)
class Share:
    """The share of one target."""

    weight: Decimal
    fraction: Fraction
    """The exact fraction of the whole that corresponds to the weight."""
    amount: Money
    """The amount of the share; differs from the exact one by less than a minor unit."""


def month_of(day: date) -> UsagePeriod:
    """Return the month that includes the day."""
    first = day.replace(day=1)
    return UsagePeriod(first, dates.months_later(first, 1))


def split_money(amount: Money, weights: Sequence[Decimal]) -> Sequence[Share]:
    """Split an amount in proportion to the weights, in their order. The shares sum to the amount exactly.

    Raises SplitWeightNegative, SplitWeightsAllZero.
    """
    minor_unit = unit(amount.currency)
    integers = [int(weight.scaleb(WEIGHT_PLACES)) for weight in weights]
    units = split_units(_units(amount), integers)
    total = sum(integers)
    return [
        Share(weight, Fraction(integer, total), Money(share * minor_unit, amount.currency))
        for weight, integer, share in zip(weights, integers, units, strict=True)
    ]


def convert_shares(
    cost: CostToSplit, shares: Sequence[Money], currencies: Sequence[str], rates: Mapping[str, DerivedRate | None]
) -> Sequence[ConvertedAmount]:
    """Return each share in the currency of its entity, of `currencies`; `rates` has the rate of each currency.

    The shares in one currency are converted together and their sum is divided by the largest-remainder method, so that
    rounding doesn't add up. In the currency that the cost was allocated in, they sum to what it was booked with, at its
    own rate. Shares of zero need no rate. Raises RateMissing, AmountTooLarge.
    """
    converted: dict[int, ConvertedAmount] = {}
    for currency in dict.fromkeys(currencies):
        indexes = [index for index, each in enumerate(currencies) if each == currency]
        group = [shares[index] for index in indexes]
        total = _convert_total(cost, sum(group, Money.zero(cost.amount.currency)), currency, rates)
        for index, amount in zip(indexes, _divide(total.amount, group), strict=True):
            converted[index] = ConvertedAmount(amount, total.rate, total.rate_date)
            domain.allocations.check_size(shares[index], converted[index])
    return [converted[index] for index in range(len(shares))]


def _convert_total(
    cost: CostToSplit, total: Money, currency: str, rates: Mapping[str, DerivedRate | None]
) -> ConvertedAmount:
    booked = cost.booked
    if not total.amount:
        return ConvertedAmount(Money.zero(currency), None, None)
    if booked and booked.amount.currency == currency:
        return replace(booked, amount=booked.amount.pro_rata(total.amount, cost.amount.amount))
    return domain.allocations.convert_total(total, currency, cost.allocation_date, rates.get(currency))


def _divide(total: Money, shares: Sequence[Money]) -> Sequence[Money]:
    """Divide the converted sum of shares in proportion to them; a share of zero gets nothing."""
    weights = [_units(share) for share in shares]
    parts = split_units(_units(total), weights) if any(weights) else weights
    return [Money(part * unit(total.currency), total.currency) for part in parts]


def _units(amount: Money) -> int:
    return int(amount.amount / unit(amount.currency))


def split_units(units: int, weights: Sequence[int]) -> list[int]:
    """Split a number of minor units in proportion to the weights, in their order, by the largest-remainder method.

    See `kit.money.apportion`. The shares sum to the whole, differ from the exact ones by less than one unit, are not
    smaller for a larger weight, and are zero for weight zero.

    Raises SplitWeightNegative, SplitWeightsAllZero (also for no weights), and ValueError if `units` is negative:
    negative amounts are reversals, which are not split.
    """
    if units < 0:
        raise ValueError("a negative amount can't be split")
    for index, weight in enumerate(weights):
        if weight < 0:
            raise SplitWeightNegative(index)
    total = sum(weights)
    if not total:
        raise SplitWeightsAllZero
    return apportion([Fraction(units * weight, total) for weight in weights])
