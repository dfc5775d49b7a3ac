"""Contracts and amendments that the entities service submits: their request, or the reason why there is none."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval
from billing.entities.v1.events_pb2 import AmendmentSubmitted, ContractSubmitted, ContractWithdrawn
from google.protobuf import json_format
from google.protobuf.message import Message

from eventing.consumer import Consumer, Delivery, Handler
from kit import ids
from kit.telemetry import Trace
from services.approvals.events.consumers import (
    open_approval_of_amendment,
    open_approval_of_contract,
)
from tests.approvals.conftest import ApprovalsApi, eur, step
from tests.harness.callers import Caller
from tests.harness.events import Replica
from tests.harness.observe import outbox_events
from tests.harness.services import Approvals, Served
from tests.harness.tokens import Keys

Deliver = Callable[[Message], Any]


@pytest.fixture
def deliver(approvals_served: Served[Approvals], tenant: UUID) -> Deliver:
    """Delivers an event to a consumer of the served process."""
    return Replica(approvals_served.service, "approvals", tenant, actor="alice").handle


def contract_submitted(api: ApprovalsApi) -> ContractSubmitted:
    return ContractSubmitted(
        contract_id=ids.CONTRACT.format(uuid4()),
        entity_id=api.budgets.entity_id,
        contract_number="C-1",
        name="Cloud",
        contract_type="SUBSCRIPTION",
        total_value=eur("100.00"),
        submission=2,
        submitted_by="alice",
    )


async def refusals(admin: "asyncpg.Pool[asyncpg.Record]", tenant: UUID) -> list[Mapping[str, Any]]:
    return [
        one.body for one in await outbox_events(admin, "approvals", tenant) if one.type.endswith(".SubmissionRefused")
    ]


@pytest.mark.parametrize("rule", [{"auto_approve": True, "request_type": Approval.CONTRACT}, None])
async def test_contract_without_steps_is_approved_at_once(
    api: ApprovalsApi, deliver: Deliver, rule: dict[str, Any] | None
) -> None:
    """The rule approves automatically, or was deleted after the submission."""
    if rule:
        await api.create_rule(name="S", **rule)
    event = contract_submitted(api)
    for _ in range(2):
        await deliver(event)
    request = pb.ListApprovalsRequest(subject_type="contract", subject_id=event.contract_id)
    (approval,) = (await api.admin.call(api.stubs.approvals.ListApprovals, request)).approvals
    assert (approval.state, approval.requester) == (Approval.APPROVED, "alice")


async def test_submission_without_approver_is_refused_with_the_reason(
    api: ApprovalsApi, deliver: Deliver, admin: "asyncpg.Pool[asyncpg.Record]", tenant: UUID
) -> None:
    await api.create_rule(step("Manager", "+manager_of_requester"), name="S", request_type=Approval.CONTRACT)
    event = contract_submitted(api)
    await deliver(event)
    (refused,) = await refusals(admin, tenant)
    assert (refused["subject_type"], refused["subject_id"]) == ("contract", event.contract_id)
    assert refused["reason"] == "APPROVER_MISSING"
    assert "the requester alice has no active manager" in refused["message"]


async def test_submission_is_not_approved_if_the_condition_of_its_only_rule_cannot_be_evaluated(
    api: ApprovalsApi, deliver: Deliver, admin: "asyncpg.Pool[asyncpg.Record]", keys: Keys, tenant: UUID
) -> None:
    await api.create_rule(step("C", "carla"), name="broken", condition="1/0 == 1")
    event = contract_submitted(api)
    entities = Caller(tenant, "service:entities", keys.service_token("entities", tenant))
    request = pb.CheckApprovalNeedRequest(
        request_type=Approval.CONTRACT, entity_id=event.entity_id, amount=eur("100.00")
    )
    need = await entities.call(api.stubs.approvals.CheckApprovalNeed, request)
    assert (need.needed, len(need.rules)) == (True, 0)
    await deliver(event)
    (refused,) = await refusals(admin, tenant)
    assert refused["reason"] == "NO_RULE_MATCHES"
    assert "Conditions that could not be evaluated: 'broken' (" in refused["message"]
    assert await requests_about(api, event) == []


async def test_condition_of_a_rule_sees_the_total_value_before_and_after_an_amendment(
    api: ApprovalsApi, deliver: Deliver
) -> None:
    condition = "old_total_value == 500000 && new_total_value == 100000000 && difference == 99500000"
    await api.create_rule(step("Frank", "frank"), request_type=Approval.AMENDMENT, condition=condition)
    await api.create_rule(step("Erin", "erin"), name="default", is_default=True)
    totals = {"old_total_value": "5000.00", "new_total_value": "1000000.00", "difference": "995000.00"}
    event = AmendmentSubmitted(
        amendment_id=ids.AMENDMENT.format(uuid4()),
        entity_id=api.budgets.entity_id,
        total_value=eur("1000000.00"),
        old_total_value=eur("5000.00"),
        new_total_value=eur("1000000.00"),
        attributes=totals,
        reason="more",
        submitted_by="alice",
    )
    await deliver(event)
    request = pb.ListApprovalsRequest(subject_type="amendment", subject_id=event.amendment_id)
    (approval,) = (await api.admin.call(api.stubs.approvals.ListApprovals, request)).approvals
    assert [seat.user_id for seat in approval.steps[0].seats] == ["frank"]
    assert approval.amount.amount == "1000000.00"
    assert approval.description == "more\nTotal value of the contract: 5000.00 EUR before, 1000000.00 EUR after."


async def test_event_that_becomes_a_dead_letter_refuses_the_submission(
    api: ApprovalsApi, approvals_served: Served[Approvals], admin: "asyncpg.Pool[asyncpg.Record]", tenant: UUID
) -> None:
    """No error leaves the contract in PENDING_APPROVAL for ever."""
    event = AmendmentSubmitted(
        amendment_id=ids.AMENDMENT.format(uuid4()),
        entity_id=api.budgets.entity_id,
        total_value=eur("1.00"),
        submitted_by="alice",
    )
    await to_dead_letter(approvals_served, tenant, open_approval_of_amendment, event)
    (refused,) = await refusals(admin, tenant)
    assert (refused["subject_type"], refused["subject_id"], refused["reason"]) == (
        "amendment",
        event.amendment_id,
        "INTERNAL",
    )


async def to_dead_letter(approvals_served: Served[Approvals], tenant: UUID, handler: Handler, event: Message) -> None:
    """Fail in the last delivery of an event."""
    consumer = Consumer(approvals_served.service.db, "approvals", handler, approvals_served.service.dependencies)
    delivery = Delivery(uuid4(), tenant, "", json_format.MessageToJson(event), "alice", "", deliveries=5)
    await consumer._retry_or_dead_letter(Terminated(), delivery, Trace.from_header(None), RuntimeError("a bug"))  # type: ignore[arg-type]


async def requests_about(api: ApprovalsApi, event: ContractSubmitted) -> list[tuple[str, str]]:
    request = pb.ListApprovalsRequest(subject_type="contract", subject_id=event.contract_id)
    listed = (await api.admin.call(api.stubs.approvals.ListApprovals, request)).approvals
    return [(one.title, Approval.State.Name(one.state)) for one in listed]


async def test_submission_that_was_refused_has_no_effect_when_it_is_redriven(
    api: ApprovalsApi, deliver: Deliver, approvals_served: Served[Approvals], admin: "asyncpg.Pool[asyncpg.Record]",
    tenant: UUID,
) -> None:  # fmt: skip
    """The contract is a draft again, and can be submitted again."""
    await api.create_rule(step("Carla", "carla"), request_type=Approval.CONTRACT)
    event = contract_submitted(api)
    await to_dead_letter(approvals_served, tenant, open_approval_of_contract, event)
    await deliver(event)
    await to_dead_letter(approvals_served, tenant, open_approval_of_contract, event)
    assert await requests_about(api, event) == []
    assert len(await refusals(admin, tenant)) == 1
    event.submission, event.name = 4, "Cloud, cheaper"
    await deliver(event)
    assert await requests_about(api, event) == [("Contract C-1: Cloud, cheaper", "PENDING")]


async def test_earlier_submission_does_not_replace_the_request_of_a_later_one(
    api: ApprovalsApi, deliver: Deliver, approvals_served: Served[Approvals], admin: "asyncpg.Pool[asyncpg.Record]",
    tenant: UUID,
) -> None:  # fmt: skip
    await api.create_rule(step("Carla", "carla"), request_type=Approval.CONTRACT)
    earlier, later = contract_submitted(api), contract_submitted(api)
    later.contract_id, later.submission, later.name = earlier.contract_id, 4, "Later"
    await deliver(later)
    await deliver(earlier)
    await to_dead_letter(approvals_served, tenant, open_approval_of_contract, earlier)
    assert await requests_about(api, later) == [("Contract C-1: Later", "PENDING")]
    assert await refusals(admin, tenant) == []


async def test_submission_of_a_withdrawn_contract_that_arrives_later_has_no_effect(
    api: ApprovalsApi, deliver: Deliver
) -> None:
    await api.create_rule(step("Carla", "carla"), request_type=Approval.CONTRACT)
    event = contract_submitted(api)
    await deliver(ContractWithdrawn(contract_id=event.contract_id))
    await deliver(event)
    assert await requests_about(api, event) == []


async def test_withdrawal_cancels_the_request(api: ApprovalsApi, deliver: Deliver) -> None:
    await api.create_rule(step("Carla", "carla"), request_type=Approval.CONTRACT)
    event = contract_submitted(api)
    await deliver(event)
    for _ in range(2):
        await deliver(ContractWithdrawn(contract_id=event.contract_id))
    assert await requests_about(api, event) == [("Contract C-1: Cloud", "CANCELLED")]


async def test_submission_with_a_request_is_not_refused(
    api: ApprovalsApi, deliver: Deliver, approvals_served: Served[Approvals], admin: "asyncpg.Pool[asyncpg.Record]",
    tenant: UUID,
) -> None:  # fmt: skip
    await api.create_rule(step("Carla", "carla"), request_type=Approval.CONTRACT)
    event = contract_submitted(api)
    await deliver(event)
    await to_dead_letter(approvals_served, tenant, open_approval_of_contract, event)
    assert await refusals(admin, tenant) == []


class Terminated:
    """A message of NATS that is not delivered again."""

    async def term(self) -> None:
        """Accept the call."""
