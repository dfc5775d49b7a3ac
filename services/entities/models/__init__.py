"""SQLAlchemy models of the schema `entities`."""

from services.entities.models import (
    allocation_rules,
    allocations,
    amendments,
    billing_profiles,
    contracts,
    costs,
    credit_notes,
    documents,
    entities,
    invoice_payments,
    invoice_schedules,
    invoices,
    line_holds,
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
    "credit_notes",
    "documents",
    "entities",
    "invoice_payments",
    "invoice_schedules",
    "invoices",
    "line_holds",
    "purchase_orders",
    "rates",
    "splits",
]
