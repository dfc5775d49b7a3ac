"""Use cases of the approvals service, for RPCs, consumers and timers alike."""

from services.approvals.service import (
    approvals,
    approvers,
    conditions,
    decisions,
    delegations,
    opening,
    planning,
    rollovers,
    routing,
    rules,
    simulations,
    users,
)

__all__ = [
    "approvals",
    "approvers",
    "conditions",
    "decisions",
    "delegations",
    "opening",
    "planning",
    "rollovers",
    "routing",
    "rules",
    "simulations",
    "users",
]
