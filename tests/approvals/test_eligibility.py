"""Separation of duties, without a database: parallel steps, escalations, and delegates of the requester."""

from typing import Final

import pytest

from services.approvals import domain
from services.approvals.domain.approvals import ApprovalAction
from services.approvals.domain.rules import Flow, Mode
from services.approvals.domain.workflows import ApproverSlot, Decision
from services.approvals.errors.approvals import AlreadyDecided, EscalationMissing, NotAnApprover, TargetRefused
from tests.approvals.test_decisions import NOW, actor, approve, assignees, rule, started, states, step


class TestParallelSteps:
    """A user decides in one of the parallel steps of a rule only, unless the rule assigns both to them."""

    RULES: Final = (rule(flow=Flow.PARALLEL),)

    def test_one_click_fills_one_step_by_role(self) -> None:
        workflow = started(step("@finance"), step("@finance"), rules=self.RULES)
        fiona = actor("fiona", roles=frozenset({"finance"}))
        change = approve(workflow, fiona)
        assert (states(change.workflow), len(change.records)) == (["APPROVED", "ACTIVE"], 1)
        with pytest.raises(AlreadyDecided):
            approve(change.workflow, fiona)
        assert approve(change.workflow, actor("f", roles=frozenset({"finance"}))).outcome is ApprovalAction.APPROVE

    def test_own_slot_comes_before_that_of_a_role_or_delegation(self) -> None:
        workflow = started(step("@finance"), step("a"), step("b"), rules=self.RULES)
        a = actor("a", roles=frozenset({"finance"}), acts_for=frozenset({"b"}))
        with pytest.raises(AlreadyDecided, match="parallel step 'a'"):
            domain.decisions.decide(workflow, a, Decision.APPROVED, NOW, step=1)
        change = approve(workflow, a)
        assert [(one.step, one.on_behalf_of) for one in change.records] == [(2, "")]

    def test_delegate_of_two_approvers_decides_one_step(self) -> None:
        change = approve(started(step("a"), step("b"), rules=self.RULES), actor("d", acts_for=frozenset({"a", "b"})))
        assert [one.on_behalf_of for one in change.records] == ["a"]
        assert approve(change.workflow, "b").outcome is ApprovalAction.APPROVE

    def test_approver_of_a_parallel_step_is_neither_successor_nor_target(self) -> None:
        workflow = started(step("a"), step("b"), rules=self.RULES)
        change = domain.approvers.replace_departed(workflow, "a", ("b", "c"), NOW)
        assert assignees(change.workflow) == [["c"], ["b"]]
        with pytest.raises(TargetRefused):
            domain.decisions.delegate(workflow, actor("a"), "b")


class TestEscalation:
    """A user who decided in a step, or by role or delegation in a parallel one, does not get its escalation."""

    ERIN: Final = actor("erin", roles=frozenset({"finance"}))

    @pytest.mark.parametrize("flow", [Flow.SEQUENTIAL, Flow.PARALLEL])
    def test_user_who_has_decided_does_not_get_the_escalation(self, flow: Flow) -> None:
        erin = ApproverSlot(user_id="erin", reason="")
        if flow is Flow.PARALLEL:
            steps = [step("@finance"), step("carla", escalate_to=erin)]
        else:
            steps = [step("carla", "@finance", mode=Mode.ALL, escalate_to=erin)]
        workflow = approve(started(*steps, rules=(rule(flow=flow),)), self.ERIN).workflow
        number = len(steps)
        with pytest.raises(EscalationMissing, match="has decided already"):
            domain.decisions.escalate(workflow, actor("carla"), NOW, step=number)
        due_time = workflow.step(number).due_time
        assert due_time
        overdue = domain.deadlines.apply(workflow, due_time)
        assert overdue.escalated == ()
        assert (assignees(overdue.workflow), overdue.workflow.step(number).escalated) == (assignees(workflow), True)


def test_chain_of_delegations_through_the_requester_does_not_count() -> None:
    """grace → luis → dave: dave does not decide for grace about a request of luis."""
    delegators = {"dave": ["luis"], "luis": ["grace"]}
    acts_for = domain.delegations.acts_for("dave", delegators)
    without = {user: domain.delegations.acts_for("dave", delegators, without=user) for user in acts_for}
    dave = actor("dave", acts_for=acts_for, acts_for_by_requester=without)
    assert acts_for == {"luis", "grace"}
    with pytest.raises(NotAnApprover):
        approve(started(step("grace"), requester="luis"), dave)
    assert approve(started(step("grace"), requester="rita"), dave).outcome is ApprovalAction.APPROVE
    allowed = started(step("grace"), requester="luis", rules=(rule(allow_self_approval=True),))
    assert approve(allowed, dave).outcome is ApprovalAction.APPROVE
