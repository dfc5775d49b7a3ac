"""The licensing simulator answers what contracts say."""

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
from deploy.simulators import licensing
from deploy.simulators.telling import tell
from kit import tasks
from tests.harness.observe import PublishedEvents

CONTRACT = "con_" + "7" * 32
Say = Callable[..., Awaitable[None]]


@pytest.fixture
async def say(nats_url: str, jetstream: JetStreamContext, tenant: UUID) -> AsyncIterator[Say]:
    """Says an event of the entities service while the simulator runs."""
    running = asyncio.create_task(licensing.run(nats_url))

    async def publish(event: Message, *, event_id: UUID | None = None) -> None:
        await tell(jetstream, event, tenant, "/billing/entities", event_id=event_id)

    yield publish
    await tasks.cancel_and_wait(running)


async def test_an_active_contract_gets_its_tier_and_seats(say: Say, told: PublishedEvents) -> None:
    await say(ContractActivated(contract_id=CONTRACT, license_tier="gold", seats=250))
    answer = await told.first(LicenseProvisioned)
    assert (answer.contract_id, answer.tier, answer.seats) == (CONTRACT, "gold", 250)
    validation.check(answer)


async def test_an_amended_contract_keeps_its_license(say: Say, told: PublishedEvents) -> None:
    await say(ContractActivated(contract_id=CONTRACT, license_tier="gold", seats=250))
    await told.first(LicenseProvisioned)
    await say(ContractAmended(contract_id=CONTRACT, license_tier="platinum", seats=300))
    first, second = await told.at_least(2, LicenseProvisioned)
    assert (second.tier, second.seats) == ("platinum", 300)
    assert first.license_id == second.license_id


@pytest.mark.parametrize(("tier", "seats"), [(licensing.UNAVAILABLE, 1), ("gold", licensing.SEATS_MAX + 1)])
async def test_what_is_not_there_fails_with_a_reason(say: Say, told: PublishedEvents, tier: str, seats: int) -> None:
    await say(ContractActivated(contract_id=CONTRACT, license_tier=tier, seats=seats))
    answer = await told.first(LicenseProvisioningFailed)
    assert (answer.contract_id, answer.tier, answer.seats, bool(answer.reason)) == (CONTRACT, tier, seats, True)
    validation.check(answer)


@pytest.mark.parametrize("kind", [ContractTerminated, ContractExpired, ContractRenewed])
async def test_the_license_of_a_contract_that_ends_is_taken_back(
    say: Say, told: PublishedEvents, kind: Callable[..., Message]
) -> None:
    await say(ContractActivated(contract_id=CONTRACT, seats=3))
    await say(kind(contract_id=CONTRACT))
    released, provisioned = await told.first(LicenseReleased), await told.first(LicenseProvisioned)
    assert released.license_id == provisioned.license_id
    validation.check(released)


async def test_a_successor_has_a_license_of_its_own_and_that_of_before_goes_when_it_takes_over(
    say: Say, told: PublishedEvents
) -> None:
    successor = "con_" + "8" * 32
    await say(ContractActivated(contract_id=CONTRACT, seats=3))
    await say(ContractActivated(contract_id=successor, renewed_from_id=CONTRACT, seats=5))
    before, after = await told.at_least(2, LicenseProvisioned)
    assert (after.contract_id, after.seats) == (successor, 5)
    assert after.license_id != before.license_id
    assert told.of(LicenseReleased) == []  # both are in force
    await say(ContractRenewed(contract_id=CONTRACT, renewed_to_id=successor))
    released = await told.first(LicenseReleased)
    assert (released.contract_id, released.license_id) == (CONTRACT, before.license_id)
    validation.check(released)


async def test_a_contract_without_license_is_not_answered(say: Say, told: PublishedEvents) -> None:
    await say(ContractActivated(contract_id=CONTRACT))
    await say(ContractActivated(contract_id=CONTRACT, seats=1))
    await told.first(LicenseProvisioned)
    assert len(told.messages) == 1


async def test_what_is_said_twice_is_answered_by_one_event(
    say: Say, told: PublishedEvents, jetstream: JetStreamContext
) -> None:
    """The answer's id follows from the event's, so that who hears both does it once."""
    event_id, other = uuid4(), "con_" + "8" * 32
    for _ in range(2):
        await say(ContractActivated(contract_id=CONTRACT, seats=1), event_id=event_id)
    await say(ContractActivated(contract_id=other, seats=1))
    await told.at_least(2, LicenseProvisioned)
    assert (
        licensing.answer_to("ContractActivated", {"contract_id": CONTRACT, "seats": 1})
        == told.of(LicenseProvisioned)[0]
    )
    assert {answer.contract_id for answer in told.of(LicenseProvisioned)} == {CONTRACT, other}
    assert len({(message.headers or {})["ce-id"] for message in told.messages}) == 2


async def test_an_event_that_it_does_not_understand_stops_nothing(
    say: Say, told: PublishedEvents, jetstream: JetStreamContext, tenant: UUID
) -> None:
    subject = f"billing.entities.v1.ContractActivated.{tenant.hex}"
    for body in (b"{", b"[]", b"{}", b'{"contract_id": "con_1", "seats": "many"}'):
        await jetstream.publish(subject, body, headers={"ce-id": str(uuid4())})
    await say(ContractActivated(contract_id=CONTRACT, seats=2))
    assert (await told.first(LicenseProvisioned)).seats == 2
