"""Asking for an approval, deciding on it, and what becomes of the money."""

from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction, ApprovalStep
from billing.budgets.v1.hold_pb2 import Hold
from grpc import StatusCode

from tests.approvals.conftest import APPROVE, REJECT, Desk, step
from tests.harness.callers import refusal


class TestDeciding:
    async def test_who_is_asked_approves(self, desk: Desk) -> None:
        rule = await desk.rule(step("Controlling", "carla"))
        asked = await desk.ask()
        assert asked.state == Approval.PENDING
        assert [(one.rule_id, one.rule_version) for one in asked.rules] == [(rule.id, 1)]
        assert [(seat.user_id, seat.why) for seat in asked.steps[0].seats] == [("carla", "the rule asks carla")]
        assert await desk.inbox("carla") == [asked.id]
        done = await desk.act("carla", asked, comment="fine")
        assert (done.state, done.decided_by, done.decision_comment) == (Approval.APPROVED, "carla", "fine")
        assert done.steps[0].state == ApprovalStep.APPROVED
        assert await desk.inbox("carla") == []
        assert [one.action for one in await desk.history(asked)] == [ApprovalAction.REQUEST, APPROVE]

    async def test_somebody_else_may_not(self, desk: Desk) -> None:
        await desk.rule(step("Controlling", "carla"))
        asked = await desk.ask()
        refused = await refusal(desk.act("mallory", asked))
        assert (refused.code, refused.reason) == (StatusCode.PERMISSION_DENIED, "NOT_AN_APPROVER")
        assert refused.metadata["asked"] == "carla"

    async def test_one_who_rejects_ends_it_and_a_late_decision_is_told_who_did(self, desk: Desk) -> None:
        await desk.rule(step("Both", "carla", "bert", mode=Approval.ALL))
        asked = await desk.ask()
        await desk.act("carla", asked, REJECT, comment="too dear")
        late = await refusal(desk.act("bert", asked))
        assert (late.reason, late.metadata["state"], late.metadata["decided_by"]) == (
            "APPROVAL_STATE",
            "REJECTED",
            "carla",
        )


class TestMoney:
    async def test_it_is_held_while_they_decide_and_committed_when_they_approve(self, desk: Desk) -> None:
        await desk.rule(step("Controlling", "carla"))
        budget = await desk.budgets.open("1000.00")
        asked = await desk.ask(budget_id=budget.id)
        assert (asked.funds, asked.entity_id) == (Approval.HELD, budget.entity_id)
        assert await desk.numbers(budget) == ("0.00", "100.00", "0.00", "0.00", "900.00")
        await desk.act("carla", asked)
        done = await desk.settled(asked, Approval.COMMITTED)
        assert (await desk.hold(done)).state == Hold.COMMITTED
        assert await desk.numbers(budget) == ("0.00", "0.00", "100.00", "0.00", "900.00")

    async def test_it_is_given_back_when_they_reject(self, desk: Desk) -> None:
        await desk.rule(step("Controlling", "carla"))
        budget = await desk.budgets.open("1000.00")
        asked = await desk.ask(budget_id=budget.id)
        await desk.act("carla", asked, REJECT, comment="no")
        await desk.settled(asked, Approval.RELEASED)
        assert await desk.numbers(budget) == ("0.00", "0.00", "0.00", "0.00", "1000.00")

    async def test_without_room_it_is_refused_at_once_with_the_numbers(self, desk: Desk) -> None:
        await desk.rule(step("Controlling", "carla"))
        budget = await desk.budgets.open("99.99")
        refused = await refusal(desk.ask(budget_id=budget.id))
        assert (refused.reason, refused.metadata["short"]) == ("BUDGET_EXCEEDED", "0.01")
        assert await desk.inbox("carla") == []
        assert await desk.numbers(budget) == ("0.00", "0.00", "0.00", "0.00", "99.99")
