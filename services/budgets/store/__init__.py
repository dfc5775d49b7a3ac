"""Every SQL statement of the budgets service, by noun; `group` is the engine's."""
