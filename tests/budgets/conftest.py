"""Fixtures of the budgets tests: a user of the role finance with an entity."""

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import UUID

import asyncpg
import pytest
from nats.aio.client import Client

from tests.budgets.allocated_costs import CostEvents
from tests.budgets.budgets_api import BudgetsApi
from tests.harness.callers import Caller
from tests.harness.events import Replica
from tests.harness.services import Budgets, Entities, Served


@pytest.fixture
def api_for(budgets: Budgets, entities: Entities) -> Callable[[Caller], BudgetsApi]:
    """Return the API as another caller."""
    return lambda who: BudgetsApi(who, budgets, entities)


@pytest.fixture
def api(api_for: Callable[[Caller], BudgetsApi], finance: Caller) -> BudgetsApi:
    return api_for(finance)


@pytest.fixture
async def company(api: BudgetsApi) -> str:
    """A company that owns the budgets of `api`."""
    api.entity_id = await api.company()
    return api.entity_id


@pytest.fixture
def cost_events(nats: Client, tenant: UUID, api: BudgetsApi, admin: "asyncpg.Pool[asyncpg.Record]") -> CostEvents:
    """Events that reach the budgets service."""
    return CostEvents(nats, tenant, api, admin)


@pytest.fixture
async def replica(budgets_served: Served[Budgets], tenant: UUID) -> AsyncIterator[Replica]:
    """A second budgets service."""
    from services.budgets.main import compose

    service = compose(budgets_served.settings)
    jobs = [asyncio.ensure_future(job()) for job in service.jobs]
    yield Replica(service, "budgets", tenant)
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    await service.db.close()
