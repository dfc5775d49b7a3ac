"""Concurrent calls on two replicas: many approvers of one request, one key, deadlines, and cancellation."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from grpc import StatusCode, aio

from kit.db import Database
from kit.settings import Settings
from services.approvals.main import compose
from tests.approvals.conftest import APPROVE, REJECT, ApprovalsApi, expire, step
from tests.harness.callers import Refusal
from tests.harness.observe import OutboxEvent
from tests.harness.services import Approvals, Budgets, Entities, Served, served

APPROVERS = [f"user-{number}" for number in range(50)]
RACES = int(os.environ.get("APPROVALS_RACES", "5"))
"""Number of requests per test case."""


@pytest.fixture(scope="module")
async def replica(
    settings: Callable[..., Settings],
    entities_served: Served[Entities],
    budgets_served: Served[Budgets],
    open_databases: list[Database],
) -> AsyncIterator[Approvals]:
    """A second replica of the approvals service, on the same database."""
    addresses = {"entities": entities_served.address, "budgets": budgets_served.address}
    async with served(settings("approvals", addresses=addresses), compose, Approvals) as second:
        open_databases.append(second.service.db)
        yield second.stubs


async def outcome(call: Awaitable[Approval]) -> str:
    """The state after a call, or the reason of its error."""
    try:
        return Approval.State.Name((await call).state)
    except aio.AioRpcError as error:
        assert error.code() in {StatusCode.FAILED_PRECONDITION, StatusCode.ABORTED}, error
        return Refusal.of(error).reason


@pytest.mark.parametrize("offset", range(4))
async def test_fifty_concurrent_decisions_have_one_outcome(
    api: ApprovalsApi,
    approvals: Approvals,
    replica: Approvals,
    outbox_events: Callable[..., Awaitable[list[OutboxEvent]]],
    offset: int,
) -> None:
    """A short run; `make chaos-approvals` has two hundred requests."""
    await api.create_rule(step("All of them", "@approver"), is_default=True)
    users = [api.user(user_id) for user_id in APPROVERS]
    budget = await api.budgets.open("10000.00")
    for _ in range(RACES):
        approval = await api.submit(amount="10.00", budget_id=budget.id)
        calls = []
        for number, user in enumerate(users):
            action = APPROVE if (number + offset) % 2 else REJECT
            request = pb.ActOnApprovalRequest(id=approval.id, action=action, comment="now")
            stubs = approvals if number % 2 else replica
            calls.append(outcome(user.call(stubs.approvals.ActOnApproval, request)))
        outcomes = Counter(await asyncio.gather(*calls))
        assert outcomes["APPROVED"] + outcomes["REJECTED"] == 1, outcomes
        decided = await api.get(approval)
        decisions = [one for one in await api.history(approval) if one.action in {APPROVE, REJECT}]
        assert [one.actor for one in decisions] == [decided.decided_by]
        event_types = [
            event_type
            for event in await outbox_events("approvals")
            if (event_type := event.type.rpartition(".")[2]) in {"ApprovalApproved", "ApprovalRejected"}
            and approval.id in str(event)
        ]
        approved = decided.state == Approval.APPROVED
        assert event_types == ["ApprovalApproved" if approved else "ApprovalRejected"]
        await api.wait_for_funds(approval, Approval.COMMITTED if approved else Approval.RELEASED)
    listing = pb.ListApprovalsRequest(budget_id=budget.id, page_size=1000)
    listed = (await api.admin.call(approvals.approvals.ListApprovals, listing)).approvals
    committed = sum(one.state == Approval.APPROVED for one in listed)
    assert (await api.amounts(budget))[:3] == ("0.00", "0.00", f"{10 * committed}.00")


async def test_concurrent_calls_with_one_key_create_one_request_and_one_hold(
    api: ApprovalsApi, approvals: Approvals, replica: Approvals, tenant: UUID
) -> None:
    await api.create_rule(step("C", "carla"), is_default=True)
    budget = await api.budgets.open("1000.00")
    request, alice = api.new_request("100.00", budget_id=budget.id), api.user("alice", "procurement")

    async def submit(stubs: Approvals) -> str:
        while True:
            try:
                return (await alice.call(stubs.approvals.CreateApproval, request)).id
            except aio.AioRpcError as error:
                assert error.code() is StatusCode.ABORTED, error  # a concurrent call has the key: retry

    approval_ids = await asyncio.gather(*(submit(stubs) for stubs in [approvals, replica] * 4))
    assert len(set(approval_ids)) == 1
    assert await api.amounts(budget) == ("0.00", "100.00", "0.00", "0.00", "900.00")
    assert await api.to_decide("carla") == [approval_ids[0]]


async def test_two_replicas_escalate_and_expire_each_request_once(
    api: ApprovalsApi,
    replica: Approvals,
    admin: "asyncpg.Pool[asyncpg.Record]",
    outbox_events: Callable[..., Awaitable[list[OutboxEvent]]],
) -> None:
    """Both replicas run timers."""
    assert replica
    await api.create_rule(step("C", "carla"), is_default=True)
    requests = [await api.submit() for _ in range(20)]
    await asyncio.gather(*(expire(api, admin, request) for request in requests))
    actions = [ApprovalAction.REQUEST, ApprovalAction.ESCALATE, ApprovalAction.EXPIRE]
    for request in requests:
        history = [one.action for one in await api.history(request)]
        # On a busy machine a timer may fire between the two times that `expire` moves, and then reminds first.
        assert [action for action in history if action != ApprovalAction.REMIND] == actions
    events = Counter(event.type.rpartition(".")[2] for event in await outbox_events("approvals"))
    assert (events["ApprovalExpired"], events["ApprovalRequested"]) == (len(requests), len(requests))


async def test_concurrent_approval_and_cancellation_have_one_outcome(api: ApprovalsApi, replica: Approvals) -> None:
    await api.create_rule(step("C", "carla"), is_default=True)
    for _ in range(10):
        approval = await api.submit()
        alice = api.user("alice", "procurement")
        outcomes = await asyncio.gather(
            outcome(api.act("carla", approval)),
            outcome(alice.call(replica.approvals.CancelApproval, pb.CancelApprovalRequest(id=approval.id))),
        )
        assert len({"APPROVED", "CANCELLED"} & set(outcomes)) == 1, outcomes
        final_actions = {ApprovalAction.APPROVE, ApprovalAction.CANCEL}
        assert sum(one.action in final_actions for one in await api.history(approval)) == 1
