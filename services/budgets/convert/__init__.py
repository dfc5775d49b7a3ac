"""Conversion between protobuf messages and rows or domain values."""

from services.budgets.convert import (
    alerts,
    approvals,
    budgets,
    holds,
    movements,
    numbers,
    reports,
    rollovers,
    transfers,
    usage,
)

__all__ = [
    "alerts",
    "approvals",
    "budgets",
    "holds",
    "movements",
    "numbers",
    "reports",
    "rollovers",
    "transfers",
    "usage",
]
