"""Assignment of the approvers of a rule, without a database."""

from typing import Final
from uuid import UUID

import pytest

from services.approvals import domain
from services.approvals.domain.approvals import ApprovalType
from services.approvals.domain.approvers import DirectorySnapshot, ResponsibleUsers
from services.approvals.domain.routes import MatchedRule, Route
from services.approvals.domain.rules import Approver, ApproverKind, Facts, Mode, Rule, RuleSpec, RuleStep
from services.approvals.errors.approvals import ApproverMissing

FACTS: Final = Facts(request_type=ApprovalType.PURCHASE, title="x", requester="rita", entity_path=(UUID(int=9),))
ALL_ACTIVE: Final = DirectorySnapshot()
BEN_INACTIVE: Final = DirectorySnapshot(managers={"ben": ("max",)}, inactive=frozenset({"ben"}))


def assignees(step: RuleStep, directory: DirectorySnapshot) -> list[str]:
    """The users and roles that the only step of a rule is assigned to."""
    rule = Rule(id=UUID(int=1), version=1, spec=RuleSpec(name="rule", steps=(step,)))
    route = Route((MatchedRule(rule, "it matches"),))
    workflow = domain.approvers.create_workflow(route, FACTS, ResponsibleUsers(), directory)
    return [slot.user_id or slot.role for slot in workflow.steps[0].slots]


def user(user_id: str) -> Approver:
    return Approver(ApproverKind.USER, user_id)


def quorum_of_two(*approvers: Approver, escalate_to: Approver | None = None) -> RuleStep:
    return RuleStep(name="two", approvers=approvers, mode=Mode.QUORUM, quorum=2, sla_hours=1, escalate_to=escalate_to)


class TestQuorum:
    """max is the manager of ben. If ben is inactive, max replaces him and still fills only one slot."""

    def test_quorum_needs_as_many_different_people(self) -> None:
        step = quorum_of_two(user("ben"), user("max"))
        assert assignees(step, ALL_ACTIVE) == ["ben", "max"]
        with pytest.raises(ApproverMissing):
            assignees(step, BEN_INACTIVE)

    def test_escalation_approver_completes_a_quorum(self) -> None:
        step = quorum_of_two(user("ben"), user("max"), escalate_to=user("boss"))
        assert assignees(step, BEN_INACTIVE) == ["max", "boss"]

    def test_role_completes_a_quorum(self) -> None:
        step = quorum_of_two(user("ben"), Approver(ApproverKind.ROLE, "finance"))
        assert assignees(step, BEN_INACTIVE) == ["max", "finance"]
