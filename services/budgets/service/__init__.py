"""What can be done with budgets, as a finance person would say it."""
