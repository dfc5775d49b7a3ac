"""Fixtures of the tests of access: the services over gRPC, and the worlds."""

from uuid import UUID, uuid4

import pytest

from tests.access.world import Api, World
from tests.harness.services import Approvals, Budgets, Entities, Served
from tests.harness.tokens import Keys


@pytest.fixture(scope="session")
def api(entities_served: Served[Entities], budgets_served: Served[Budgets], approvals_served: Served[Approvals]) -> Api:
    """All services."""
    served = (entities_served, budgets_served, approvals_served)
    return Api({each.settings.service: each.stubs.channel for each in served})


@pytest.fixture(scope="session")
def access_tenant() -> UUID:
    """The tenant that owns the resources."""
    return uuid4()


@pytest.fixture(scope="session")
async def world(api: Api, keys: Keys, access_tenant: UUID) -> World:
    """The resources that other callers try to reach."""
    return await World.build(api, keys.token(access_tenant, role="billing_admin", subject="owner"), "zebra")
