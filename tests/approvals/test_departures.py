"""Random rules, departures, delegations, hand-overs and deadlines over several requests.

No delegate of a requester or user who left decides, every request can end, and a user's list has exactly the requests
that they can decide.
"""

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
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
from services.approvals.domain.rules import (
    Approver,
    ApproverKind,
    Facts,
    Flow,
    Mode,
    OnExpiry,
    Rule,
    RuleSpec,
    RuleStep,
)
from services.approvals.domain.workflows import Decision, PendingSlot, Workflow, WorkflowChange
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
RESPONSIBLE: Final = ResponsibleUsers(department_manager="dot", entity_controller="eve")
FINANCE: Final = frozenset({"finance"})
REFUSALS: Final = (AlreadyDecided, EscalationMissing, NotAnApprover, SelfApproval, TargetRefused)


@st.composite
def rule_specs(draw: st.DrawFn) -> RuleSpec:
    users = st.sampled_from(USERS).map(lambda user: Approver(ApproverKind.USER, user))
    relative = ApproverKind.DEPARTMENT_MANAGER, ApproverKind.ENTITY_CONTROLLER, ApproverKind.MANAGER_OF_REQUESTER
    others = st.sampled_from([Approver(ApproverKind.ROLE, "finance"), *(Approver(kind, "") for kind in relative)])
    steps = []
    for number in range(draw(st.integers(1, 3))):
        approvers = draw(st.lists(st.one_of(users, others), min_size=1, max_size=3, unique=True))
        mode = draw(st.sampled_from(Mode))
        steps.append(
            RuleStep(
                name=str(number),
                approvers=tuple(approvers),
                mode=mode,
                quorum=draw(st.integers(1, len(approvers))) if mode is Mode.QUORUM else 0,
                sla_hours=24,
                escalate_to=draw(st.one_of(st.none(), users, others)),
            )
        )
    return RuleSpec(
        name="rule",
        steps=tuple(steps),
        flow=draw(st.sampled_from(Flow)),
        allow_self_approval=draw(st.booleans()),
        on_expiry=draw(st.sampled_from(OnExpiry)),
    )


@dataclass
class Company:
    """Users with a hierarchy of managers: which of them left, and their delegations."""

    left: set[str] = field(default_factory=set)
    delegates: dict[str, str] = field(default_factory=dict)

    def managers(self, user: str) -> list[str]:
        """The active managers of a user, nearest first."""
        managers = []
        while user in MANAGER_OF:
            user = MANAGER_OF[user]
            managers.append(user)
        return [manager for manager in managers if manager not in self.left]

    def directory(self, requester: str) -> DirectorySnapshot:
        return DirectorySnapshot(
            managers={user: self.managers(user) for user in USERS}, inactive=frozenset(self.left - {requester})
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

    def leave(self, user: str) -> None:
        self.left.add(user)
        self.delegates = {one: to for one, to in self.delegates.items() if user not in {one, to}}

    def submit(self, requester: str, specs: Sequence[RuleSpec]) -> WorkflowChange | None:
        """Start a request with a ladder of rules; None if a step has no approver."""
        facts = Facts(
            request_type=ApprovalType.PURCHASE,
            title="x",
            requester=requester,
            entity_path=(UUID(int=9),),
            department_path=(UUID(int=8),),
        )
        levels = (MatchedRule(Rule(id=UUID(int=n), version=1, spec=spec), "it matches") for n, spec in enumerate(specs))
        directory = self.directory(requester)
        try:
            workflow = domain.approvers.create_workflow(Route(tuple(levels)), facts, RESPONSIBLE, directory)
        except ApproverMissing:
            return None
        return domain.decisions.start(workflow, NOW)


@settings(max_examples=300, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.sampled_from(USERS), st.lists(rule_specs(), min_size=1, max_size=2)), min_size=1, max_size=3
    ),
    left=st.sets(st.sampled_from(USERS), max_size=2),
    delegates=st.dictionaries(st.sampled_from(USERS), st.sampled_from(USERS)),
    data=st.data(),
)
def test_no_delegate_of_a_requester_decides_and_every_request_can_end(
    requests: list[tuple[str, list[RuleSpec]]], left: set[str], delegates: dict[str, str], data: st.DataObject
) -> None:
    company = Company(left=set(left))
    company.delegates = {one: to for one, to in delegates.items() if one != to and not {one, to} & left}
    submitted = [company.submit(requester, specs) for requester, specs in requests if requester not in left]
    workflows = [change.workflow for change in submitted if change]
    for _ in range(data.draw(st.integers(0, 15))):
        before = workflows
        changes = act(company, workflows, data)
        for workflow, change in zip(before, changes, strict=True):
            check_decisions(company, workflow, change)
        workflows = [change.workflow for change in changes if not change.outcome]
        for workflow in workflows:
            assert can_be_approved(company, workflow)
            check_inbox(company, workflow)


