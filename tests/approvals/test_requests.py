"""Asking for an approval, deciding on it, and what becomes of the money."""

from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction, ApprovalStep
from billing.budgets.v1.hold_pb2 import Hold
from grpc import StatusCode

from tests.approvals.conftest import APPROVE, REJECT, ApprovalsApi, step
from tests.harness.callers import refusal


class TestDeciding:
    async def test_who_is_asked_approves(self, api: ApprovalsApi) -> None:
        rule = await api.rule(step("Controlling", "carla"))
        asked = await api.ask()
        assert asked.state == Approval.PENDING
        assert [(one.rule_id, one.rule_version) for one in asked.rules] == [(rule.id, 1)]
        assert [(seat.user_id, seat.why) for seat in asked.steps[0].seats] == [("carla", "the rule asks carla")]
        assert await api.inbox("carla") == [asked.id]
        done = await api.act("carla", asked, comment="fine")
        assert (done.state, done.decided_by, done.decision_comment) == (Approval.APPROVED, "carla", "fine")
        assert done.steps[0].state == ApprovalStep.APPROVED
        assert await api.inbox("carla") == []
        assert [one.action for one in await api.history(asked)] == [ApprovalAction.REQUEST, APPROVE]

    async def test_somebody_else_may_not(self, api: ApprovalsApi) -> None:
        await api.rule(step("Controlling", "carla"))
        asked = await api.ask()
        refused = await refusal(api.act("mallory", asked))
        assert (refused.code, refused.reason) == (StatusCode.PERMISSION_DENIED, "NOT_AN_APPROVER")
        assert refused.metadata["asked"] == "carla"

    async def test_one_who_rejects_ends_it_and_a_late_decision_is_told_who_did(self, api: ApprovalsApi) -> None:
        await api.rule(step("Both", "carla", "bert", mode=Approval.ALL))
        asked = await api.ask()
        await api.act("carla", asked, REJECT, comment="too dear")
        late = await refusal(api.act("bert", asked))
        assert (late.reason, late.metadata["state"], late.metadata["decided_by"]) == (
            "APPROVAL_STATE",
            "REJECTED",
            "carla",
        )


class TestMoney:
    async def test_it_is_held_while_they_decide_and_committed_when_they_approve(self, api: ApprovalsApi) -> None:
        await api.rule(step("Controlling", "carla"))
        budget = await api.budgets.open("1000.00")
        asked = await api.ask(budget_id=budget.id)
        assert (asked.funds, asked.entity_id) == (Approval.HELD, budget.entity_id)
        assert await api.numbers(budget) == ("0.00", "100.00", "0.00", "0.00", "900.00")
        await api.act("carla", asked)
        done = await api.settled(asked, Approval.COMMITTED)
        assert (await api.hold(done)).state == Hold.COMMITTED
        assert await api.numbers(budget) == ("0.00", "0.00", "100.00", "0.00", "900.00")

    async def test_it_is_given_back_when_they_reject(self, api: ApprovalsApi) -> None:
        await api.rule(step("Controlling", "carla"))
        budget = await api.budgets.open("1000.00")
        asked = await api.ask(budget_id=budget.id)
        await api.act("carla", asked, REJECT, comment="no")
        await api.settled(asked, Approval.RELEASED)
        assert await api.numbers(budget) == ("0.00", "0.00", "0.00", "0.00", "1000.00")

    async def test_without_room_it_is_refused_at_once_with_the_numbers(self, api: ApprovalsApi) -> None:
        await api.rule(step("Controlling", "carla"))
        budget = await api.budgets.open("99.99")
        refused = await refusal(api.ask(budget_id=budget.id))
        assert (refused.reason, refused.metadata["short"]) == ("BUDGET_EXCEEDED", "0.01")
        assert await api.inbox("carla") == []
        assert await api.numbers(budget) == ("0.00", "0.00", "0.00", "0.00", "99.99")
