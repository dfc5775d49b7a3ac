"""Decisions on workflows, without a database: who may act in which step, and the result."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.approvals import domain
from services.approvals.domain.approvals import ActionType, Actor, ApprovalAction
from services.approvals.domain.rules import Flow, Mode, OnExpiry
from services.approvals.domain.workflows import (
    AppliedRule,
    ApproverSlot,
    Decision,
    Step,
    StepState,
    Workflow,
    WorkflowChange,
)
from services.approvals.errors.approvals import (
    AlreadyDecided,
    EscalationMissing,
    NotAnApprover,
    SelfApproval,
    TargetRefused,
)

NOW: Final = datetime(2026, 3, 2, 9, tzinfo=UTC)
APPROVED, REJECTED, CHANGES = Decision.APPROVED, Decision.REJECTED, Decision.CHANGES_REQUESTED
BOSS: Final = ApproverSlot(user_id="boss", reason="")


def rule(**fields: object) -> AppliedRule:
    return AppliedRule(rule_id=UUID(int=1), rule_version=1, name="rule", reason="it matches", **fields)  # type: ignore[arg-type]


def step(*approvers: str, **fields: object) -> Step:
    """A step with these approvers: users, or roles with the prefix "@"."""
    slots = tuple(
        ApproverSlot(role=name[1:], reason="") if name.startswith("@") else ApproverSlot(user_id=name, reason="")
        for name in approvers
    )
    defaults = {"name": "-".join(approvers), "rule_index": 0, "mode": Mode.ANY, "sla_hours": 10, "slots": slots}
    return Step(**{**defaults, **fields})  # type: ignore[arg-type]


def started(*steps: Step, rules: tuple[AppliedRule, ...] = (), requester: str = "rita") -> Workflow:
    """A workflow of requester rita whose first steps are active."""
    workflow = Workflow(requester=requester, rules=rules or (rule(),), steps=steps)
    return domain.decisions.start(workflow, NOW).workflow


def actor(user_id: str, **fields: object) -> Actor:
    return Actor(user_id=user_id, **fields)  # type: ignore[arg-type]


def approve(workflow: Workflow, user: str | Actor, now: datetime = NOW) -> WorkflowChange:
    return domain.decisions.decide(workflow, user if isinstance(user, Actor) else actor(user), APPROVED, now)


def states(workflow: Workflow) -> list[str]:
    return [one.state.value for one in workflow.steps]


def assignees(workflow: Workflow) -> list[list[str]]:
    return [[slot.user_id or f"@{slot.role}" for slot in one.slots] for one in workflow.steps]


def later(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


class TestModes:
    @pytest.mark.parametrize(
        ("mode", "quorum", "required"), [(Mode.ANY, 0, 1), (Mode.ALL, 0, 3), (Mode.QUORUM, 2, 2), (Mode.QUORUM, 3, 3)]
    )
    def test_step_needs_as_many_approvals_as_its_mode_requires(self, mode: Mode, quorum: int, required: int) -> None:
        workflow = started(step("a", "b", "c", mode=mode, quorum=quorum))
        for count, user_id in enumerate("abc"[:required], start=1):
            change = approve(workflow, user_id)
            assert change.outcome == (ApprovalAction.APPROVE if count == required else None)
            workflow = change.workflow

    def test_user_fills_one_slot_per_step(self) -> None:
        workflow = started(step("a", "@finance", mode=Mode.ALL))
        workflow = approve(workflow, actor("a", roles=frozenset({"finance"}))).workflow
        with pytest.raises(AlreadyDecided):
            approve(workflow, actor("a", roles=frozenset({"finance"})))
        assert approve(workflow, actor("f", roles=frozenset({"finance"}))).outcome is ApprovalAction.APPROVE

    def test_approval_of_an_added_approver_is_required(self) -> None:
        workflow = domain.decisions.add_approver(started(step("a", "b")), actor("a"), "x").workflow
        change = approve(workflow, "a")
        assert change.outcome is None
        assert approve(change.workflow, "x").outcome is ApprovalAction.APPROVE

    def test_approval_of_an_added_approver_is_not_sufficient(self) -> None:
        workflow = domain.decisions.add_approver(started(step("a", "b")), actor("a"), "x").workflow
        assert approve(workflow, "x").outcome is None

    @pytest.mark.parametrize(
        ("decision", "outcome"), [(REJECTED, ApprovalAction.REJECT), (CHANGES, ApprovalAction.REQUEST_CHANGES)]
    )
    def test_one_negative_decision_ends_the_round(self, decision: Decision, outcome: ApprovalAction) -> None:
        workflow = started(step("a", "b", mode=Mode.ALL))
        change = domain.decisions.decide(workflow, actor("b"), decision, NOW, comment="no")
        assert (change.outcome, change.decided_by, change.comment) == (outcome, "b", "no")


class TestOrder:
    def test_sequential_steps_start_one_after_the_other(self) -> None:
        workflow = started(step("a"), step("b"))
        assert states(workflow) == ["ACTIVE", "WAITING"]
        with pytest.raises(NotAnApprover):
            approve(workflow, "b")
        change = approve(workflow, "a")
        assert (states(change.workflow), change.started, change.outcome) == (["APPROVED", "ACTIVE"], (2,), None)

    def test_parallel_steps_of_a_rule_start_together_and_the_next_rule_waits(self) -> None:
        rules = (rule(flow=Flow.PARALLEL), rule())
        workflow = started(step("a"), step("b"), step("c", rule_index=1), rules=rules)
        assert states(workflow) == ["ACTIVE", "ACTIVE", "WAITING"]
        workflow = approve(workflow, "b").workflow
        assert states(workflow) == ["ACTIVE", "APPROVED", "WAITING"]
        workflow = approve(workflow, "a").workflow
        assert states(workflow) == ["APPROVED", "APPROVED", "ACTIVE"]
        assert approve(workflow, "c").outcome is ApprovalAction.APPROVE

    def test_approver_of_two_active_steps_decides_both(self) -> None:
        change = approve(started(step("a"), step("a"), rules=(rule(flow=Flow.PARALLEL),)), "a")
        assert (change.outcome, [one.step for one in change.records]) == (ApprovalAction.APPROVE, [1, 2])

    def test_rule_with_auto_approve_approves_without_steps(self) -> None:
        workflow = Workflow(requester="r", rules=(rule(auto_approve=True),), steps=())
        change = domain.decisions.start(workflow, NOW)
        assert change.outcome is ApprovalAction.APPROVE
        assert [one.action for one in change.records] == [ActionType.AUTO_APPROVE]


ACTORS: Final = {
    "approver": actor("a"),
    "holder of the role": actor("r2", roles=frozenset({"finance"})),
    "delegate": actor("d", acts_for=frozenset({"a"})),
    "delegate of the requester": actor("d", acts_for=frozenset({"rita"})),
    "approver of a later step": actor("z"),
    "requester": actor("rita"),
    "requester with the role": actor("rita", roles=frozenset({"finance"})),
    "requester as a delegate": actor("rita", acts_for=frozenset({"a"})),
    "administrator": actor("root", admin=True),
    "other user": actor("m"),
}
MAY_DECIDE: Final = {"approver", "holder of the role", "delegate"}
SELF: Final = {"requester with the role", "requester as a delegate"}


class TestPermissions:
    """Every action by every kind of actor, while a step with a and @finance is active and one with z waits."""

    @pytest.mark.parametrize(("name", "decision"), list(itertools.product(ACTORS, Decision)))
    def test_only_approvers_of_an_active_step_decide(self, name: str, decision: Decision) -> None:
        workflow = started(step("a", "@finance"), step("z"))
        if name in MAY_DECIDE:
            change = domain.decisions.decide(workflow, ACTORS[name], decision, NOW)
            on_behalf_of = "a" if name == "delegate" else ""
            assert [(one.actor, one.on_behalf_of) for one in change.records] == [(ACTORS[name].user_id, on_behalf_of)]
            return
        with pytest.raises(SelfApproval if name in SELF else NotAnApprover):
            domain.decisions.decide(workflow, ACTORS[name], decision, NOW)

    @pytest.mark.parametrize("name", ACTORS)
    def test_only_approvers_of_an_active_step_delegate(self, name: str) -> None:
        workflow = started(step("a", "@finance"), step("z"))
        if name in MAY_DECIDE:
            change = domain.decisions.delegate(workflow, ACTORS[name], "new")
            assert "new" in assignees(change.workflow)[0]
            return
        with pytest.raises(SelfApproval if name in SELF else NotAnApprover):
            domain.decisions.delegate(workflow, ACTORS[name], "new")

    @pytest.mark.parametrize("name", ACTORS)
    def test_approvers_and_administrators_add_approvers_and_escalate(self, name: str) -> None:
        workflow = started(step("a", "@finance", escalate_to=BOSS), step("z"))
        if name in MAY_DECIDE | SELF | {"administrator"}:
            assert len(domain.decisions.add_approver(workflow, ACTORS[name], "new").workflow.steps[0].slots) == 3
            escalated = domain.decisions.escalate(workflow, ACTORS[name], NOW).escalated
            assert [slot.user_id for _, slot in escalated] == ["boss"]
            return
        with pytest.raises(NotAnApprover):
            domain.decisions.add_approver(workflow, ACTORS[name], "new")
        with pytest.raises(NotAnApprover):
            domain.decisions.escalate(workflow, ACTORS[name], NOW)

    def test_requester_decides_if_the_rule_allows_self_approval(self) -> None:
        workflow = started(step("rita"), rules=(rule(allow_self_approval=True),))
        assert approve(workflow, "rita").outcome is ApprovalAction.APPROVE

    @pytest.mark.parametrize("target", ["b", "rita"])
    def test_target_must_not_be_the_requester_or_an_approver_of_the_step(self, target: str) -> None:
        workflow = started(step("a", "b"))
        with pytest.raises(TargetRefused):
            domain.decisions.delegate(workflow, actor("a"), target)
        with pytest.raises(TargetRefused):
            domain.decisions.add_approver(workflow, actor("a"), target)

    def test_step_without_escalation_approver_is_not_escalated(self) -> None:
        with pytest.raises(EscalationMissing):
            domain.decisions.escalate(started(step("a")), actor("a"), NOW)

    def test_delegate_of_the_requester_does_not_decide_for_the_requester(self) -> None:
        delegate = actor("dan", acts_for=frozenset({"rita"}))
        with pytest.raises(SelfApproval):
            approve(started(step("rita")), delegate)
        with pytest.raises(SelfApproval):
            domain.decisions.delegate(started(step("rita")), delegate, "max")

    def test_delegate_of_the_requester_decides_for_another_approver(self) -> None:
        change = approve(started(step("rita", "ben")), actor("dan", acts_for=frozenset({"rita", "ben"})))
        assert [record.on_behalf_of for record in change.records] == ["ben"]


class TestDeadlines:
    def test_reminder_is_sent_once_after_half_of_the_time(self) -> None:
        workflow = started(step("a"))
        assert domain.deadlines.next_due_time(workflow) == later(5)
        change = domain.deadlines.apply(workflow, later(5))
        assert (change.reminded, [one.action for one in change.records]) == ((1,), [ActionType.REMIND])
        assert domain.deadlines.next_due_time(change.workflow) == later(10)
        assert domain.deadlines.apply(change.workflow, later(6)).records == ()

    def test_escalation_adds_an_approver_whose_approval_is_sufficient(self) -> None:
        escalated_step = step("a", "b", mode=Mode.ALL, escalate_to=BOSS)
        workflow = domain.deadlines.apply(started(escalated_step), later(10)).workflow
        assert assignees(workflow) == [["a", "b", "boss"]]
        assert domain.deadlines.next_due_time(workflow) == later(20)
        assert approve(workflow, "boss", later(11)).outcome is ApprovalAction.APPROVE
        assert approve(workflow, "a", later(11)).outcome is None

    def test_escalation_does_not_add_the_requester(self) -> None:
        workflow = started(step("ben", escalate_to=ApproverSlot(user_id="rita", reason="")))
        with pytest.raises(EscalationMissing):
            domain.decisions.escalate(workflow, actor("ben"), NOW)
        change = domain.deadlines.apply(workflow, later(10))
        assert (assignees(change.workflow), change.escalated) == ([["ben"]], ())

    @pytest.mark.parametrize(
        ("on_expiry", "outcome"),
        [(OnExpiry.EXPIRED, ApprovalAction.EXPIRE), (OnExpiry.REJECTED, ApprovalAction.REJECT)],
    )
    def test_undecided_request_ends_as_the_rule_specifies(self, on_expiry: OnExpiry, outcome: ApprovalAction) -> None:
        workflow = started(step("a"), rules=(rule(on_expiry=on_expiry),))
        workflow = domain.deadlines.apply(workflow, later(10)).workflow
        assert domain.deadlines.apply(workflow, later(19.9)).outcome is None
        assert domain.deadlines.apply(workflow, later(20)).outcome is outcome


class TestReplacement:
    """Replacement of a deactivated approver; the requester does not replace them unless the rule allows it."""

    def test_manager_replaces_the_approver_in_active_and_later_steps(self) -> None:
        workflow = started(step("a"), step("b", "a", mode=Mode.ALL))
        change = domain.approvers.replace_departed(workflow, "a", ("new",), NOW)
        assert assignees(change.workflow) == [["new"], ["b", "new"]]
        assert [(one.on_behalf_of, one.target) for one in change.records] == [("a", "new")] * 2

    def test_escalation_approver_replaces_an_approver_without_manager(self) -> None:
        change = domain.approvers.replace_departed(started(step("a", escalate_to=BOSS)), "a", (), NOW)
        assert assignees(change.workflow) == [["boss"]]

    def test_next_manager_replaces_the_approver_if_the_first_is_the_requester(self) -> None:
        change = domain.approvers.replace_departed(started(step("ben")), "ben", ("rita", "max"), NOW)
        assert [(slot.user_id, slot.in_place_of) for slot in change.workflow.steps[0].slots] == [("max", "ben")]
        assert approve(change.workflow, "max").outcome is ApprovalAction.APPROVE

    def test_escalation_approver_replaces_the_approver_if_the_only_manager_is_the_requester(self) -> None:
        change = domain.approvers.replace_departed(started(step("ben", escalate_to=BOSS)), "ben", ("rita",), NOW)
        assert assignees(change.workflow) == [["boss"]]

    def test_request_without_a_possible_approver_is_rejected_with_the_reason(self) -> None:
        change = domain.approvers.replace_departed(started(step("ben")), "ben", ("rita",), NOW)
        assert (change.outcome, change.decided_by) == (ApprovalAction.REJECT, "service:approvals")
        assert change.comment == (
            "APPROVER_MISSING: The step 'ben' of the rule 'rule' has no approver:"
            " ben left and has no active manager who may decide."
        )

    def test_requester_replaces_the_approver_if_the_rule_allows_self_approval(self) -> None:
        workflow = started(step("ben"), rules=(rule(allow_self_approval=True),))
        change = domain.approvers.replace_departed(workflow, "ben", ("rita", "max"), NOW)
        assert assignees(change.workflow) == [["rita"]]

    def test_approver_of_the_same_step_does_not_get_a_second_slot(self) -> None:
        workflow = started(step("ben", "carla", mode=Mode.ALL))
        change = domain.approvers.replace_departed(workflow, "ben", ("carla", "max"), NOW)
        assert assignees(change.workflow) == [["max", "carla"]]

    @pytest.mark.parametrize("first", ["dave left", "erin approved"])
    def test_manager_who_is_an_approver_already_decides_once(self, first: str) -> None:
        """ALL of dave and erin, his only manager: her one approval is enough, before or after he leaves."""
        workflow = started(step("dave", "erin", mode=Mode.ALL))
        if first == "erin approved":
            change = domain.approvers.replace_departed(approve(workflow, "erin").workflow, "dave", ("erin",), NOW)
        else:
            change = domain.approvers.replace_departed(workflow, "dave", ("erin",), NOW)
            assert (assignees(change.workflow), change.outcome) == ([["erin"]], None)
            change = approve(change.workflow, "erin")
        assert change.outcome is ApprovalAction.APPROVE

    def test_quorum_that_is_no_longer_possible_is_escalated(self) -> None:
        workflow = started(step("a", "b", mode=Mode.QUORUM, quorum=2, escalate_to=BOSS))
        workflow = domain.approvers.replace_departed(approve(workflow, "b").workflow, "a", ("b",), NOW).workflow
        assert assignees(workflow) == [["b", "boss"]]
        assert approve(workflow, "boss").outcome is ApprovalAction.APPROVE
        change = domain.approvers.replace_departed(workflow, "boss", (), NOW)
        assert change.outcome is ApprovalAction.REJECT

    def test_escalation_approver_who_left_is_replaced_by_their_manager(self) -> None:
        workflow = started(step("a", escalate_to=ApproverSlot(user_id="fiona", reason="")))
        change = domain.approvers.replace_departed(workflow, "fiona", ("rita", "grace"), NOW)
        assert [(one.on_behalf_of, one.target) for one in change.records] == [("fiona", "grace")]
        workflow = domain.decisions.escalate(change.workflow, actor("a"), NOW).workflow
        assert assignees(workflow) == [["a", "grace"]]
        with pytest.raises(NotAnApprover):
            approve(workflow, "fiona")


USERS: Final = "abcdefg"


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    rules, steps = [], []
    for rule_index in range(draw(st.integers(1, 3))):
        flow = draw(st.sampled_from(Flow))
        rules.append(rule(flow=flow, on_expiry=draw(st.sampled_from(OnExpiry))))
        for _ in range(draw(st.integers(1, 3))):
            approvers = draw(st.lists(st.sampled_from([*USERS, "@finance"]), min_size=1, max_size=4, unique=True))
            mode = draw(st.sampled_from(Mode))
            quorum = draw(st.integers(1, len(approvers))) if mode is Mode.QUORUM else 0
            escalate_to = draw(st.sampled_from([None, BOSS]))
            steps.append(step(*approvers, rule_index=rule_index, mode=mode, quorum=quorum, escalate_to=escalate_to))
    return Workflow(requester="rita", rules=tuple(rules), steps=tuple(steps))


def has_required_approvals(one: Step) -> bool:
    """True if the step has the approvals that its mode requires. Written independently of `domain.decisions`."""
    approved = [slot for slot in one.slots if slot.decision is APPROVED]
    users = {slot.decided_by for slot in approved}
    if any(slot.added and slot not in approved for slot in one.slots):
        return False
    if any(slot.escalation for slot in approved):
        return True
    if one.mode is Mode.ALL:
        return len(approved) == len(one.slots)
    return len(users) >= one.quorum if one.mode is Mode.QUORUM else any(not slot.added for slot in approved)


class TestRandomActions:
    @settings(max_examples=400)
    @given(workflow=workflows(), data=st.data())
    def test_every_workflow_ends_and_is_approved_only_with_its_required_approvals(
        self, workflow: Workflow, data: st.DataObject
    ) -> None:
        change, now = domain.decisions.start(workflow, NOW), NOW
        for _ in range(data.draw(st.integers(0, 25))):
            if change.outcome:
                break
            now += timedelta(hours=data.draw(st.integers(0, 4)))
            change = self.act(change.workflow, now, data)
        for _ in range(200):  # then only time passes
            if change.outcome:
                break
            due_time = domain.deadlines.next_due_time(change.workflow)
            assert due_time is not None, "the workflow is neither decided nor has a deadline"
            change = domain.deadlines.apply(change.workflow, max(now, due_time))
        assert change.outcome
        if change.outcome is ApprovalAction.APPROVE:
            for one in change.workflow.steps:
                assert one.state is StepState.APPROVED
                assert has_required_approvals(one)
        for one in change.workflow.steps:
            deciders = [slot.decided_by for slot in one.slots if slot.decision]
            assert len(set(deciders)) == len(deciders)
            assert "rita" not in deciders

    def act(self, workflow: Workflow, now: datetime, data: st.DataObject) -> WorkflowChange:
        """A random action, or the deadlines if it is not allowed."""
        user = Actor(
            user_id=data.draw(st.sampled_from([*USERS, "boss", "rita", "x"])),
            roles=frozenset(data.draw(st.sets(st.just("finance")))),
            acts_for=frozenset(data.draw(st.sets(st.sampled_from([*USERS, "rita"]), max_size=2))),
        )
        actions = ["approve", "approve", "approve", "deadlines", "delegate", "add", "escalate", "replace"]
        try:
            match data.draw(st.sampled_from(actions)):
                case "approve":
                    return approve(workflow, user, now)
                case "delegate":
                    return domain.decisions.delegate(workflow, user, data.draw(st.sampled_from([*USERS, "y"])))
                case "add":
                    return domain.decisions.add_approver(workflow, user, data.draw(st.sampled_from([*USERS, "y"])))
                case "escalate":
                    return domain.decisions.escalate(workflow, user, now)
                case "replace":
                    managers = data.draw(st.lists(st.sampled_from([*USERS, "rita", "boss"]), max_size=3))
                    return domain.approvers.replace_departed(workflow, data.draw(st.sampled_from(USERS)), managers, now)
        except (NotAnApprover, SelfApproval, AlreadyDecided, TargetRefused, EscalationMissing):
            pass
        return domain.deadlines.apply(workflow, now)
