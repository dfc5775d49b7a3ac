"""The budgets service: budgets, the ledger of their charges and holds, alerts and reports."""
