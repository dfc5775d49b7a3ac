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


CARRIED_FORWARD: dict[str, tuple[dict[str, Any], Callable[[int], int]]] = {
    "none": ({}, lambda rest: 0),
    "full": ({"rollover": Budget.FULL}, lambda rest: max(rest, 0)),
    "capped": ({"rollover": Budget.CAPPED, "rollover_cap": money(CAP)}, lambda rest: max(min(rest, CAP), 0)),
    "full and overspend": ({"rollover": Budget.FULL, "carry_overspend": True}, lambda rest: rest),
}
"""Fields of CreateBudgetRequest, and the function that returns how much of the rest is carried forward."""

TREE = (
    ("group", 1000_00, BLOCK, "", 0, "full"),
    ("sales", 600_00, TOLERANCE, "group", 1000, "capped"),
    ("labs", 300_00, WARN, "group", 0, "full and overspend"),
    ("north", 250_00, BLOCK, "sales", 0, "none"),
    ("south", 200_00, APPROVAL, "sales", 0, "capped"),
    ("trial", 33_33, TOLERANCE, "labs", 333, "full"),
)
NAMES = [name for name, *_ in TREE]
AMOUNTS = st.sampled_from([1, 5_00, 33_33, 99_99, 120_00, 250_00]) | st.integers(1, 90_00)
PARTS = st.none() | AMOUNTS
SHARED = st.none() | st.integers(0, 2)
"""None for a new key, or one of three keys that are reused with the same or other input."""
LINES = st.lists(st.tuples(st.sampled_from(NAMES), AMOUNTS, SHARED), min_size=1, max_size=6)
EXPIRIES_MAX = 1


def cents(text: str) -> int:
    return int(Decimal(text) * 100)
