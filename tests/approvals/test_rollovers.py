"""Requests on a budget that is rolled over follow their hold to the budget of the next period."""

from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.budgets.v1 import ledger_service_pb2 as ledger_pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.events_pb2 import ApprovalHoldsMoved, BudgetRolledOver
from google.protobuf.message import Message

from kit import ids
from kit.errors import Conflict
from tests.approvals.conftest import ApprovalsApi, eur, step
from tests.budgets.rolling import move_back_a_year, roll
from tests.harness.events import Replica
from tests.harness.observe import eventually
from tests.harness.services import Approvals, Served

Deliver = Callable[..., Awaitable[None]]


@pytest.fixture
async def api(api: ApprovalsApi) -> ApprovalsApi:
    """The API with a default rule: carla decides on all requests."""
    await api.create_rule(step("Controlling", "carla"), is_default=True)
    return api


@pytest.fixture
def deliver(approvals_served: Served[Approvals], tenant: UUID) -> Deliver:
    """Delivers an event of budgets to the served process."""
    return Replica(approvals_served.service, "approvals", tenant, actor="service:budgets").handle


async def moved_to(api: ApprovalsApi, approval: Approval, budget_id: str) -> Approval:
    """Wait until a request is on a budget, and return it."""

    async def moved() -> bool:
        return (await api.get(approval)).budget_id == budget_id

    await eventually(moved)
    return await api.get(approval)


async def moves(api: ApprovalsApi, approval: Approval) -> list[tuple[str, str, str]]:
    actions = await api.history(approval)
    return [(one.actor, one.target, one.comment) for one in actions if one.action == ApprovalAction.ROLL_OVER]


async def list_by_budget(api: ApprovalsApi, budget_id: str) -> list[str]:
    request = pb.ListApprovalsRequest(budget_id=budget_id)
    return [one.id for one in (await api.admin.call(api.stubs.approvals.ListApprovals, request)).approvals]


