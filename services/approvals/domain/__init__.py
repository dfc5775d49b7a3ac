"""Pure rules and values of the approvals service, without I/O or a clock."""

from services.approvals.domain import (
    approvals,
    approvers,
    budgets,
    deadlines,
    decisions,
    delegations,
    eligibility,
    routes,
    rules,
    simulations,
    workflows,
)

__all__ = [
    "approvals",
    "approvers",
    "budgets",
    "deadlines",
    "decisions",
    "delegations",
    "eligibility",
    "routes",
    "rules",
    "simulations",
    "workflows",
]
