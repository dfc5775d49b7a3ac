"""How a cost is split over its targets: exactly, to the last minor unit of its currency."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from kit.money import Money, exponent
from services.entities.errors.allocation_rules import SplitWeightNegative, SplitWeightsAllZero

WEIGHT_PLACES: Final = 6
"""Decimal places of a weight: as many as a quantity has."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one target bears."""

    weight: Decimal
    fraction: Fraction
    """The exact part of the whole that its weight asks for."""
    amount: Money
    """That part of the amount to the minor unit: less than one away from the exact one."""


def split_money(amount: Money, weights: Sequence[Decimal]) -> Sequence[Share]:
    """Split an amount over targets by their weights, in their order; the shares sum exactly to it.

    Raises as `split_units` does.
    """
    unit = Decimal(1).scaleb(-(exponent(amount.currency) or 0))
    whole = [int(weight.scaleb(WEIGHT_PLACES)) for weight in weights]
    units = split_units(int(amount.amount / unit), whole)
    total = sum(whole)
    return [
        Share(weight, Fraction(part, total), Money(share * unit, amount.currency))
        for weight, part, share in zip(weights, whole, units, strict=True)
    ]


def split_units(units: int, weights: Sequence[int]) -> list[int]:
    """Split so many minor units over targets by their weights, in their order, by largest remainder.

    Every target gets its exact share rounded down; the units that are left go one each to those that lost most by
    rounding, of equal ones to the first. So the shares sum to the whole, each is less than a unit away from the exact
    one, who weighs more never gets less, and who weighs nothing gets nothing.

    Raises SplitWeightNegative for a weight below zero, SplitWeightsAllZero where all weights are zero or there are
    none, and ValueError for less than no units: what is taken back is reversed, not split.
    """
    if units < 0:
        raise ValueError("less than nothing can't be split")
    for place, weight in enumerate(weights):
        if weight < 0:
            raise SplitWeightNegative(place)
    total = sum(weights)
    if not total:
        raise SplitWeightsAllZero
    shares, lost = [], []
    for weight in weights:
        share, remainder = divmod(units * weight, total)
        shares.append(share)
        lost.append(remainder)
    left = units - sum(shares)
    for place in sorted(range(len(lost)), key=lost.__getitem__, reverse=True)[:left] if left else ():
        shares[place] += 1
    return shares
