"""The licensing simulator provisions and releases licenses on events of contracts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID, uuid4

import pytest
from billing.entities.v1.events_pb2 import (
    ContractActivated,
    ContractAmended,
    ContractExpired,
    ContractRenewed,
    ContractTerminated,
)
from google.protobuf.message import Message
from nats.js import JetStreamContext
from outside.licensing.v1.licensing_pb2 import LicenseProvisioned, LicenseProvisioningFailed, LicenseReleased

from contract import validation
from deploy.simulators import licensing, publishing
from kit import tasks
from tests.harness.observe import PublishedEvents

CONTRACT = "con_" + "7" * 32
Publish = Callable[..., Awaitable[None]]


@pytest.fixture
async def publish(nats_url: str, jetstream: JetStreamContext, tenant: UUID) -> AsyncIterator[Publish]:
    """Run the simulator; yields a function that publishes an event of the entities service."""
    simulator = asyncio.create_task(licensing.run(nats_url))

    async def publish_event(event: Message, *, event_id: UUID | None = None) -> None:
        await publishing.publish(jetstream, event, tenant, "/billing/entities", event_id=event_id)

    yield publish_event
    await tasks.cancel_and_wait(simulator)


async def test_active_contract_gets_its_tier_and_seats(publish: Publish, outside_events: PublishedEvents) -> None:
    await publish(ContractActivated(contract_id=CONTRACT, license_tier="gold", seats=250))
    event = await outside_events.first(LicenseProvisioned)
    assert (event.contract_id, event.tier, event.seats) == (CONTRACT, "gold", 250)
    validation.check(event)


async def test_amended_contract_keeps_its_license(publish: Publish, outside_events: PublishedEvents) -> None:
    await publish(ContractActivated(contract_id=CONTRACT, license_tier="gold", seats=250))
    await outside_events.first(LicenseProvisioned)
    await publish(ContractAmended(contract_id=CONTRACT, license_tier="platinum", seats=300))
    first, second = await outside_events.at_least(2, LicenseProvisioned)
    assert (second.tier, second.seats) == ("platinum", 300)
    assert first.license_id == second.license_id


@pytest.mark.parametrize(("tier", "seats"), [(licensing.UNAVAILABLE, 1), ("gold", licensing.SEATS_MAX + 1)])
async def test_unavailable_license_fails_with_a_reason(
    publish: Publish, outside_events: PublishedEvents, tier: str, seats: int
) -> None:
    await publish(ContractActivated(contract_id=CONTRACT, license_tier=tier, seats=seats))
    event = await outside_events.first(LicenseProvisioningFailed)
    assert (event.contract_id, event.tier, event.seats, bool(event.reason)) == (CONTRACT, tier, seats, True)
    validation.check(event)


@pytest.mark.parametrize("kind", [ContractTerminated, ContractExpired, ContractRenewed])
async def test_license_of_an_ended_contract_is_released(
    publish: Publish, outside_events: PublishedEvents, kind: Callable[..., Message]
) -> None:
    await publish(ContractActivated(contract_id=CONTRACT, seats=3))
    await publish(kind(contract_id=CONTRACT))
    released, provisioned = await outside_events.first(LicenseReleased), await outside_events.first(LicenseProvisioned)
    assert released.license_id == provisioned.license_id
    validation.check(released)


async def test_renewal_gets_its_own_license_and_releases_the_previous_one(
    publish: Publish, outside_events: PublishedEvents
) -> None:
    successor = "con_" + "8" * 32
    await publish(ContractActivated(contract_id=CONTRACT, seats=3))
    await publish(ContractActivated(contract_id=successor, renewed_from_id=CONTRACT, seats=5))
    before, after = await outside_events.at_least(2, LicenseProvisioned)
    assert (after.contract_id, after.seats) == (successor, 5)
    assert after.license_id != before.license_id
    assert outside_events.of(LicenseReleased) == []  # both contracts are in force
    await publish(ContractRenewed(contract_id=CONTRACT, renewed_to_id=successor))
    released = await outside_events.first(LicenseReleased)
    assert (released.contract_id, released.license_id) == (CONTRACT, before.license_id)
    validation.check(released)


async def test_contract_without_license_is_ignored(publish: Publish, outside_events: PublishedEvents) -> None:
    await publish(ContractActivated(contract_id=CONTRACT))
    await publish(ContractActivated(contract_id=CONTRACT, seats=1))
    await outside_events.first(LicenseProvisioned)
    assert len(outside_events.messages) == 1


async def test_redelivered_event_gets_one_reply(
    publish: Publish, outside_events: PublishedEvents, jetstream: JetStreamContext
) -> None:
    """The id of the reply is derived from that of the event, so that consumers skip the duplicate."""
    event_id, other = uuid4(), "con_" + "8" * 32
    for _ in range(2):
        await publish(ContractActivated(contract_id=CONTRACT, seats=1), event_id=event_id)
    await publish(ContractActivated(contract_id=other, seats=1))
    await outside_events.at_least(2, LicenseProvisioned)
    assert (
        licensing.reply_to("ContractActivated", {"contract_id": CONTRACT, "seats": 1})
        == outside_events.of(LicenseProvisioned)[0]
    )
    assert {event.contract_id for event in outside_events.of(LicenseProvisioned)} == {CONTRACT, other}
    assert len({(message.headers or {})["ce-id"] for message in outside_events.messages}) == 2


async def test_invalid_events_are_skipped(
    publish: Publish, outside_events: PublishedEvents, jetstream: JetStreamContext, tenant: UUID
) -> None:
    subject = f"billing.entities.v1.ContractActivated.{tenant.hex}"
    for body in (b"{", b"[]", b"{}", b'{"contract_id": "con_1", "seats": "many"}'):
        await jetstream.publish(subject, body, headers={"ce-id": str(uuid4())})
    await publish(ContractActivated(contract_id=CONTRACT, seats=2))
    assert (await outside_events.first(LicenseProvisioned)).seats == 2
