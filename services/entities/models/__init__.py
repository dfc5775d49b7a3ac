"""SQLAlchemy models of the schema `entities`."""

from services.entities.models import (
    allocation_rules,
    allocations,
    amendments,
    billing_profiles,
    contracts,
    costs,
    documents,
    entities,
    invoice_schedules,
    invoices,
    purchase_orders,
    rates,
    splits,
)

__all__ = [
    "allocation_rules",
    "allocations",
    "amendments",
    "billing_profiles",
    "contracts",
    "costs",
    "documents",
    "entities",
    "invoice_schedules",
    "invoices",
    "purchase_orders",
    "rates",
    "splits",
]
