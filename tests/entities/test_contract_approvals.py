"""Outcomes of approval requests about contracts."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias
from uuid import UUID

import asyncpg
import pytest
from billing.approvals.v1.approval_pb2 import Approval
from billing.approvals.v1.events_pb2 import ApprovalApproved, ApprovalCancelled, ApprovalFacts, SubmissionRefused
from billing.entities.v1.contract_pb2 import Contract
from google.protobuf.message import Message

from services.entities.domain.contracts import ContractState
from tests.entities.contract_api import ContractApi
from tests.entities.entities_api import EntitiesApi
from tests.entities.test_contract_states import in_state
from tests.harness.events import Replica
from tests.harness.services import Entities, Served

Deliver: TypeAlias = Callable[[Message], Awaitable[None]]


@pytest.fixture
async def pending(api: EntitiesApi, contracts: ContractApi, admin: "asyncpg.Pool[asyncpg.Record]") -> Contract:
    """A contract that waits for its approval."""
    return await in_state(contracts, await api.create_entity(), admin, ContractState.PENDING_APPROVAL)


@pytest.fixture
def deliver(entities_served: Served[Entities], tenant: UUID) -> Deliver:
    """Delivers an event to its consumer in the served process."""
    return Replica(entities_served.service, "entities", tenant, actor="service:approvals").handle


async def test_contract_whose_approval_cannot_be_requested_shows_why_and_can_be_submitted_again(
    contracts: ContractApi, pending: Contract, deliver: Deliver
) -> None:
    problem = "The step 'CFO' of the rule 'S' has no approver."
    refused = SubmissionRefused(
        subject_type="contract", subject_id=pending.id, reason="APPROVER_MISSING", message=problem
    )
    await deliver(refused)
    draft = await contracts.get(pending.id)
    assert (draft.state, draft.approval_problem) == (Contract.DRAFT, problem)
    submitted = await contracts.submit(pending.id)
    assert (submitted.state, submitted.approval_problem) == (Contract.PENDING_SIGNATURE, "")
    await deliver(refused)  # late
    assert (await contracts.get(pending.id)).state == Contract.PENDING_SIGNATURE


async def test_request_cancelled_for_a_new_submission_does_not_return_the_contract(
    contracts: ContractApi, pending: Contract, deliver: Deliver
) -> None:
    facts = ApprovalFacts(request_type=Approval.CONTRACT, subject_type="contract", subject_id=pending.id)
    await deliver(ApprovalCancelled(approval=facts, decided_by="service:approvals"))
    assert (await contracts.get(pending.id)).state == Contract.PENDING_APPROVAL
    await deliver(ApprovalCancelled(approval=facts, decided_by="alice"))
    assert (await contracts.get(pending.id)).state == Contract.DRAFT


async def test_request_of_the_type_contract_about_something_else_is_ignored(deliver: Deliver) -> None:
    facts = ApprovalFacts(request_type=Approval.CONTRACT, subject_type="order", subject_id="PO-1")
    await deliver(ApprovalApproved(approval=facts))
