"""Conversion between rows, domain values and protobuf messages."""

from services.entities.convert import (
    allocation_rules,
    allocations,
    amendments,
    billing_profiles,
    changes,
    contracts,
    costs,
    departments,
    entities,
    hierarchies,
    invoice_schedules,
    invoices,
    rates,
    renewals,
    splits,
    usage,
)

__all__ = [
    "allocation_rules",
    "allocations",
    "amendments",
    "billing_profiles",
    "changes",
    "contracts",
    "costs",
    "departments",
    "entities",
    "hierarchies",
    "invoice_schedules",
    "invoices",
    "rates",
    "renewals",
    "splits",
    "usage",
]
