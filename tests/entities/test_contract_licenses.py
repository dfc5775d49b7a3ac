"""What the licensing system says about what contracts grant, each time twice."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias
from uuid import UUID

import asyncpg
import pytest
from billing.entities.v1.contract_pb2 import Contract
from google.protobuf.message import Message
from outside.licensing.v1.licensing_pb2 import LicenseProvisioned, LicenseProvisioningFailed, LicenseReleased

from deploy.simulators import licensing
from eventing import outbox
from kit import tasks
from kit.origin import Origin
from kit.telemetry import Trace
from tests.entities.conftest import EntitiesApi
from tests.entities.contract_api import ContractApi, day, days_pass
from tests.entities.test_contract_lives import becomes
from tests.harness.observe import eventually
from tests.harness.services import Entities, Served

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Says: TypeAlias = Callable[..., Awaitable[None]]


@pytest.fixture
def contracts(api: EntitiesApi) -> ContractApi:
    return ContractApi(api)


@pytest.fixture
def says(entities_served: Served[Entities], tenant: UUID) -> Says:
    """Has NATS carry events of the licensing system; any outbox will do."""

    async def say(*events: Message) -> None:
        trace, deadline = Trace.from_header(None), time.monotonic() + 10
        origin = Origin(tenant_id=tenant, actor="licensing", trace=trace, deadline=deadline)
        async with entities_served.service.db.write(origin) as tx:
            for event in events:
                outbox.append(tx, event)

    return say


@pytest.fixture
async def licensing_system(nats_url: str) -> AsyncIterator[None]:
    """Its simulator, while the test runs."""
    running = asyncio.create_task(licensing.run(nats_url))
    yield
    await tasks.cancel_and_wait(running)


@pytest.fixture
async def licensed(api: EntitiesApi, contracts: ContractApi) -> Contract:
    return await contracts.put_in_force(await api.found(), license_tier="gold", seats=12)


async def test_it_is_provisioned(contracts: ContractApi, licensed: Contract, says: Says) -> None:
    said = LicenseProvisioned(contract_id=licensed.id, license_id="lic-1", tier="gold", seats=12)
    await says(said, said)
    found = await shows(contracts, licensed, Contract.PROVISIONED)
    assert found.license_id == "lic-1"


async def test_an_answer_to_what_was_asked_before_is_not_the_last_one(
    contracts: ContractApi, licensed: Contract, says: Says
) -> None:
    older = LicenseProvisioned(contract_id=licensed.id, license_id="lic-1", tier="gold", seats=10)
    await says(older, LicenseProvisioningFailed(contract_id=licensed.id, reason="old", tier="silver", seats=12))

    async def noted() -> list[Contract]:
        found = await contracts.get(licensed)
        return [found] if found.license_id else []

    (found,) = await eventually(noted)
    assert found.license_state == Contract.REQUESTED


async def test_it_fails_and_succeeds_later(contracts: ContractApi, licensed: Contract, says: Says) -> None:
    failed = LicenseProvisioningFailed(contract_id=licensed.id, reason="no seats left", tier="gold", seats=12)
    await says(failed, failed)
    assert (await shows(contracts, licensed, Contract.FAILED)).license_problem == "no seats left"
    await says(LicenseProvisioned(contract_id=licensed.id, license_id="lic-1", tier="gold", seats=12))
    assert (await shows(contracts, licensed, Contract.PROVISIONED)).license_problem == ""


async def test_it_is_taken_back_when_the_contract_has_ended(
    contracts: ContractApi, licensed: Contract, says: Says
) -> None:
    await says(LicenseProvisioned(contract_id=licensed.id, license_id="lic-1", tier="gold", seats=12))
    await shows(contracts, licensed, Contract.PROVISIONED)
    await contracts.terminate(licensed, for_cause=True)
    released = LicenseReleased(contract_id=licensed.id, license_id="lic-1")
    await says(released, released)
    await shows(contracts, licensed, Contract.RELEASED)


class TestRenewal:
    async def test_the_license_goes_with_the_contract_and_its_successor_has_its_own(
        self, api: EntitiesApi, contracts: ContractApi, says: Says, admin: Admin
    ) -> None:
        old = await contracts.put_in_force(
            await api.found(), license_tier="gold", seats=12, auto_renew=True, end_date=day(50)
        )
        await says(provisioned(old, "lic-1"))
        await shows(contracts, old, Contract.PROVISIONED)
        await days_pass(admin, 50, old)
        renewed = await becomes(contracts, old, Contract.RENEWED)
        assert renewed.license_state == Contract.PROVISIONED  # until the licensing system says that it is not
        new = await contracts.get(renewed.renewed_to_id)
        released = LicenseReleased(contract_id=old.id, license_id="lic-1")
        await says(released, provisioned(new, "lic-2"), released)
        assert (await shows(contracts, old, Contract.RELEASED)).license_id == "lic-1"
        assert (await shows(contracts, new, Contract.PROVISIONED)).license_id == "lic-2"

    async def test_who_says_too_early_that_it_was_taken_back_is_not_believed(
        self, contracts: ContractApi, licensed: Contract, says: Says, admin: Admin, tenant: UUID
    ) -> None:
        await says(provisioned(licensed, "lic-1"))
        await shows(contracts, licensed, Contract.PROVISIONED)
        await contracts.bring_into_force(await contracts.renew(licensed))
        await says(LicenseReleased(contract_id=licensed.id, license_id="lic-1"))
        await released_heard(admin, tenant)
        assert (await contracts.get(licensed)).license_state == Contract.PROVISIONED

    async def test_with_the_licensing_system_there_is_one_license_in_the_end(
        self, api: EntitiesApi, contracts: ContractApi, admin: Admin, licensing_system: None
    ) -> None:
        old = await contracts.put_in_force(await api.found(), license_tier="gold", seats=12, end_date=day(50))
        await shows(contracts, old, Contract.PROVISIONED)
        new = await shows(contracts, await contracts.bring_into_force(await contracts.renew(old)), Contract.PROVISIONED)
        assert (await contracts.get(old)).license_state == Contract.PROVISIONED
        await days_pass(admin, 50, old, new)
        assert (await shows(contracts, old, Contract.RELEASED)).state == Contract.RENEWED
        still = await contracts.get(new)
        assert (still.license_state, still.license_id) == (Contract.PROVISIONED, new.license_id)


class TestAnswersThatOvertakeOneAnother:
    async def test_a_license_that_is_taken_back_before_it_was_told_of_is_taken_back(
        self, contracts: ContractApi, licensed: Contract, says: Says
    ) -> None:
        await contracts.terminate(licensed, for_cause=True)
        await says(LicenseReleased(contract_id=licensed.id, license_id="lic-1"))
        await shows(contracts, licensed, Contract.RELEASED)
        await says(provisioned(licensed, "lic-2"))  # which names it last, so that it is seen to be heard

        async def named() -> bool:
            return (await contracts.get(licensed)).license_id == "lic-2"

        await eventually(named)
        assert (await contracts.get(licensed)).license_state == Contract.RELEASED

    async def test_what_grants_nothing_has_nothing_taken_back(
        self, api: EntitiesApi, contracts: ContractApi, says: Says, admin: Admin, tenant: UUID
    ) -> None:
        plain = await contracts.put_in_force(await api.found())
        await contracts.terminate(plain, for_cause=True)
        await says(LicenseReleased(contract_id=plain.id, license_id="lic-1"))
        await released_heard(admin, tenant)
        found = await contracts.get(plain)
        assert (found.license_state, found.license_id) == (Contract.NONE, "")


async def released_heard(admin: Admin, tenant: UUID) -> None:
    """Wait until an event LicenseReleased had what effect it has."""
    query = "select count(*) from entities.inbox where tenant_id = $1 and consumer = 'entities.note_released_license'"

    async def heard() -> bool:
        return bool(await admin.fetchval(query, tenant))

    await eventually(heard)


def provisioned(contract: Contract, license_id: str) -> LicenseProvisioned:
    return LicenseProvisioned(
        contract_id=contract.id, license_id=license_id, tier=contract.license_tier, seats=contract.seats
    )


async def shows(contracts: ContractApi, contract: Contract, state: Contract.LicenseState.ValueType) -> Contract:
    """The contract, as soon as its license is in this state."""

    async def there() -> list[Contract]:
        found = await contracts.get(contract)
        return [found] if found.license_state == state else []

    (found,) = await eventually(there)
    return found
