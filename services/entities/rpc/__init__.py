"""gRPC servicers of the entities service, one for each service of billing.entities.v1."""

from collections.abc import Sequence

from kit.db import Database
from rendering.renderer import Renderer
from services.entities.clients import Clients
from services.entities.rpc import (
    allocation_rules,
    allocations,
    amendments,
    billing_profiles,
    contracts,
    costs,
    credit_notes,
    departments,
    entities,
    invoice_documents,
    invoice_payments,
    invoice_schedules,
    invoice_statements,
    invoices,
    line_holds,
    rates,
    scopes,
)
from serving.calls import Servicer
from serving.pages import Pages

__all__ = [
    "allocation_rules",
    "allocations",
    "amendments",
    "billing_profiles",
    "contracts",
    "costs",
    "credit_notes",
    "departments",
    "entities",
    "invoice_documents",
    "invoice_payments",
    "invoice_schedules",
    "invoice_statements",
    "invoices",
    "line_holds",
    "rates",
    "scopes",
    "servicers",
]


def servicers(db: Database, pages: Pages, clients: Clients, renderer: Renderer) -> Sequence[Servicer]:
    """Return all servicers."""
    return (
        entities.EntityServicer(db, pages),
        departments.DepartmentServicer(db, pages, clients.directory),
        rates.ExchangeRateServicer(db, pages),
        allocations.AllocationServicer(db, pages),
        costs.CostServicer(db),
        allocation_rules.AllocationRuleServicer(db, pages),
        contracts.ContractServicer(db, pages, clients.approvals),
        amendments.AmendmentServicer(db, pages, clients.approvals),
        billing_profiles.BillingProfileServicer(db, pages),
        invoices.InvoiceServicer(db, pages),
        invoice_documents.InvoiceDocumentServicer(db, renderer),
        invoice_schedules.InvoiceScheduleServicer(db, pages),
        invoice_statements.InvoiceStatementServicer(db, pages),
        credit_notes.CreditNoteServicer(db, pages),
        line_holds.LineHoldServicer(db),
        invoice_payments.InvoicePaymentServicer(db, pages),
    )
