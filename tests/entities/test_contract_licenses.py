"""What the licensing system says about what contracts grant, each time twice."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias
from uuid import UUID

import pytest
from billing.entities.v1.contract_pb2 import Contract
from google.protobuf.message import Message
from outside.licensing.v1.licensing_pb2 import LicenseProvisioned, LicenseProvisioningFailed, LicenseReleased

from eventing import outbox
from kit.origin import Origin
from kit.telemetry import Trace
from tests.entities.conftest import Desk
from tests.entities.contract_desk import ContractDesk
from tests.harness.outside import eventually
from tests.harness.services import Entities, Served

Says: TypeAlias = Callable[..., Awaitable[None]]


@pytest.fixture
def contracts(desk: Desk) -> ContractDesk:
    return ContractDesk(desk)


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
async def licensed(desk: Desk, contracts: ContractDesk) -> Contract:
    return await contracts.put_in_force(await desk.found(), license_tier="gold", seats=12)


async def test_it_is_provisioned(contracts: ContractDesk, licensed: Contract, says: Says) -> None:
    said = LicenseProvisioned(contract_id=licensed.id, license_id="lic-1", tier="gold", seats=12)
    await says(said, said)
    found = await shows(contracts, licensed, Contract.PROVISIONED)
    assert found.license_id == "lic-1"


async def test_an_answer_to_what_was_asked_before_is_not_the_last_one(
    contracts: ContractDesk, licensed: Contract, says: Says
) -> None:
    older = LicenseProvisioned(contract_id=licensed.id, license_id="lic-1", tier="gold", seats=10)
    await says(older, LicenseProvisioningFailed(contract_id=licensed.id, reason="old", tier="silver", seats=12))

    async def noted() -> list[Contract]:
        found = await contracts.get(licensed)
        return [found] if found.license_id else []

    (found,) = await eventually(noted)
    assert found.license_state == Contract.REQUESTED


async def test_it_fails_and_succeeds_later(contracts: ContractDesk, licensed: Contract, says: Says) -> None:
    failed = LicenseProvisioningFailed(contract_id=licensed.id, reason="no seats left", tier="gold", seats=12)
    await says(failed, failed)
    assert (await shows(contracts, licensed, Contract.FAILED)).license_problem == "no seats left"
    await says(LicenseProvisioned(contract_id=licensed.id, license_id="lic-1", tier="gold", seats=12))
    assert (await shows(contracts, licensed, Contract.PROVISIONED)).license_problem == ""


async def test_it_is_taken_back_when_the_contract_has_ended(
    contracts: ContractDesk, licensed: Contract, says: Says
) -> None:
    await says(LicenseProvisioned(contract_id=licensed.id, license_id="lic-1", tier="gold", seats=12))
    await shows(contracts, licensed, Contract.PROVISIONED)
    await contracts.terminate(licensed, for_cause=True)
    released = LicenseReleased(contract_id=licensed.id, license_id="lic-1")
    await says(released, released)
    await shows(contracts, licensed, Contract.RELEASED)


async def shows(contracts: ContractDesk, contract: Contract, state: Contract.LicenseState.ValueType) -> Contract:
    """The contract, as soon as its license is in this state."""

    async def there() -> list[Contract]:
        found = await contracts.get(contract)
        return [found] if found.license_state == state else []

    (found,) = await eventually(there)
    return found
