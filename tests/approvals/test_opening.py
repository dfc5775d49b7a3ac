"""Interrupted openings are completed or rolled back, and leave no amount held.

A crash is simulated by an exception at the points between two writes of the saga:

STORED      after the request was stored
HELD        after its amount was held
REJECTED    after the rejection of the hold was stored
RELEASED    after the hold was released
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

import pytest
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction

from contract.values import money_from_proto
from kit import ids
from kit.errors import Conflict
from kit.origin import Origin
from kit.telemetry import Trace
from services.approvals.clients import BudgetsClient
from services.approvals.service.opening import OpeningSaga
from tests.approvals.conftest import ApprovalsApi, step
from tests.harness.callers import refusal
from tests.harness.services import Approvals, Served

STORED, HELD, REJECTED, RELEASED = "STORED", "HELD", "REJECTED", "RELEASED"
BUDGET_SUFFICIENT: Final = (STORED, HELD)
BUDGET_EXCEEDED: Final = (STORED, REJECTED, RELEASED)


@pytest.fixture
def opening(approvals_served: Served[Approvals]) -> OpeningSaga:
    """The saga of the served process."""
    dependencies: Any = approvals_served.service.dependencies
    saga: OpeningSaga = dependencies.opening
    return saga


@pytest.fixture
def origin(tenant: UUID) -> Origin:
    return Origin(
        tenant_id=tenant, actor="service:approvals", trace=Trace.from_header(None), deadline=time.monotonic() + 20
    )


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Raise an exception at a point of the saga."""
    hold, release = BudgetsClient.hold, BudgetsClient.release

    def patch(point: str) -> None:
        async def crashing_hold(*args: Any, **kwargs: Any) -> UUID:
            if point == STORED:
                raise RuntimeError(point)
            hold_id = await hold(*args, **kwargs)
            if point == HELD:
                raise RuntimeError(point)
            return hold_id

        async def crashing_release(*args: Any, **kwargs: Any) -> None:
            if point == REJECTED:
                raise RuntimeError(point)
            await release(*args, **kwargs)
            if point == RELEASED:
                raise RuntimeError(point)

        monkeypatch.setattr(BudgetsClient, "hold", crashing_hold)
        monkeypatch.setattr(BudgetsClient, "release", crashing_release)

    return patch


async def list_by_budget(api: ApprovalsApi, budget_id: str) -> list[Approval]:
    request = pb.ListApprovalsRequest(budget_id=budget_id)
    return list((await api.admin.call(api.stubs.approvals.ListApprovals, request)).approvals)


async def interrupted_request(
    api: ApprovalsApi, crash_at: Callable[[str], None], point: str, amount: str, budget_id: str
) -> pb.CreateApprovalRequest:
    """Create a request whose opening crashes at a point; return the message of the call."""
    request = api.new_request(amount, budget_id=budget_id)
    crash_at(point)
    error = await refusal(api.user("alice", "procurement").call(api.stubs.approvals.CreateApproval, request))
    assert error.reason == "INTERNAL"
    assert [one.state for one in await list_by_budget(api, budget_id)] == [Approval.OPENING]
    return request


@pytest.mark.parametrize("point", BUDGET_SUFFICIENT)
@pytest.mark.parametrize("resumed_by", ["repeated call", "timer"])
async def test_interrupted_opening_is_completed_once(
    api: ApprovalsApi, opening: OpeningSaga, origin: Origin, crash_at: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch, point: str, resumed_by: str,
) -> None:  # fmt: skip
    await api.create_rule(step("C", "carla"))
    budget = await api.budgets.open("100.00")
    request = await interrupted_request(api, crash_at, point, "60.00", budget.id)
    monkeypatch.undo()
    (stored,) = await list_by_budget(api, budget.id)
    if resumed_by == "timer":
        await opening.resume(origin, ids.APPROVAL.parse(stored.id))
    approval = await api.user("alice", "procurement").call(api.stubs.approvals.CreateApproval, request)
    assert (approval.id, approval.state, approval.funds) == (stored.id, Approval.PENDING, Approval.HELD)
    assert await api.amounts(budget) == ("0.00", "60.00", "0.00", "0.00", "40.00")
    assert await api.to_decide("carla") == [stored.id]
    assert len(await api.history(approval)) == 1


