"""Fixtures of tests/entities."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity

from kit.origin import Origin
from kit.settings import Settings
from services.entities.main import compose
from tests.entities.allocation_api import AllocationApi
from tests.entities.amendment_api import AmendmentApi
from tests.entities.billing_profile_api import BillingProfileApi
from tests.entities.contract_api import ContractApi
from tests.entities.credit_note_api import CreditNoteApi, DisputeApi, IssuedInvoices
from tests.entities.entities_api import EntitiesApi
from tests.entities.invoice_api import InvoiceApi
from tests.entities.invoice_statement_api import InvoiceStatementApi
from tests.entities.rules_api import RulesApi
from tests.entities.timer_replicas import TimerlessService
from tests.harness.callers import Caller
from tests.harness.databases import Copy
from tests.harness.events import Replica
from tests.harness.services import Entities, Served, served
from tests.harness.tokens import Keys


@pytest.fixture
def api_for(entities: Entities) -> Callable[[Caller], EntitiesApi]:
    """EntitiesApi of another caller."""
    return lambda caller: EntitiesApi(caller, entities)


@pytest.fixture
def api(api_for: Callable[[Caller], EntitiesApi], finance: Caller) -> EntitiesApi:
    return api_for(finance)


@pytest.fixture
def contracts(api: EntitiesApi) -> ContractApi:
    return ContractApi(api)


@pytest.fixture
def profiles(entities: Entities, finance: Caller) -> BillingProfileApi:
    return BillingProfileApi(finance, entities)


@pytest.fixture
def invoices(entities: Entities, finance: Caller) -> InvoiceApi:
    return InvoiceApi(finance, entities)


@pytest.fixture
def statements(entities: Entities, finance: Caller) -> InvoiceStatementApi:
    return InvoiceStatementApi(finance, entities)


@pytest.fixture
def credit_notes(entities: Entities, finance: Caller) -> CreditNoteApi:
    return CreditNoteApi(finance, entities)


@pytest.fixture
def disputes(entities: Entities, keys: Keys, tenant: UUID) -> DisputeApi:
    """The disputes service, which calls on behalf of the tenant."""
    return DisputeApi(Caller(tenant, "service:disputes", keys.service_token("disputes", tenant)), entities)


@pytest.fixture
def replica(entities_served: Served[Entities], tenant: UUID) -> Replica:
    """The service, to which events are passed directly."""
    return Replica(entities_served.service, "entities", tenant, actor="/platform/payments")


@pytest.fixture
def issued(api: EntitiesApi, costs: AllocationApi, profiles: BillingProfileApi, invoices: InvoiceApi) -> IssuedInvoices:
    return IssuedInvoices(api, costs, profiles, invoices)


@pytest.fixture
def amendments(api: EntitiesApi) -> AmendmentApi:
    return AmendmentApi(api)


@pytest.fixture
def rules(entities: Entities, finance: Caller) -> RulesApi:
    return RulesApi(finance, entities)


@pytest.fixture
async def acme(api: EntitiesApi) -> Entity:
    return await api.create_entity("ACME")


@pytest.fixture
async def it(api: EntitiesApi, acme: Entity) -> Department:
    return await api.create_department(acme, "IT")


@pytest.fixture
async def targets(api: EntitiesApi, acme: Entity) -> list[Department]:
    """The departments that costs are split between."""
    return [await api.create_department(acme, code) for code in ("ENG", "SALES", "HR")]


@pytest.fixture
def service_api(api_for: Callable[[Caller], EntitiesApi], service_caller: Caller) -> EntitiesApi:
    return api_for(service_caller)


@pytest.fixture
def service_caller(keys: Keys, tenant: UUID) -> Caller:
    """Another service, which calls on behalf of the tenant."""
    return Caller(tenant, "service:reporting", keys.service_token("reporting", tenant))


@pytest.fixture
def costs_of(entities: Entities) -> Callable[[Caller], AllocationApi]:
    """AllocationApi of another caller."""
    return lambda caller: AllocationApi(caller, entities)


@pytest.fixture
def costs(costs_of: Callable[[Caller], AllocationApi], finance: Caller) -> AllocationApi:
    return costs_of(finance)


@pytest.fixture
def other_tenant(
    api_for: Callable[[Caller], EntitiesApi], costs_of: Callable[[Caller], AllocationApi], caller: Callable[..., Caller]
) -> tuple[EntitiesApi, AllocationApi]:
    """EntitiesApi and AllocationApi of a caller of another tenant."""
    other = caller("finance", tenant=uuid4())
    return api_for(other), costs_of(other)


@pytest.fixture
def origin(finance: Caller) -> Origin:
    """The origin of transactions that a test opens itself."""
    return Origin(tenant_id=finance.tenant_id, actor="alice", trace=finance.trace, deadline=time.monotonic() + 30)


@pytest.fixture(scope="session")
async def timerless(
    settings: Callable[..., Settings], fresh_database: Callable[[], Awaitable[Copy]], database: Copy
) -> AsyncIterator[TimerlessService]:
    copy = await fresh_database()
    service_settings = settings("entities", database=copy)
    async with (
        asyncpg.create_pool(copy.admin_url, min_size=1, max_size=2) as pool,
        served(service_settings, lambda each: replace(compose(each), jobs=(), handlers=()), Entities) as entities,
    ):
        yield TimerlessService(entities, copy, pool)
