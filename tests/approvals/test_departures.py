"""Random rules, departures, delegations and hand-overs: no proxy of the requester decides, every request can end."""

import contextlib
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from services.approvals import domain
from services.approvals.domain.approvals import Actor, ApprovalAction, ApprovalType
from services.approvals.domain.approvers import DirectorySnapshot, ResponsibleUsers
from services.approvals.domain.delegations import CHAIN_MAX
from services.approvals.domain.routes import MatchedRule, Route
from services.approvals.domain.rules import Approver, ApproverKind, Facts, Flow, Mode, Rule, RuleSpec, RuleStep
from services.approvals.domain.workflows import Decision, Workflow, WorkflowChange
from services.approvals.errors.approvals import (
    AlreadyDecided,
    ApproverMissing,
    EscalationMissing,
    NotAnApprover,
    SelfApproval,
    TargetRefused,
)

NOW: Final = datetime(2026, 3, 2, 9, tzinfo=UTC)
MANAGER_OF: Final = {"ann": "dot", "ben": "dot", "cid": "eve", "rita": "eve", "dot": "boss", "eve": "boss"}
USERS: Final = (*MANAGER_OF, "boss")
REQUESTER: Final = "rita"
FINANCE: Final = frozenset({"finance"})
REFUSALS: Final = (AlreadyDecided, EscalationMissing, NotAnApprover, SelfApproval, TargetRefused)


@st.composite
def rule_specs(draw: st.DrawFn) -> RuleSpec:
    users = st.sampled_from(USERS).map(lambda user: Approver(ApproverKind.USER, user))
    role = st.just(Approver(ApproverKind.ROLE, "finance"))
    steps = []
    for number in range(draw(st.integers(1, 3))):
        approvers = draw(st.lists(st.one_of(users, role), min_size=1, max_size=3, unique=True))
        mode = draw(st.sampled_from(Mode))
        steps.append(
            RuleStep(
                name=str(number),
                approvers=tuple(approvers),
                mode=mode,
                quorum=draw(st.integers(1, len(approvers))) if mode is Mode.QUORUM else 0,
                sla_hours=24,
                escalate_to=draw(st.one_of(st.none(), users)),
            )
        )
    return RuleSpec(name="rule", steps=tuple(steps), flow=draw(st.sampled_from(Flow)))


@dataclass
class Company:
    """Its users: who left, and who delegated to whom."""

    left: set[str] = field(default_factory=set)
    delegates: dict[str, str] = field(default_factory=dict)

    def managers(self, user: str) -> list[str]:
        """The active managers of a user, nearest first."""
        managers = []
        while user in MANAGER_OF:
            user = MANAGER_OF[user]
            managers.append(user)
        return [manager for manager in managers if manager not in self.left]

    def directory(self) -> DirectorySnapshot:
        return DirectorySnapshot(
            managers={user: self.managers(user) for user in USERS}, inactive=frozenset(self.left - {REQUESTER})
        )

    def actor(self, user: str, *, finance: bool = False) -> Actor:
        delegators: dict[str, list[str]] = {}
        for delegator, delegate in self.delegates.items():
            delegators.setdefault(delegate, []).append(delegator)
        acts_for = domain.delegations.acts_for(user, delegators)
        by_requester = {one: domain.delegations.acts_for(user, delegators, without=one) for one in acts_for}
        roles = FINANCE if finance else frozenset()
        return Actor(user_id=user, roles=roles, acts_for=acts_for, acts_for_by_requester=by_requester)

    def chain(self, delegator: str, delegate: str) -> list[str]:
        """The users from a delegator to a delegate; a user has one delegate at a time."""
        chain = [delegator]
        while chain[-1] != delegate and len(chain) <= CHAIN_MAX:
            chain.append(self.delegates[chain[-1]])
        assert chain[-1] == delegate
        return chain

    def leave(self, user: str, workflow: Workflow) -> WorkflowChange:
        self.left.add(user)
        self.delegates = {one: to for one, to in self.delegates.items() if user not in {one, to}}
        return domain.approvers.replace_departed(workflow, user, self.managers(user), NOW)