@pytest.mark.parametrize("point", BUDGET_EXCEEDED)
@pytest.mark.parametrize("resumed_by", ["repeated call", "timer"])
async def test_interrupted_opening_that_exceeds_the_budget_is_rolled_back(
    api: ApprovalsApi, opening: OpeningSaga, origin: Origin, crash_at: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch, point: str, resumed_by: str,
) -> None:  # fmt: skip
    await api.create_rule(step("C", "carla"))
    budget = await api.budgets.open("100.00")
    request = await interrupted_request(api, crash_at, point, "101.00", budget.id)
    monkeypatch.undo()
    (stored,) = await list_by_budget(api, budget.id)
    if resumed_by == "timer":
        await opening.resume(origin, ids.APPROVAL.parse(stored.id))
    else:
        call = api.user("alice", "procurement").call(api.stubs.approvals.CreateApproval, request)
        assert (await refusal(call)).reason == "BUDGET_EXCEEDED"
    assert await list_by_budget(api, budget.id) == []
    assert await api.amounts(budget) == ("0.00", "0.00", "0.00", "0.00", "100.00")


async def test_interrupted_resubmission_is_completed_by_the_requester_with_the_same_fields_only(
    api: ApprovalsApi, crash_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.create_rule(step("C", "carla"))
    budget = await api.budgets.open("100.00")
    approval = await api.submit(amount="60.00", budget_id=budget.id)
    await api.act("carla", approval, ApprovalAction.REQUEST_CHANGES, comment="more?")

    async def resubmit(user: str, amount: str) -> Approval:
        request = pb.ResubmitApprovalRequest(id=approval.id, amount=api.new_request(amount).amount)
        return await api.user(user, "procurement").call(api.stubs.approvals.ResubmitApproval, request)

    crash_at(STORED)
    assert (await refusal(resubmit("alice", "70.00"))).reason == "INTERNAL"
    monkeypatch.undo()
    assert (await api.get(approval)).state == Approval.OPENING
    assert (await refusal(resubmit("mallory", "70.00"))).reason == "NOT_THE_REQUESTER"
    assert (await refusal(resubmit("alice", "80.00"))).reason == "APPROVAL_STATE"
    opened = await resubmit("alice", "70.00")
    assert (opened.state, opened.round, opened.amount.amount) == (Approval.PENDING, 2, "70.00")
    assert await api.amounts(budget) == ("0.00", "70.00", "0.00", "0.00", "30.00")


@pytest.mark.parametrize("point", [REJECTED, RELEASED])
async def test_next_resubmission_rolls_back_an_interrupted_one_that_exceeded_the_budget(
    api: ApprovalsApi, crash_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    await api.create_rule(step("C", "carla"))
    budget = await api.budgets.open("100.00")
    approval = await api.submit(amount="60.00", budget_id=budget.id)
    await api.act("carla", approval, ApprovalAction.REQUEST_CHANGES, comment="more?")
    await api.wait_for_funds(approval, Approval.RELEASED)
    alice = api.user("alice", "procurement")

    def resubmit(amount: str) -> Awaitable[Approval]:
        request = pb.ResubmitApprovalRequest(id=approval.id, amount=api.new_request(amount).amount)
        return alice.call(api.stubs.approvals.ResubmitApproval, request)

    original = BudgetsClient.release
    crash_at(point)
    crashing, calls = BudgetsClient.release, 0

    async def release(*args: Any, **kwargs: Any) -> None:
        """The first call releases the hold of the previous round and does not crash."""
        nonlocal calls
        calls += 1
        await (original if calls == 1 else crashing)(*args, **kwargs)

    monkeypatch.setattr(BudgetsClient, "release", release)
    assert (await refusal(resubmit("101.00"))).reason == "INTERNAL"
    monkeypatch.undo()
    assert (await api.get(approval)).state == Approval.OPENING
    assert (await refusal(resubmit("101.00"))).reason == "BUDGET_EXCEEDED"
    opened = await resubmit("90.00")
    assert (opened.state, opened.amount.amount) == (Approval.PENDING, "90.00")
    assert await api.amounts(budget) == ("0.00", "90.00", "0.00", "0.00", "10.00")


async def test_hold_that_arrives_after_its_release_is_rejected(
    api: ApprovalsApi, opening: OpeningSaga, origin: Origin
) -> None:
    budget = await api.budgets.open("100.00")
    approval_id, budget_id = ids.new(), ids.BUDGET.parse(budget.id)
    client = opening.clients.budgets
    await client.release(origin, approval_id, of_round=1, budget_id=budget_id)
    amount = money_from_proto(api.new_request("10.00").amount)
    with pytest.raises(Conflict):
        await client.hold(origin, approval_id, of_round=1, budget_id=budget_id, amount=amount, description="late")
    assert await api.amounts(budget) == ("0.00", "0.00", "0.00", "0.00", "100.00")
