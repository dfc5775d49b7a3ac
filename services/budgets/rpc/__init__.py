"""gRPC servicers of billing.budgets.v1."""

from collections.abc import Sequence

from eventing.bus import EventBus
from kit.db import Database
from services.budgets.clients import Clients
from services.budgets.rpc import alerts, budgets, ledger, period_locks, reports
from services.budgets.service.dependencies import Dependencies
from serving.calls import Servicer
from serving.pages import Pages

__all__ = ["alerts", "budgets", "ledger", "period_locks", "reports"]


def servicers(
    db: Database, pages: Pages, clients: Clients, dependencies: Dependencies, bus: EventBus
) -> Sequence[Servicer]:
    """Return a servicer for each gRPC service."""
    return (
        budgets.BudgetServicer(db, pages, clients, dependencies.allocated_costs),
        ledger.LedgerServicer(db, pages, clients, dependencies.ledger, dependencies.approval_holds),
        alerts.AlertServicer(db, pages, bus),
        reports.BudgetReportServicer(db, pages),
        period_locks.PeriodLockServicer(db, pages, clients),
    )
