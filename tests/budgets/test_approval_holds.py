"""Holds for approval requests: only their request settles them, and each outcome is applied once."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from billing.approvals.v1.approval_pb2 import Approval
from billing.approvals.v1.events_pb2 import (
    ApprovalApproved,
    ApprovalCancelled,
    ApprovalChangesRequested,
    ApprovalExpired,
    ApprovalFacts,
    ApprovalRejected,
)
from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1 import ledger_service_pb2 as ledger_pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.hold_pb2 import Hold

from kit import ids
from kit.auth import ServiceTokens
from kit.settings import Settings
from tests.budgets.budgets_api import BudgetsApi, eur, numbers
from tests.harness.callers import Caller, refusal
from tests.harness.events import Replica
from tests.harness.observe import OutboxEvent
from tests.harness.services import Budgets, Served

NOT_APPROVED = [ApprovalRejected, ApprovalCancelled, ApprovalExpired, ApprovalChangesRequested]


class Approvals:
    """The approvals service as seen by budgets: it holds amounts and publishes outcomes, each twice."""

    def __init__(self, api: BudgetsApi, service: Caller, served: Served[Budgets], tenant: UUID) -> None:
        self.api, self.service, self.served, self.tenant = api, service, served, tenant

    async def hold(self, budget: Budget, amount: str, approval_id: str = "", of_round: int = 1) -> Hold:
        approval_id = approval_id or ids.APPROVAL.format(ids.new())
        request = ledger_pb.HoldForApprovalRequest(
            budget_id=budget.id, approval_id=approval_id, round=of_round, amount=eur(amount),
            request_id=f"{approval_id}:{of_round}",
        )  # fmt: skip
        return await self.service.call(self.api.stubs.ledger.HoldForApproval, request)

    async def release(self, budget: Budget, approval_id: str, of_round: int = 1) -> bool:
        request = ledger_pb.ReleaseForApprovalRequest(budget_id=budget.id, approval_id=approval_id, round=of_round)
        return (await self.service.call(self.api.stubs.ledger.ReleaseForApproval, request)).released

    async def publish(self, kind: Any, budget: Budget, hold: Hold | None = None, **facts: Any) -> None:
        """Deliver the event of an outcome twice."""
        given = {
            "approval_id": hold.approval_id if hold else ids.APPROVAL.format(ids.new()), "round": 1,
            "request_type": Approval.PURCHASE, "budget_id": budget.id, "hold_id": hold.id if hold else "", **facts,
        }  # fmt: skip
        event = kind(approval=ApprovalFacts(**given))
        replica = Replica(self.served.service, "budgets", self.tenant, actor="carla")
        for _ in range(2):
            await replica.handle(event)

    async def numbers(self, budget: Budget) -> tuple[str, str, str, str, str]:
        return numbers(await self.api.who.call(self.api.stubs.budgets.GetBudget, pb.GetBudgetRequest(id=budget.id)))


@pytest.fixture
def requests(
    api: BudgetsApi, settings: Callable[..., Settings], budgets_served: Served[Budgets], tenant: UUID
) -> Approvals:
    service = Caller(tenant, "service:approvals", ServiceTokens(settings("approvals")).token(tenant))
    return Approvals(api, service, budgets_served, tenant)


Events = Callable[..., Awaitable[list[OutboxEvent]]]


async def settled(events: Events) -> list[str]:
    """Return the types of the settlement events."""
    return [event.type for event in await events("budgets") if event.type.endswith("ApprovalFundsSettled")]


class TestOutcomes:
    async def test_the_hold_of_an_approved_request_is_committed_once(
        self, api: BudgetsApi, requests: Approvals, outbox_events: Events
    ) -> None:
        budget = await api.open("100.00")
        hold = await requests.hold(budget, "60.00")
        assert (hold.state, hold.approval_id[:4], hold.HasField("expire_time")) == (Hold.HELD, "apr_", False)
        await requests.publish(ApprovalApproved, budget, hold)
        assert await requests.numbers(budget) == ("0.00", "0.00", "60.00", "0.00", "40.00")
        assert len(await settled(outbox_events)) == 1

    @pytest.mark.parametrize("kind", NOT_APPROVED)
    async def test_the_hold_of_any_other_outcome_is_released_once(
        self, api: BudgetsApi, requests: Approvals, outbox_events: Events, kind: Any
    ) -> None:
        budget = await api.open("100.00")
        hold = await requests.hold(budget, "60.00")
        await requests.publish(kind, budget, hold)
        assert await requests.numbers(budget) == ("0.00", "0.00", "0.00", "0.00", "100.00")
        assert len(await settled(outbox_events)) == 1

    async def test_an_approval_for_a_closed_budget_fails_and_holds_nothing(
        self, api: BudgetsApi, requests: Approvals, outbox_events: Events
    ) -> None:
        budget = await api.open("100.00")
        hold = await requests.hold(budget, "60.00")
        await api.who.call(api.stubs.budgets.CloseBudget, pb.CloseBudgetRequest(id=budget.id))
        await requests.publish(ApprovalApproved, budget, hold)
        assert (await requests.numbers(budget))[:3] == ("0.00", "0.00", "0.00")
        settled_events = [
            event for event in await outbox_events("budgets") if event.type.endswith("ApprovalFundsSettled")
        ]
        assert "FAILED" in str(settled_events[-1])

    async def test_a_budget_is_raised_once(self, api: BudgetsApi, requests: Approvals) -> None:
        budget = await api.open("100.00")
        await requests.publish(ApprovalApproved, budget, request_type=Approval.BUDGET_INCREASE, amount=eur("5.00"))
        assert (await requests.numbers(budget))[-1] == "105.00"

    async def test_an_approved_overspend_is_committed_once(self, api: BudgetsApi, requests: Approvals) -> None:
        budget = await api.open("100.00", overspend_policy=Budget.REQUIRE_APPROVAL)
        await requests.publish(ApprovalApproved, budget, request_type=Approval.BUDGET_OVERSPEND, amount=eur("105.00"))
        assert await requests.numbers(budget) == ("0.00", "0.00", "105.00", "0.00", "-5.00")

    async def test_an_approved_overspend_does_not_pass_a_hard_limit(
        self, api: BudgetsApi, requests: Approvals, outbox_events: Events
    ) -> None:
        budget = await api.open("100.00")
        await requests.publish(ApprovalApproved, budget, request_type=Approval.BUDGET_OVERSPEND, amount=eur("105.00"))
        assert await requests.numbers(budget) == ("0.00", "0.00", "0.00", "0.00", "100.00")
        assert await api.holds(budget) == []
        (event,) = [event for event in await outbox_events("budgets") if event.type.endswith("ApprovalFundsSettled")]
        assert "FAILED" in str(event)


class TestRounds:
    async def test_each_round_holds_once_and_is_settled_on_its_own(self, api: BudgetsApi, requests: Approvals) -> None:
        budget = await api.open("100.00")
        first = await requests.hold(budget, "60.00")
        assert await requests.hold(budget, "60.00", first.approval_id) == first
        assert await requests.release(budget, first.approval_id)
        second = await requests.hold(budget, "90.00", first.approval_id, 2)
        await requests.publish(ApprovalChangesRequested, budget, first)  # arrives late
        assert await requests.numbers(budget) == ("0.00", "90.00", "0.00", "0.00", "10.00")
        await requests.publish(ApprovalApproved, budget, second, round=2)
        assert await requests.numbers(budget) == ("0.00", "0.00", "90.00", "0.00", "10.00")

    async def test_a_hold_that_was_cancelled_before_it_was_requested_is_refused(
        self, api: BudgetsApi, requests: Approvals
    ) -> None:
        budget, approval_id = await api.open("100.00"), ids.APPROVAL.format(ids.new())
        assert not await requests.release(budget, approval_id)
        assert not await requests.release(budget, approval_id)
        assert (await refusal(requests.hold(budget, "60.00", approval_id))).reason == "IDEMPOTENCY_MISMATCH"
        assert (await requests.numbers(budget))[1] == "0.00"


class TestOtherCallers:
    async def test_only_its_request_settles_the_hold(self, api: BudgetsApi, requests: Approvals) -> None:
        budget = await api.open("100.00")
        hold = await requests.hold(budget, "60.00")
        for kind, rpc in (
            (ledger_pb.CommitHoldRequest, api.stubs.ledger.CommitHold),
            (ledger_pb.CaptureHoldRequest, api.stubs.ledger.CaptureHold),
            (ledger_pb.ReleaseHoldRequest, api.stubs.ledger.ReleaseHold),
        ):
            request: Any = kind(id=budget.id, hold_id=hold.id, request_id=uuid4().hex)
            refused = await refusal(api.who.call(rpc, request))
            assert (refused.reason, refused.metadata["approval_id"]) == ("HOLD_AWAITS_APPROVAL", hold.approval_id)
        await requests.publish(ApprovalApproved, budget, hold)
        request = ledger_pb.CaptureHoldRequest(id=budget.id, hold_id=hold.id, request_id=uuid4().hex)
        assert (await api.who.call(api.stubs.ledger.CaptureHold, request)).state == Hold.CAPTURED
