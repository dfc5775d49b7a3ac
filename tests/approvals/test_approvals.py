"""The life of a request: submission, decision, and the reservation on its budget."""

from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction, ApprovalStep
from billing.budgets.v1.hold_pb2 import Hold
from grpc import StatusCode

from tests.approvals.conftest import APPROVE, REJECT, ApprovalsApi, step
from tests.harness.callers import refusal


class TestDecision:
    async def test_approver_approves(self, api: ApprovalsApi) -> None:
        rule = await api.create_rule(step("Controlling", "carla"))
        approval = await api.submit()
        assert approval.state == Approval.PENDING
        assert [(one.rule_id, one.rule_version) for one in approval.rules] == [(rule.id, 1)]
        assert [(seat.user_id, seat.why) for seat in approval.steps[0].seats] == [("carla", "named in the rule")]
        assert await api.to_decide("carla") == [approval.id]
        approved = await api.act("carla", approval, comment="fine")
        assert (approved.state, approved.decided_by, approved.decision_comment) == (Approval.APPROVED, "carla", "fine")
        assert approved.steps[0].state == ApprovalStep.APPROVED
        assert await api.to_decide("carla") == []
        assert [one.action for one in await api.history(approval)] == [ApprovalAction.REQUEST, APPROVE]

    async def test_other_user_does_not_decide(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("Controlling", "carla"))
        approval = await api.submit()
        error = await refusal(api.act("mallory", approval))
        assert (error.code, error.reason) == (StatusCode.PERMISSION_DENIED, "NOT_AN_APPROVER")
        assert error.metadata["asked"] == "carla"

    async def test_late_decision_gets_who_rejected_the_request(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("Both", "carla", "bert", mode=Approval.ALL))
        approval = await api.submit()
        await api.act("carla", approval, REJECT, comment="too expensive")
        error = await refusal(api.act("bert", approval))
        assert error.reason == "APPROVAL_STATE"
        assert (error.metadata["state"], error.metadata["decided_by"]) == ("REJECTED", "carla")


class TestReservation:
    async def test_amount_is_held_while_pending_and_committed_by_the_approval(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("Controlling", "carla"))
        budget = await api.budgets.open("1000.00")
        approval = await api.submit(budget_id=budget.id)
        assert (approval.funds, approval.entity_id) == (Approval.HELD, budget.entity_id)
        assert await api.amounts(budget) == ("0.00", "100.00", "0.00", "0.00", "900.00")
        await api.act("carla", approval)
        settled = await api.wait_for_funds(approval, Approval.COMMITTED)
        assert (await api.get_hold(settled)).state == Hold.COMMITTED
        assert await api.amounts(budget) == ("0.00", "0.00", "100.00", "0.00", "900.00")

    async def test_hold_is_released_by_the_rejection(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("Controlling", "carla"))
        budget = await api.budgets.open("1000.00")
        approval = await api.submit(budget_id=budget.id)
        await api.act("carla", approval, REJECT, comment="no")
        await api.wait_for_funds(approval, Approval.RELEASED)
        assert await api.amounts(budget) == ("0.00", "0.00", "0.00", "0.00", "1000.00")

    async def test_request_that_exceeds_its_budget_fails_with_the_shortfall(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("Controlling", "carla"))
        budget = await api.budgets.open("99.99")
        error = await refusal(api.submit(budget_id=budget.id))
        assert (error.reason, error.metadata["short"]) == ("BUDGET_EXCEEDED", "0.01")
        assert await api.to_decide("carla") == []
        assert await api.amounts(budget) == ("0.00", "0.00", "0.00", "0.00", "99.99")
