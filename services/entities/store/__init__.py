"""Every SQL statement of the entities service."""

from services.entities.store import (
    allocation_rules,
    allocations,
    amendments,
    bulk,
    commitments,
    contracts,
    costs,
    departments,
    entities,
    hierarchies,
    placements,
    purchase_orders,
    rates,
    scopes,
    splits,
    usage,
)

__all__ = [
    "allocation_rules",
    "allocations",
    "amendments",
    "bulk",
    "commitments",
    "contracts",
    "costs",
    "departments",
    "entities",
    "hierarchies",
    "placements",
    "purchase_orders",
    "rates",
    "scopes",
    "splits",
    "usage",
]
