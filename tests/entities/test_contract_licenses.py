"""Events of the licensing system about the licenses of contracts, also when they are delivered twice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias
from uuid import UUID

import asyncpg
import pytest
from billing.entities.v1.contract_pb2 import Contract
from google.protobuf.message import Message
from nats.aio.client import Client
from outside.licensing.v1.licensing_pb2 import LicenseProvisioned, LicenseProvisioningFailed, LicenseReleased

from deploy.simulators import licensing
from deploy.simulators.publishing import publish as publish_event
from kit import tasks
from tests.entities.contract_api import ContractApi, day, let_days_pass
from tests.entities.entities_api import EntitiesApi
from tests.entities.test_contract_states import wait_for_state
from tests.harness.observe import eventually

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Publish: TypeAlias = Callable[..., Awaitable[None]]


@pytest.fixture
def publish(nats: Client, tenant: UUID) -> Publish:
    """Publishes events of the licensing system."""

    async def publish_all(*events: Message) -> None:
        for event in events:
            await publish_event(nats.jetstream(), event, tenant, licensing.SOURCE)

    return publish_all


@pytest.fixture
async def licensing_system(nats_url: str) -> AsyncIterator[None]:
    """Runs the simulator of the licensing system during the test."""
    running = asyncio.create_task(licensing.run(nats_url))
    yield
    await tasks.cancel_and_wait(running)


@pytest.fixture
async def licensed(api: EntitiesApi, contracts: ContractApi) -> Contract:
    return await contracts.create_active(await api.create_entity(), license_tier="gold", seats=12)


async def test_license_is_provisioned(contracts: ContractApi, licensed: Contract, publish: Publish) -> None:
    event = LicenseProvisioned(contract_id=licensed.id, license_id="lic-1", tier="gold", seats=12)
    await publish(event, event)
    current = await wait_for_license_state(contracts, licensed, Contract.PROVISIONED)
    assert current.license_id == "lic-1"


async def test_reply_to_an_older_request_does_not_change_the_state(
    contracts: ContractApi, licensed: Contract, publish: Publish
) -> None:
    older = LicenseProvisioned(contract_id=licensed.id, license_id="lic-1", tier="gold", seats=10)
    await publish(older, LicenseProvisioningFailed(contract_id=licensed.id, reason="old", tier="silver", seats=12))

    async def with_license_id() -> list[Contract]:
        current = await contracts.get(licensed)
        return [current] if current.license_id else []

    (current,) = await eventually(with_license_id)
    assert current.license_state == Contract.REQUESTED


async def test_failure_is_cleared_by_a_later_success(
    contracts: ContractApi, licensed: Contract, publish: Publish
) -> None:
    failed = LicenseProvisioningFailed(contract_id=licensed.id, reason="no seats left", tier="gold", seats=12)
    await publish(failed, failed)
    assert (await wait_for_license_state(contracts, licensed, Contract.FAILED)).license_problem == "no seats left"
    await publish(LicenseProvisioned(contract_id=licensed.id, license_id="lic-1", tier="gold", seats=12))
    assert (await wait_for_license_state(contracts, licensed, Contract.PROVISIONED)).license_problem == ""


async def test_license_is_released_after_the_contract_has_ended(
    contracts: ContractApi, licensed: Contract, publish: Publish
) -> None:
    await publish(LicenseProvisioned(contract_id=licensed.id, license_id="lic-1", tier="gold", seats=12))
    await wait_for_license_state(contracts, licensed, Contract.PROVISIONED)
    await contracts.terminate(licensed, for_cause=True)
    released = LicenseReleased(contract_id=licensed.id, license_id="lic-1")
    await publish(released, released)
    await wait_for_license_state(contracts, licensed, Contract.RELEASED)


class TestRenewal:
    async def test_successor_has_its_own_license(
        self, api: EntitiesApi, contracts: ContractApi, publish: Publish, admin: Admin
    ) -> None:
        old = await contracts.create_active(
            await api.create_entity(), license_tier="gold", seats=12, auto_renew=True, end_date=day(50)
        )
        await publish(provisioned(old, "lic-1"))
        await wait_for_license_state(contracts, old, Contract.PROVISIONED)
        await let_days_pass(admin, 50, old)
        renewed = await wait_for_state(contracts, old, Contract.RENEWED)
        assert renewed.license_state == Contract.PROVISIONED  # until the licensing system releases it
        new = await contracts.get(renewed.renewed_to_id)
        released = LicenseReleased(contract_id=old.id, license_id="lic-1")
        await publish(released, provisioned(new, "lic-2"), released)
        assert (await wait_for_license_state(contracts, old, Contract.RELEASED)).license_id == "lic-1"
        assert (await wait_for_license_state(contracts, new, Contract.PROVISIONED)).license_id == "lic-2"

    async def test_release_is_ignored_while_the_contract_is_in_force(
        self, contracts: ContractApi, licensed: Contract, publish: Publish, admin: Admin, tenant: UUID
    ) -> None:
        await publish(provisioned(licensed, "lic-1"))
        await wait_for_license_state(contracts, licensed, Contract.PROVISIONED)
        await contracts.activate_draft(await contracts.renew(licensed))
        await publish(LicenseReleased(contract_id=licensed.id, license_id="lic-1"))
        await wait_until_release_is_consumed(admin, tenant)
        assert (await contracts.get(licensed)).license_state == Contract.PROVISIONED

    async def test_simulator_leaves_one_license_after_a_renewal(
        self, api: EntitiesApi, contracts: ContractApi, admin: Admin, licensing_system: None
    ) -> None:
        old = await contracts.create_active(await api.create_entity(), license_tier="gold", seats=12, end_date=day(50))
        await wait_for_license_state(contracts, old, Contract.PROVISIONED)
        new = await wait_for_license_state(
            contracts, await contracts.activate_draft(await contracts.renew(old)), Contract.PROVISIONED
        )
        assert (await contracts.get(old)).license_state == Contract.PROVISIONED
        await let_days_pass(admin, 50, old, new)
        assert (await wait_for_license_state(contracts, old, Contract.RELEASED)).state == Contract.RENEWED
        still = await contracts.get(new)
        assert (still.license_state, still.license_id) == (Contract.PROVISIONED, new.license_id)


class TestReorderedReplies:
    async def test_release_before_the_provisioning_reply_is_recorded(
        self, contracts: ContractApi, licensed: Contract, publish: Publish
    ) -> None:
        await contracts.terminate(licensed, for_cause=True)
        await publish(LicenseReleased(contract_id=licensed.id, license_id="lic-1"))
        await wait_for_license_state(contracts, licensed, Contract.RELEASED)
        await publish(provisioned(licensed, "lic-2"))  # its license id shows when it is consumed

        async def with_second_license() -> bool:
            return (await contracts.get(licensed)).license_id == "lic-2"

        await eventually(with_second_license)
        assert (await contracts.get(licensed)).license_state == Contract.RELEASED

    async def test_release_is_ignored_for_a_contract_without_license(
        self, api: EntitiesApi, contracts: ContractApi, publish: Publish, admin: Admin, tenant: UUID
    ) -> None:
        plain = await contracts.create_active(await api.create_entity())
        await contracts.terminate(plain, for_cause=True)
        await publish(LicenseReleased(contract_id=plain.id, license_id="lic-1"))
        await wait_until_release_is_consumed(admin, tenant)
        current = await contracts.get(plain)
        assert (current.license_state, current.license_id) == (Contract.NONE, "")


async def wait_until_release_is_consumed(admin: Admin, tenant: UUID) -> None:
    """Wait until a LicenseReleased event of the tenant has been consumed."""
    query = "select count(*) from entities.inbox where tenant_id = $1 and consumer = 'entities.record_license_release'"

    async def is_consumed() -> bool:
        return bool(await admin.fetchval(query, tenant))

    await eventually(is_consumed)


def provisioned(contract: Contract, license_id: str) -> LicenseProvisioned:
    return LicenseProvisioned(
        contract_id=contract.id, license_id=license_id, tier=contract.license_tier, seats=contract.seats
    )


async def wait_for_license_state(
    contracts: ContractApi, contract: Contract, state: Contract.LicenseState.ValueType
) -> Contract:
    """Return the contract as soon as its license is in this state."""

    async def in_expected_state() -> list[Contract]:
        current = await contracts.get(contract)
        return [current] if current.license_state == state else []

    (current,) = await eventually(in_expected_state)
    return current
