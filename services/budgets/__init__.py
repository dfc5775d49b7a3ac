"""Budgets, charges and alerts."""
