"""SQLAlchemy models of the schema `entities`."""

from services.entities.models import (
    allocation_rules,
    allocations,
    amendments,
    contracts,
    costs,
    documents,
    entities,
    purchase_orders,
    rates,
    splits,
)

__all__ = [
    "allocation_rules",
    "allocations",
    "amendments",
    "contracts",
    "costs",
    "documents",
    "entities",
    "purchase_orders",
    "rates",
    "splits",
]
