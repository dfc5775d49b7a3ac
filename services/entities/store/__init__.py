"""Every SQL statement of the entities service."""

from services.entities.store import (
    allocation_rules,
    allocations,
    amendments,
    contracts,
    costs,
    departments,
    entities,
    managers,
    placements,
    purchase_orders,
    rates,
    said,
    scopes,
    trees,
    unnested,
    usage,
)

__all__ = [
    "allocation_rules",
    "allocations",
    "amendments",
    "contracts",
    "costs",
    "departments",
    "entities",
    "managers",
    "placements",
    "purchase_orders",
    "rates",
    "said",
    "scopes",
    "trees",
    "unnested",
    "usage",
]
