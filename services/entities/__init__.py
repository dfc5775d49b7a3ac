"""The entities service: entities and departments, exchange rates, cost allocations, contracts."""
