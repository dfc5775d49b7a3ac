"""SQL statements of the budgets service."""

from services.budgets.store import alerts, budgets, group, keys, ledger, owners, reports, rollovers, statements, usage

__all__ = ["alerts", "budgets", "group", "keys", "ledger", "owners", "reports", "rollovers", "statements", "usage"]
