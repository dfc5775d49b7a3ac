"""What a simulator said for the tenant of a test."""

from collections.abc import AsyncIterator, Callable
from uuid import UUID

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from eventing import bus
from kit.settings import Settings
from tests.harness.observe import PublishedEvents, subscribed


@pytest.fixture(scope="session")
async def jetstream(settings: Callable[..., Settings]) -> AsyncIterator[JetStreamContext]:
    """The stream of the worker."""
    client, jetstream = await bus.connect(settings("budgets"))
    yield jetstream
    await client.close()


@pytest.fixture
async def told(nats: Client, tenant: UUID) -> AsyncIterator[PublishedEvents]:
    """What outside systems say for the tenant from here on."""
    told = PublishedEvents()
    subscription = await nats.subscribe(f"platform.*.v1.*.{tenant.hex}", cb=told.take)
    await subscribed(nats)
    yield told
    await subscription.unsubscribe()
