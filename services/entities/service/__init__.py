"""Use cases of the entities service, for RPCs, consumers and timers alike."""

from services.entities.service import (
    allocation_rules,
    allocations,
    amendments,
    contracts,
    costs,
    departments,
    entities,
    field_violations,
    placements,
    purchase_orders,
    rates,
    renewals,
    scopes,
    splits,
    tax_ids,
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
    "field_violations",
    "placements",
    "purchase_orders",
    "rates",
    "renewals",
    "scopes",
    "splits",
    "tax_ids",
    "usage",
]
