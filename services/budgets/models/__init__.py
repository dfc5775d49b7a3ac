"""Tables of the schema `budgets`."""

from services.budgets.models import alerts, budgets, holds, ledger, period_locks, unbudgeted

__all__ = ["alerts", "budgets", "holds", "ledger", "period_locks", "unbudgeted"]
