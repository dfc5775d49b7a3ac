"""Our services, composed by their main modules and run in the test process on real ports."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from billing.approvals.v1.approval_rule_service_pb2_grpc import ApprovalRuleServiceStub
from billing.approvals.v1.approval_service_pb2_grpc import ApprovalServiceStub
from billing.approvals.v1.delegation_service_pb2_grpc import DelegationServiceStub
from billing.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from billing.budgets.v1.alert_service_pb2_grpc import AlertServiceStub
from billing.budgets.v1.budget_report_service_pb2_grpc import BudgetReportServiceStub
from billing.budgets.v1.budget_service_pb2_grpc import BudgetServiceStub
from billing.budgets.v1.ledger_service_pb2_grpc import LedgerServiceStub
from billing.budgets.v1.period_lock_service_pb2_grpc import PeriodLockServiceStub
from billing.entities.v1.allocation_rule_service_pb2_grpc import AllocationRuleServiceStub
from billing.entities.v1.allocation_service_pb2_grpc import AllocationServiceStub
from billing.entities.v1.amendment_service_pb2_grpc import AmendmentServiceStub
from billing.entities.v1.billing_profile_service_pb2_grpc import BillingProfileServiceStub
from billing.entities.v1.contract_service_pb2_grpc import ContractServiceStub
from billing.entities.v1.cost_service_pb2_grpc import CostServiceStub
from billing.entities.v1.credit_note_service_pb2_grpc import CreditNoteServiceStub
from billing.entities.v1.department_service_pb2_grpc import DepartmentServiceStub
from billing.entities.v1.entity_service_pb2_grpc import EntityServiceStub
from billing.entities.v1.exchange_rate_service_pb2_grpc import ExchangeRateServiceStub
from billing.entities.v1.invoice_document_service_pb2_grpc import InvoiceDocumentServiceStub
from billing.entities.v1.invoice_payment_service_pb2_grpc import InvoicePaymentServiceStub
from billing.entities.v1.invoice_schedule_service_pb2_grpc import InvoiceScheduleServiceStub
from billing.entities.v1.invoice_service_pb2_grpc import InvoiceServiceStub
from billing.entities.v1.invoice_statement_service_pb2_grpc import InvoiceStatementServiceStub
from billing.entities.v1.line_hold_service_pb2_grpc import LineHoldServiceStub
from billing.operations.v1.operations_service_pb2_grpc import OperationsServiceStub
from grpc import aio
from pydantic import SecretStr

from kit.settings import Settings
from serving.server import Service, serving
from tests.harness.databases import Copy
from tests.harness.tokens import AUDIENCE, ISSUER, Keys

StubsT = TypeVar("StubsT")


class Entities:
    """Stubs of the entities service."""

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel
        self.entities = EntityServiceStub(channel)
        self.departments = DepartmentServiceStub(channel)
        self.rates = ExchangeRateServiceStub(channel)
        self.allocations = AllocationServiceStub(channel)
        self.allocation_rules = AllocationRuleServiceStub(channel)
        self.contracts = ContractServiceStub(channel)
        self.amendments = AmendmentServiceStub(channel)
        self.costs = CostServiceStub(channel)
        self.billing_profiles = BillingProfileServiceStub(channel)
        self.invoices = InvoiceServiceStub(channel)
        self.invoice_documents = InvoiceDocumentServiceStub(channel)
        self.invoice_schedules = InvoiceScheduleServiceStub(channel)
        self.invoice_statements = InvoiceStatementServiceStub(channel)
        self.credit_notes = CreditNoteServiceStub(channel)
        self.line_holds = LineHoldServiceStub(channel)
        self.invoice_payments = InvoicePaymentServiceStub(channel)
        self.operations = OperationsServiceStub(channel)
        self.audit = AuditServiceStub(channel)


class Budgets:
    """Stubs of the budgets service."""

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel
        self.budgets = BudgetServiceStub(channel)
        self.ledger = LedgerServiceStub(channel)
        self.alerts = AlertServiceStub(channel)
        self.reports = BudgetReportServiceStub(channel)
        self.period_locks = PeriodLockServiceStub(channel)
        self.operations = OperationsServiceStub(channel)
        self.audit = AuditServiceStub(channel)


class Approvals:
    """Stubs of the approvals service."""

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel
        self.approvals = ApprovalServiceStub(channel)
        self.rules = ApprovalRuleServiceStub(channel)
        self.delegations = DelegationServiceStub(channel)
        self.operations = OperationsServiceStub(channel)
        self.audit = AuditServiceStub(channel)


@dataclass(frozen=True, slots=True)
class Served(Generic[StubsT]):
    """A service that runs in the test process."""

    address: str
    settings: Settings
    service: Service
    stubs: StubsT


def settings_for(service: str, database: Copy, nats_url: str, keys: Keys, **changed: Any) -> Settings:
    """Return the settings of a service."""
    defaults: dict[str, Any] = {
        "service": service,
        "database_url": SecretStr(database.url(f"{service}_app")),
        "nats_url": nats_url,
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "jwks": str(keys.jwks),
        "service_jwks": str(keys.service_jwks),
        "service_key": keys.service_key(service),
        "page_key": SecretStr("a secret of the tests"),
        "trace_ratio": 0.0,
    }
    return Settings(**{**defaults, **changed})


@contextlib.asynccontextmanager
async def served(
    settings: Settings, compose: Callable[[Settings], Service], stubs: Callable[[aio.Channel], StubsT]
) -> AsyncIterator[Served[StubsT]]:
    """Run the service until the block ends."""
    service = compose(settings)
    async with serving(settings, service) as address, aio.insecure_channel(address) as channel:
        yield Served(address, settings, service, stubs(channel))