@settings(max_examples=400, deadline=None)
@given(spec=rule_specs(), left=st.sets(st.sampled_from(USERS), max_size=2), data=st.data())
def test_no_proxy_of_the_requester_decides_and_every_request_can_end(
    spec: RuleSpec, left: set[str], data: st.DataObject
) -> None:
    company = Company(left=set(left))
    facts = Facts(request_type=ApprovalType.PURCHASE, title="x", requester=REQUESTER, entity_path=(UUID(int=9),))
    route = Route((MatchedRule(Rule(id=UUID(int=1), version=1, spec=spec), "it matches"),))
    try:
        workflow = domain.approvers.create_workflow(route, facts, ResponsibleUsers(), company.directory())
    except ApproverMissing:
        return
    change = domain.decisions.start(workflow, NOW)
    for _ in range(data.draw(st.integers(0, 15))):
        if change.outcome:
            break
        before = change.workflow
        change = act(company, change.workflow, data)
        check_decisions(company, before, change)
        if not change.outcome:
            assert can_be_approved(company, change.workflow)
            check_inbox(company, change.workflow)


def act(company: Company, workflow: Workflow, data: st.DataObject) -> WorkflowChange:
    """A random departure, delegation or action; no change if it is refused."""
    present = sorted(set(USERS) - company.left)
    if not present:
        return WorkflowChange(workflow=workflow)
    user, other = (data.draw(st.sampled_from(present)) for _ in range(2))
    actor = company.actor(user, finance=data.draw(st.booleans()))
    change = WorkflowChange(workflow=workflow)
    with contextlib.suppress(*REFUSALS):
        match data.draw(st.sampled_from(["leave", "delegate", "approve", "hand over", "add", "escalate"])):
            case "leave":
                change = company.leave(user, workflow)
            case "delegate" if user != other:
                company.delegates[user] = other
            case "approve":
                change = domain.decisions.decide(workflow, actor, Decision.APPROVED, NOW)
            case "hand over":
                change = domain.decisions.delegate(workflow, actor, other)
            case "add":
                change = domain.decisions.add_approver(workflow, actor, other)
            case "escalate":
                change = domain.decisions.escalate(workflow, actor, NOW)
    return change


def check_decisions(company: Company, before: Workflow, change: WorkflowChange) -> None:
    """Check each new decision: by whom it was made, and on whose behalf."""
    for step, old in zip(change.workflow.steps, before.steps, strict=True):
        for slot in step.slots:
            if slot.decision is None or slot in old.slots:
                continue
            assert slot.decided_by != REQUESTER
            assert slot.decided_by not in company.left
            assert REQUESTER not in company.chain(slot.on_behalf_of or slot.decided_by, slot.decided_by)
        deciders = [slot.decided_by for slot in step.slots if slot.decision]
        assert len(set(deciders)) == len(deciders)


def check_inbox(company: Company, workflow: Workflow) -> None:
    """Check that the users of pending slots who are not barred are exactly those who can approve now."""
    for user, finance in itertools.product(sorted(set(USERS) - company.left), (False, True)):
        actor = company.actor(user, finance=finance)
        proxies = {user, *actor.acting_for(REQUESTER)}
        listed = any(
            (pending.slot.user_id in proxies or pending.slot.role in actor.roles) and user not in pending.barred
            for pending in domain.eligibility.pending_slots(workflow)
        )
        try:
            domain.decisions.decide(workflow, actor, Decision.APPROVED, NOW)
        except REFUSALS:
            assert not listed, (actor, workflow)
        else:
            assert listed, (actor, workflow)


def can_be_approved(company: Company, workflow: Workflow) -> bool:
    """True if the request is approved once everybody who is assigned approves, and enough people with the role."""
    for number in range(50):
        slots = [pending.slot for pending in workflow.pending_slots()]
        assert slots
        assert not {slot.user_id for slot in slots} & company.left
        named = next((slot.user_id for slot in slots if slot.user_id), "")
        actor = Actor(user_id=named) if named else Actor(user_id=f"finance {number}", roles=FINANCE)
        change = domain.decisions.decide(workflow, actor, Decision.APPROVED, NOW)
        if change.outcome:
            return change.outcome is ApprovalAction.APPROVE
        workflow = change.workflow
    return False