def act(company: Company, workflows: Sequence[Workflow], data: st.DataObject) -> list[WorkflowChange]:
    """A random departure, delegation or action; no change if it is refused.

    A departure concerns all requests, an action and a deadline one of them.
    """
    unchanged = [WorkflowChange(workflow=workflow) for workflow in workflows]
    present = sorted(set(USERS) - company.left)
    if not present or not workflows:
        return unchanged
    user, other = (data.draw(st.sampled_from(present)) for _ in range(2))
    kind = data.draw(st.sampled_from(["leave", "delegate", "deadline", *ACTIONS]))
    if kind == "leave":
        company.leave(user)
        managers = company.managers(user)
        return [domain.approvers.replace_departed(workflow, user, managers, NOW) for workflow in workflows]
    if kind == "delegate" and user != other:
        company.delegates[user] = other
    chosen = data.draw(st.integers(0, len(workflows) - 1))
    workflow = workflows[chosen]
    if kind == "deadline":
        unchanged[chosen] = domain.deadlines.apply(workflow, domain.deadlines.next_due_time(workflow) or NOW)
    if kind in ACTIONS:
        actor = company.actor(user, finance=data.draw(st.booleans()))
        with contextlib.suppress(*REFUSALS):
            unchanged[chosen] = ACTIONS[kind](workflow, actor, other)
    return unchanged


ACTIONS: Final[Mapping[str, Callable[[Workflow, Actor, str], WorkflowChange]]] = {
    "approve": lambda workflow, actor, _: domain.decisions.decide(workflow, actor, Decision.APPROVED, NOW),
    "reject": lambda workflow, actor, _: domain.decisions.decide(workflow, actor, Decision.REJECTED, NOW),
    "hand over": domain.decisions.delegate,
    "add": domain.decisions.add_approver,
    "escalate": lambda workflow, actor, _: domain.decisions.escalate(workflow, actor, NOW),
}


def check_decisions(company: Company, before: Workflow, change: WorkflowChange) -> None:
    """Check the user of each new decision, and the approver they acted for."""
    requester = before.requester
    for step, old in zip(change.workflow.steps, before.steps, strict=True):
        allowed = change.workflow.rule_of(step).allow_self_approval
        for slot in step.slots:
            if slot.decision is None or slot in old.slots:
                continue
            assert slot.decided_by not in company.left
            chain = company.chain(slot.on_behalf_of or slot.decided_by, slot.decided_by)
            assert allowed or requester not in chain
        deciders = [slot.decided_by for slot in step.slots if slot.decision]
        assert len(set(deciders)) == len(deciders)


def check_inbox(company: Company, workflow: Workflow) -> None:
    """Check that the users of pending slots who are not barred are exactly those who can approve now."""
    for user, finance in itertools.product(sorted(set(USERS) - company.left), (False, True)):
        actor = company.actor(user, finance=finance)
        listed = any(_is_listed(workflow, pending, actor) for pending in domain.eligibility.pending_slots(workflow))
        try:
            domain.decisions.decide(workflow, actor, Decision.APPROVED, NOW)
        except REFUSALS:
            assert not listed, (actor, workflow)
        else:
            assert listed, (actor, workflow)


def _is_listed(workflow: Workflow, pending: PendingSlot, actor: Actor) -> bool:
    """True if the list has the slot: it is assigned to the actor, a role of theirs or a delegator, and not barred."""
    excluded = actor.acts_for - actor.acting_for(workflow.requester)
    by_delegation = pending.slot.user_id in actor.acts_for and not (
        pending.slot.user_id in excluded and workflow.requester in pending.barred
    )
    own = pending.slot.user_id == actor.user_id or pending.slot.role in actor.roles
    return (own or by_delegation) and actor.user_id not in pending.barred


def can_be_approved(company: Company, workflow: Workflow) -> bool:
    """True if the request is approved after the assigned approvers, and enough users with the role, approved it."""
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
