"""Errors of the budgets service; errors.proto documents their reasons."""
