"""SQL statements of the budgets service."""

from services.budgets.store import (
    alerts,
    allocated_costs,
    budgets,
    entries,
    holds,
    idempotency,
    owners,
    period_locks,
    reports,
    rollovers,
    unbudgeted,
)

__all__ = [
    "alerts",
    "allocated_costs",
    "budgets",
    "entries",
    "holds",
    "idempotency",
    "owners",
    "period_locks",
    "reports",
    "rollovers",
    "unbudgeted",
]
