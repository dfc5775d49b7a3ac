"""Approval requests: rules, approvers, decisions, and holds on budgets."""
