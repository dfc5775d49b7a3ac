"""Many at once: fifty approvers of one request on two replicas, and one key from several sides."""

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
"""For each of the four mixes of decisions."""


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


async def outcome(deciding: Awaitable[Approval]) -> str:
    """What came of a decision: the state, or why it was too late."""
    try:
        return Approval.State.Name((await deciding).state)
    except aio.AioRpcError as error:
        refused = Refusal.of(error)
        assert error.code() in {StatusCode.FAILED_PRECONDITION, StatusCode.ABORTED}, error
        return refused.reason


@pytest.mark.parametrize("round_", range(4))
async def test_fifty_decide_at_once_and_there_is_one_outcome(
    api: ApprovalsApi,
    approvals: Approvals,
    replica: Approvals,
    outbox_events: Callable[..., Awaitable[list[OutboxEvent]]],
    round_: int,
) -> None:
    """A short run; `make chaos-approvals` has two hundred."""
    await api.rule(step("All of them", "@department_manager"), is_default=True)
    people = [api.of(name) for name in APPROVERS]
    budget = await api.budgets.open("10000.00")
    for _ in range(RACES):
        asked = await api.ask(amount="10.00", budget_id=budget.id)
        deciding = []
        for number, who in enumerate(people):
            action = APPROVE if (number + round_) % 2 else REJECT
            request = pb.ActOnApprovalRequest(id=asked.id, action=action, comment="now")
            stubs = approvals if number % 2 else replica
            deciding.append(outcome(who.call(stubs.approvals.ActOnApproval, request)))
        told = Counter(await asyncio.gather(*deciding))
        assert told["APPROVED"] + told["REJECTED"] == 1, told
        done = await api.get(asked)
        decided = [one for one in await api.history(asked) if one.action in {APPROVE, REJECT}]
        assert [one.actor for one in decided] == [done.decided_by]
        ended = {"ApprovalApproved", "ApprovalRejected"}
        said = [
            event.type.rpartition(".")[2]
            for event in await outbox_events("approvals")
            if event.type.rpartition(".")[2] in ended and asked.id in str(event)
        ]
        assert said == ["ApprovalApproved" if done.state == Approval.APPROVED else "ApprovalRejected"]
        await api.settled(asked, Approval.COMMITTED if done.state == Approval.APPROVED else Approval.RELEASED)
    committed = sum(
        one.state == Approval.APPROVED
        for one in (
            await api.admin.call(
                approvals.approvals.ListApprovals, pb.ListApprovalsRequest(budget_id=budget.id, page_size=1000)
            )
        ).approvals
    )
    assert (await api.numbers(budget))[:3] == ("0.00", "0.00", f"{10 * committed}.00")


async def test_one_key_from_several_sides_asks_and_holds_once(
    api: ApprovalsApi, approvals: Approvals, replica: Approvals, tenant: UUID
) -> None:
    await api.rule(step("C", "carla"), is_default=True)
    budget = await api.budgets.open("1000.00")
    request, alice = api.request("100.00", budget_id=budget.id), api.of("alice", "procurement")

    async def ask(stubs: Approvals) -> str:
        while True:
            try:
                return (await alice.call(stubs.approvals.CreateApproval, request)).id
            except aio.AioRpcError as error:
                assert error.code() is StatusCode.ABORTED, error  # another one is at it: again

    told = await asyncio.gather(*(ask(stubs) for stubs in [approvals, replica] * 4))
    assert len(set(told)) == 1
    assert await api.numbers(budget) == ("0.00", "100.00", "0.00", "0.00", "900.00")
    assert await api.inbox("carla") == [told[0]]


async def test_two_replicas_escalate_and_end_each_request_once(
    api: ApprovalsApi,
    replica: Approvals,
    admin: "asyncpg.Pool[asyncpg.Record]",
    outbox_events: Callable[..., Awaitable[list[OutboxEvent]]],
) -> None:
    """Both have a clock."""
    assert replica
    await api.rule(step("C", "carla"), is_default=True)
    asked = [await api.ask() for _ in range(20)]
    await asyncio.gather(*(expire(api, admin, one) for one in asked))
    done = [ApprovalAction.REQUEST, ApprovalAction.ESCALATE, ApprovalAction.EXPIRE]
    assert [[one.action for one in await api.history(each)] for each in asked] == [done] * len(asked)
    said = Counter(event.type.rpartition(".")[2] for event in await outbox_events("approvals"))
    assert (said["ApprovalExpired"], said["ApprovalRequested"]) == (len(asked), len(asked))


async def test_a_decision_and_a_withdrawal_at_once_have_one_outcome(api: ApprovalsApi, replica: Approvals) -> None:
    await api.rule(step("C", "carla"), is_default=True)
    for _ in range(10):
        asked = await api.ask()
        alice = api.of("alice", "procurement")
        told = await asyncio.gather(
            outcome(api.act("carla", asked)),
            outcome(alice.call(replica.approvals.CancelApproval, pb.CancelApprovalRequest(id=asked.id))),
        )
        assert len({"APPROVED", "CANCELLED"} & set(told)) == 1, told
        ends = {ApprovalAction.APPROVE, ApprovalAction.CANCEL}
        assert sum(one.action in ends for one in await api.history(asked)) == 1
