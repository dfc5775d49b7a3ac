"""Servicers of the gRPC services in billing.approvals.v1."""

from collections.abc import Sequence

from eventing.bus import EventBus
from kit.db import Database
from services.approvals.clients import Clients
from services.approvals.rpc.approvals import ApprovalServicer
from services.approvals.rpc.delegations import DelegationServicer
from services.approvals.rpc.rules import ApprovalRuleServicer
from services.approvals.service.opening import OpeningSaga
from serving.calls import Servicer
from serving.pages import Pages


def servicers(
    db: Database, pages: Pages, clients: Clients, opening: OpeningSaga, *, bus: EventBus
) -> Sequence[Servicer]:
    """Return the servicers of all gRPC services."""
    return (
        ApprovalServicer(db, pages, clients, opening, bus=bus),
        ApprovalRuleServicer(db, pages, clients),
        DelegationServicer(db, pages, clients),
    )
