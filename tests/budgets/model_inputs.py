"""The tree of budgets of the model, and the amounts and keys of its requests."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from billing.budgets.v1.budget_pb2 import Budget
from billing.type.v1.money_pb2 import Money
from hypothesis import strategies as st

from tests.budgets.model import APPROVAL, BLOCK, TOLERANCE, WARN

CAP = 45_00


def money(cents: int) -> Money:
    return Money(currency_code="EUR", amount=f"{Decimal(cents) / 100:.2f}")


GOES_OVER: dict[str, tuple[dict[str, Any], Callable[[int], int]]] = {
    "nothing": ({}, lambda rest: 0),
    "all": ({"rollover": Budget.FULL}, lambda rest: max(rest, 0)),
    "some": ({"rollover": Budget.CAPPED, "rollover_cap": money(CAP)}, lambda rest: max(min(rest, CAP), 0)),
    "overspending too": ({"rollover": Budget.FULL, "carry_overspend": True}, lambda rest: rest),
}
"""What goes over to the next period: as it is asked for, and how much of what is left that is."""


TREE = (
    ("group", 1000_00, BLOCK, "", 0, "all"),
    ("sales", 600_00, TOLERANCE, "group", 1000, "some"),
    ("labs", 300_00, WARN, "group", 0, "overspending too"),
    ("north", 250_00, BLOCK, "sales", 0, "nothing"),
    ("south", 200_00, APPROVAL, "sales", 0, "some"),
    ("trial", 33_33, TOLERANCE, "labs", 333, "all"),
)
NAMES = [name for name, *_ in TREE]
AMOUNTS = st.sampled_from([1, 5_00, 33_33, 99_99, 120_00, 250_00]) | st.integers(1, 90_00)
PARTS = st.none() | AMOUNTS
SHARED = st.none() | st.integers(0, 2)
"""A new key, or one of three that are used again and again, with the same input or another."""
LINES = st.lists(st.tuples(st.sampled_from(NAMES), AMOUNTS, SHARED), min_size=1, max_size=6)
EXPIRIES_MAX = 1


def cents(text: str) -> int:
    return int(Decimal(text) * 100)