class TestOpenRequests:
    async def test_pending_request_follows_its_hold(self, api: ApprovalsApi) -> None:
        closed = await api.budgets.open("100.00")
        approval = await api.submit(amount="60.00", budget_id=closed.id)
        opened = (await roll(api.budgets, closed)).opened
        moved = await moved_to(api, approval, opened.id)
        assert (moved.budget_impact.budget_id, moved.budget_impact.held.amount) == (opened.id, "60.00")
        assert (moved.state, moved.funds, moved.etag) == (Approval.PENDING, Approval.HELD, str(int(approval.etag) + 1))
        assert await list_by_budget(api, opened.id) == [approval.id]
        assert await list_by_budget(api, closed.id) == []
        comment = f"The budget {closed.id} was rolled over."
        assert await moves(api, approval) == [("service:approvals", opened.id, comment)]
        await api.act("carla", approval)
        await api.wait_for_funds(approval, Approval.COMMITTED)
        assert await api.amounts(opened) == ("0.00", "0.00", "60.00", "0.00", "40.00")

    async def test_request_returned_for_changes_is_resubmitted_on_the_opened_budget(
        self, api: ApprovalsApi, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        closed = await api.budgets.open("100.00")
        approval = await api.submit(amount="60.00", budget_id=closed.id)
        await api.act("carla", approval, ApprovalAction.REQUEST_CHANGES, comment="less")
        await api.wait_for_funds(approval, Approval.RELEASED)
        await move_back_a_year(admin, closed)
        opened = (await roll(api.budgets, closed)).opened
        await moved_to(api, approval, opened.id)
        request = pb.ResubmitApprovalRequest(id=approval.id, amount=eur("50.00"))
        resubmitted = await api.user("alice").call(api.stubs.approvals.ResubmitApproval, request)
        assert (resubmitted.budget_id, resubmitted.funds) == (opened.id, Approval.HELD)
        assert (await api.amounts(opened))[1] == "50.00"

    @pytest.mark.parametrize("request_type", [Approval.BUDGET_INCREASE, Approval.BUDGET_OVERSPEND])
    async def test_request_without_a_hold_is_applied_to_the_opened_budget(
        self, api: ApprovalsApi, admin: "asyncpg.Pool[asyncpg.Record]", request_type: "Approval.Type.ValueType"
    ) -> None:
        closed = await api.budgets.open("100.00", overspend_policy=Budget.REQUIRE_APPROVAL)
        approval = await api.submit(amount="150.00", budget_id=closed.id, request_type=request_type)
        await move_back_a_year(admin, closed)
        opened = (await roll(api.budgets, closed)).opened
        await api.act("carla", await moved_to(api, approval, opened.id))
        raised = request_type == Approval.BUDGET_INCREASE
        await api.wait_for_funds(approval, Approval.RAISED if raised else Approval.COMMITTED)
        assert (await api.amounts(opened))[-1] == ("250.00" if raised else "-50.00")

    async def test_decided_request_without_a_hold_stays(self, api: ApprovalsApi) -> None:
        closed = await api.budgets.open("100.00")
        rejected, pending = [await api.submit(amount="10.00", budget_id=closed.id) for _ in range(2)]
        await api.act("carla", rejected, ApprovalAction.REJECT, comment="no")
        await api.wait_for_funds(rejected, Approval.RELEASED)
        opened = (await roll(api.budgets, closed)).opened
        await moved_to(api, pending, opened.id)
        assert (await api.get(rejected)).budget_id == closed.id


class TestCommitments:
    async def test_commitment_is_followed_unless_it_was_captured(self, api: ApprovalsApi) -> None:
        closed = await api.budgets.open("100.00")
        kept, captured = [await api.submit(amount="30.00", budget_id=closed.id) for _ in range(2)]
        for approval in (kept, captured):
            await api.act("carla", approval)
            await api.wait_for_funds(approval, Approval.COMMITTED)
        capture = ledger_pb.CaptureHoldRequest(id=closed.id, hold_id=captured.hold_id, request_id=uuid4().hex)
        await api.budgets.who.call(api.budgets.stubs.ledger.CaptureHold, capture)
        opened = (await roll(api.budgets, closed)).opened
        moved = await moved_to(api, kept, opened.id)
        assert (moved.budget_impact.budget_id, moved.funds) == (opened.id, Approval.COMMITTED)
        assert (await api.get(captured)).budget_id == closed.id
        assert len(await moves(api, kept)) == 1


class TestEvents:
    async def test_rollovers_are_followed_in_any_order_and_once(self, api: ApprovalsApi, deliver: Deliver) -> None:
        """Two rollovers; the events of the second one are delivered first, and all of them twice."""
        budget = await api.budgets.open("100.00")
        held = await api.submit(amount="60.00", budget_id=budget.id)
        increase = await api.submit(amount="5.00", budget_id=budget.id, request_type=Approval.BUDGET_INCREASE)
        first, second, third = budget.id, ids.BUDGET.format(ids.new()), ids.BUDGET.format(ids.new())
        events: list[Message] = []
        for closed, opened in ((second, third), (first, second)):
            events.append(BudgetRolledOver(closed_budget_id=closed, opened_budget_id=opened))
            moved = ApprovalHoldsMoved(closed_budget_id=closed, opened_budget_id=opened, approval_ids=[held.id])
            events.append(moved)
        for event in [*events, *events]:
            await deliver(event)
        assert [(await api.get(one)).budget_id for one in (held, increase)] == [third, third]
        assert [len(await moves(api, one)) for one in (held, increase)] == [1, 1]

    async def test_request_in_opening_is_moved_when_it_is_opened(
        self, api: ApprovalsApi, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its budget is rolled over between the hold and the start of its workflow."""
        budget = await api.budgets.open("100.00")
        request, alice = api.new_request("60.00", budget_id=budget.id), api.user("alice", "procurement")
        await api.start_opening("alice", request, monkeypatch)
        (approval_id,) = await list_by_budget(api, budget.id)
        opened = ids.BUDGET.format(ids.new())
        with pytest.raises(Conflict):
            await deliver(ApprovalHoldsMoved(opened_budget_id=opened, approval_ids=[approval_id]))
        await deliver(BudgetRolledOver(closed_budget_id=budget.id, opened_budget_id=opened))
        assert await list_by_budget(api, budget.id) == [approval_id]
        approval = await alice.call(api.stubs.approvals.CreateApproval, request)
        assert (approval.budget_id, approval.funds) == (opened, Approval.HELD)
        assert len(await moves(api, approval)) == 1
        actions = [one.action for one in await api.history(approval)]
        assert actions == [ApprovalAction.REQUEST, ApprovalAction.ROLL_OVER]
