"""Conversion between protobuf messages and rows or domain values."""

from services.budgets.convert import (
    alerts,
    allocated_costs,
    approvals,
    availability,
    budgets,
    entries,
    holds,
    numbers,
    period_locks,
    postings,
    reports,
    rollovers,
    transfers,
    unbudgeted,
)

__all__ = [
    "alerts",
    "allocated_costs",
    "approvals",
    "availability",
    "budgets",
    "entries",
    "holds",
    "numbers",
    "period_locks",
    "postings",
    "reports",
    "rollovers",
    "transfers",
    "unbudgeted",
]
