"""Rows and values of the budgets service to messages and back; the only files that know both."""
