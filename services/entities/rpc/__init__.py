"""The gRPC side: a servicer for each service of billing.entities.v1."""

from collections.abc import Sequence

from clients.directory import Directory
from kit.db import Database
from services.entities.clients import Approvals
from services.entities.rpc.allocation_rules import AllocationRuleServicer
from services.entities.rpc.allocations import AllocationServicer
from services.entities.rpc.amendments import AmendmentServicer
from services.entities.rpc.contracts import ContractServicer
from services.entities.rpc.costs import CostServicer
from services.entities.rpc.departments import DepartmentServicer
from services.entities.rpc.entities import EntityServicer
from services.entities.rpc.rates import ExchangeRateServicer
from serving.calls import Servicer
from serving.pages import Pages


def servicers(db: Database, pages: Pages, directory: Directory, approvals: Approvals) -> Sequence[Servicer]:
    """All of them."""
    return (
        EntityServicer(db, pages),
        DepartmentServicer(db, pages, directory),
        ExchangeRateServicer(db, pages),
        AllocationServicer(db, pages),
        CostServicer(db),
        AllocationRuleServicer(db, pages),
        ContractServicer(db, pages, approvals),
        AmendmentServicer(db, pages, approvals),
    )
