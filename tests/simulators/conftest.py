"""Fixtures: the stream, and the events that a simulator publishes for the tenant of a test."""

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
async def outside_events(nats: Client, tenant: UUID) -> AsyncIterator[PublishedEvents]:
    """Events that outside systems publish for this tenant during the test."""
    outside_events = PublishedEvents()
    subscription = await nats.subscribe(f"platform.*.v1.*.{tenant.hex}", cb=outside_events.take)
    await subscribed(nats)
    yield outside_events
    await subscription.unsubscribe()
