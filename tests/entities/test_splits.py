"""Splits are exact: examples, and a million random cases."""

import random
from decimal import Decimal
from fractions import Fraction

import pytest

from kit.money import Money
from services.entities import domain
from services.entities.errors.allocation_rules import SplitWeightNegative, SplitWeightsAllZero

CASES = 1_000_000
PARTS = 8
"""Cases per test, so that workers share them."""


def shares(amount: str, currency: str, *weights: str) -> list[str]:
    """The shares as texts."""
    split = domain.splits.split_money(Money(Decimal(amount), currency), [Decimal(weight) for weight in weights])
    return [share.amount.text() for share in split]


class TestExamples:
    @pytest.mark.parametrize(
        ("amount", "currency", "weights", "expected"),
        [
            ("0.01", "EUR", ["9500", "500"], ["0.01", "0.00"]),
            ("0.01", "EUR", ["500", "9500"], ["0.00", "0.01"]),
            ("100.00", "EUR", ["1", "1", "1"], ["33.34", "33.33", "33.33"]),
            ("200.00", "EUR", ["1", "1", "1"], ["66.67", "66.67", "66.66"]),
            ("0.05", "EUR", ["1", "1", "1"], ["0.02", "0.02", "0.01"]),
            ("100", "JPY", ["1", "1", "1"], ["34", "33", "33"]),
            ("0.010", "BHD", ["1", "1", "1"], ["0.004", "0.003", "0.003"]),
            ("10.00", "EUR", ["0", "3", "0", "1"], ["0.00", "7.50", "0.00", "2.50"]),
            ("1.00", "EUR", ["0.000001", "0.000002"], ["0.33", "0.67"]),
            ("1.00", "EUR", ["120.5", "79.5"], ["0.60", "0.40"]),
            ("7.77", "EUR", ["42"], ["7.77"]),
            ("0.00", "EUR", ["1", "2"], ["0.00", "0.00"]),
            ("9999999999999.99", "EUR", ["999999999999", "999999999999", "1"],
             ["4999999999997.50", "4999999999997.49", "5.00"]),
        ],
    )  # fmt: skip
    def test_examples(self, amount: str, currency: str, weights: list[str], expected: list[str]) -> None:
        assert shares(amount, currency, *weights) == expected

    def test_first_of_equal_remainders_gets_the_rest(self) -> None:
        assert domain.splits.split_units(1, [5, 5]) == [1, 0]
        assert domain.splits.split_units(3, [1, 1, 1, 1]) == [1, 1, 1, 0]
        assert domain.splits.split_units(1, [0, 5, 5]) == [0, 1, 0]

    def test_largest_remainder_gets_the_rest(self) -> None:
        assert domain.splits.split_units(10, [15, 18, 67]) == [1, 2, 7]  # 1.5, 1.8, 6.7

    def test_share_has_weight_and_exact_fraction(self) -> None:
        first, second = domain.splits.split_money(Money(Decimal("0.01"), "EUR"), [Decimal(9500), Decimal(500)])
        assert (first.weight, first.fraction) == (Decimal(9500), Fraction(19, 20))
        assert (second.weight, second.fraction) == (Decimal(500), Fraction(1, 20))

    def test_negative_weight_is_refused_with_its_index(self) -> None:
        with pytest.raises(SplitWeightNegative) as error:
            domain.splits.split_units(100, [1, 2, -1])
        assert error.value.metadata == {"target": "targets[2]"}

    @pytest.mark.parametrize("weights", [[], [0], [0, 0, 0]])
    def test_zero_weights_are_refused(self, weights: list[int]) -> None:
        with pytest.raises(SplitWeightsAllZero):
            domain.splits.split_units(100, weights)

    def test_negative_amount_is_refused(self) -> None:
        with pytest.raises(ValueError, match="negative amount"):
            domain.splits.split_units(-1, [1, 1])


class TestProperties:
    @pytest.mark.parametrize("part", range(PARTS))
    def test_a_million_random_splits(self, part: int) -> None:
        draw = random.Random(part)  # noqa: S311 - test data, the same in every run
        for case in range(CASES // PARTS):
            units, weights = drawn(draw)
            problem = broken_promise(units, weights, domain.splits.split_units(units, weights))
            assert problem is None, (part, case, units, weights, problem)

    def test_order_of_targets_matters_only_for_ties(self) -> None:
        draw = random.Random(PARTS)  # noqa: S311
        for _ in range(CASES // 20):
            units, weights = drawn(draw)
            order = list(range(len(weights)))
            draw.shuffle(order)
            shuffled = domain.splits.split_units(units, [weights[place] for place in order])
            again = [share for _, share in sorted(zip(order, shuffled, strict=True))]
            assert same_but_for_ties(units, weights, domain.splits.split_units(units, weights), again)


def drawn(draw: random.Random) -> tuple[int, list[int]]:
    """Units and weights: small and huge, with zeros and equal values."""
    kind = draw.random()
    most = 3 if kind < 0.3 else 10_000 if kind < 0.7 else 10**18
    weights = [int(draw.random() * most) for _ in range(1 + int(draw.random() * 6))]
    weights[int(draw.random() * len(weights))] += 1  # so that not all are zero
    return int(draw.random() * (10 if draw.random() < 0.3 else 10**15)), weights


def broken_promise(units: int, weights: list[int], split: list[int]) -> str | None:
    """The violated property of the shares; None if there is none."""
    if sum(split) != units:
        return "they do not sum to the whole"
    total = sum(weights)
    for share, weight in zip(split, weights, strict=True):
        if not -total < share * total - units * weight < total:
            return "one is a unit or more away from the exact share"
        if not weight and share:
            return "a share for weight zero"
    ordered = [share for _, share in sorted(zip(weights, split, strict=True))]
    if ordered != sorted(ordered):
        return "a smaller share for a larger weight"
    if not same_but_for_ties(units, weights, split, domain.splits.split_units(units, weights[::-1])[::-1]):
        return "it is another in the opposite order"
    return None


def same_but_for_ties(units: int, weights: list[int], one: list[int], other: list[int]) -> bool:
    """True if both results are equal, except for units between targets with equal remainders."""
    if one == other:
        return True
    total = sum(weights)
    lost = [units * weight % total for weight in weights]
    return all(
        sum(share for share, of in zip(one, lost, strict=True) if of == tied)
        == sum(share for share, of in zip(other, lost, strict=True) if of == tied)
        for tied in lost
    )
