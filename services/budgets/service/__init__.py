"""Use cases of the budgets service, called by RPCs, event handlers and timers alike."""

from services.budgets.service import (
    alerts,
    budgets,
    checks,
    entries,
    forecasts,
    funds,
    moves,
    rollovers,
    transfers,
    usage,
)

__all__ = ["alerts", "budgets", "checks", "entries", "forecasts", "funds", "moves", "rollovers", "transfers", "usage"]
