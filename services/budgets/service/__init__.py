"""Use cases of the budgets service, called by RPCs, event handlers and timers alike."""

from services.budgets.service import (
    alerts,
    allocated_costs,
    approval_holds,
    availability,
    budgets,
    entries,
    forecasts,
    period_locks,
    rollovers,
    transfers,
)

__all__ = [
    "alerts",
    "allocated_costs",
    "approval_holds",
    "availability",
    "budgets",
    "entries",
    "forecasts",
    "period_locks",
    "rollovers",
    "transfers",
]
