"""Events that could not be recorded: contracts and amendments show that, and redriving the dead letter records them."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import pytest
from billing.approvals.v1.approval_pb2 import Approval
from billing.approvals.v1.events_pb2 import (
    ApprovalApproved,
    ApprovalCancelled,
    ApprovalChangesRequested,
    ApprovalExpired,
    ApprovalFacts,
    ApprovalRejected,
    SubmissionRefused,
)
from billing.entities.v1.amendment_pb2 import Amendment
from billing.entities.v1.contract_pb2 import Contract
from billing.operations.v1.operations_service_pb2 import RedriveDeadLetterRequest
from google.protobuf.message import Message
from nats.aio.client import Client
from outside.licensing.v1.licensing_pb2 import LicenseProvisioned, LicenseProvisioningFailed

from deploy.simulators.publishing import publish as publish_event
from eventing import subjects
from eventing.consumer import Consumer
from kit import ids
from services.entities import service
from services.entities.domain.contracts import ContractState
from tests.entities.amendment_api import AmendmentApi
from tests.entities.contract_api import ContractApi
from tests.entities.entities_api import EntitiesApi
from tests.entities.test_contract_states import in_state
from tests.harness.callers import Caller
from tests.harness.observe import eventually
from tests.harness.services import Entities

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Publish: TypeAlias = Callable[[Message], Awaitable[None]]
Redrive: TypeAlias = Callable[[], Awaitable[None]]
INTERNAL: Final = "Internal error; operators find it in the logs as "
_LETTERS: Final = "select consumer, event_id from entities.dead_letters where tenant_id = $1"


@pytest.fixture(autouse=True)
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No event is recorded until the patches are undone; pauses between deliveries are short."""

    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Consumer, "retry_delays_s", (0.01,))
    for name in ("finish_approval", "refuse_submission", "record_license", "record_license_failure"):
        monkeypatch.setattr(service.contracts, name, fail)
    monkeypatch.setattr(service.amendments, "finish_approval", fail)


@pytest.fixture
def publish(nats: Client, tenant: UUID) -> Publish:
    """Publishes an event as its owner."""

    async def publish(event: Message) -> None:
        source = subjects.source_of(event.DESCRIPTOR.file.package)
        await publish_event(nats.jetstream(), event, tenant, source)

    return publish


@pytest.fixture
def redrive(
    caller: Callable[..., Caller], entities: Entities, admin: Admin, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> Redrive:
    """Ends the cause of the failure, and redrives the only dead letter."""

    async def redrive() -> None:
        monkeypatch.undo()
        (letter,) = await admin.fetch(_LETTERS, tenant)
        request = RedriveDeadLetterRequest(consumer=letter["consumer"], event_id=str(letter["event_id"]))
        await caller("billing_admin").call(entities.operations.RedriveDeadLetter, request)
        assert await admin.fetch(_LETTERS, tenant) == []

    return redrive


OUTCOMES: Final = (ApprovalApproved, ApprovalRejected, ApprovalCancelled, ApprovalExpired, ApprovalChangesRequested)


def outcome(event: type[Any], subject_type: str, subject_id: str) -> Message:
    """An outcome of the approval of a contract or amendment."""
    if event is SubmissionRefused:
        return SubmissionRefused(subject_type=subject_type, subject_id=subject_id, message="no approver")
    request_type = Approval.CONTRACT if subject_type == "contract" else Approval.AMENDMENT
    facts = ApprovalFacts(request_type=request_type, subject_type=subject_type, subject_id=subject_id)
    return event(approval=facts)  # type: ignore[no-any-return]  # a message


@pytest.mark.parametrize("event", [*OUTCOMES, SubmissionRefused])
async def test_contract_shows_that_its_outcome_was_not_recorded(
    api: EntitiesApi, contracts: ContractApi, admin: Admin, publish: Publish, redrive: Redrive, event: type[Any]
) -> None:
    contract = await in_state(contracts, await api.create_entity(), admin, ContractState.PENDING_APPROVAL)
    await publish(outcome(event, "contract", contract.id))

    async def problem() -> str:
        return (await contracts.get(contract)).approval_problem

    assert (await eventually(problem)).startswith(INTERNAL)
    assert (await contracts.get(contract)).state == Contract.PENDING_APPROVAL
    await redrive()
    settled = await contracts.get(contract)
    assert settled.state == (Contract.PENDING_SIGNATURE if event is ApprovalApproved else Contract.DRAFT)
    assert settled.approval_problem == ("no approver" if event is SubmissionRefused else "")


@pytest.mark.parametrize("event", [*OUTCOMES, SubmissionRefused])
async def test_amendment_shows_that_its_outcome_was_not_recorded(
    api: EntitiesApi, contracts: ContractApi, amendments: AmendmentApi, admin: Admin, publish: Publish,
    redrive: Redrive, event: type[Any],
) -> None:  # fmt: skip
    contract = await contracts.create_active(await api.create_entity(), license_tier="gold", seats=12)
    amendment = await amendments.create(contract)
    query = "update entities.contract_amendments set awaits_approval = true where id = $1"
    await admin.execute(query, ids.AMENDMENT.parse(amendment.id))
    await publish(outcome(event, "amendment", amendment.id))

    async def problem() -> str:
        return (await amendments.get(amendment)).approval_problem

    assert (await eventually(problem)).startswith(INTERNAL)
    assert (await amendments.get(amendment)).awaits_approval
    await redrive()
    settled = await amendments.get(amendment)
    assert settled.state == (Amendment.APPROVED if event is ApprovalApproved else Amendment.REJECTED)
    assert (settled.approval_problem, settled.awaits_approval) == ("", False)


@pytest.mark.parametrize("provisioned", [True, False])
async def test_contract_shows_that_the_reply_about_its_license_was_not_recorded(
    api: EntitiesApi, contracts: ContractApi, publish: Publish, redrive: Redrive, *, provisioned: bool
) -> None:
    contract = await contracts.create_active(await api.create_entity(), license_tier="gold", seats=12)
    success = LicenseProvisioned(contract_id=contract.id, tier="gold", seats=12, license_id="lic-1")
    failure = LicenseProvisioningFailed(contract_id=contract.id, tier="gold", seats=12, reason="no seats left")
    await publish(success if provisioned else failure)

    async def problem() -> str:
        return (await contracts.get(contract)).license_problem

    assert (await eventually(problem)).startswith(INTERNAL)
    assert (await contracts.get(contract)).license_state == Contract.REQUESTED
    await redrive()
    settled = await contracts.get(contract)
    assert settled.license_state == (Contract.PROVISIONED if provisioned else Contract.FAILED)
    assert settled.license_problem == ("" if provisioned else "no seats left")


async def test_dead_letter_about_an_unknown_contract_is_stored(publish: Publish, admin: Admin, tenant: UUID) -> None:
    await publish(outcome(ApprovalApproved, "contract", ids.CONTRACT.format(ids.new())))
    assert len(await eventually(lambda: admin.fetch(_LETTERS, tenant))) == 1
