"""Resolving the approvers of a rule to users, without a database."""

from typing import Final
from uuid import UUID

import pytest

from services.approvals.domain import people
from services.approvals.domain.lives import ApprovalType, Mode
from services.approvals.domain.people import People, Place
from services.approvals.domain.routes import Chosen, Route
from services.approvals.domain.rules import Approver, ApproverKind, Facts, Rule, RuleStep, RuleTerms
from services.approvals.errors import ApproverMissing

FACTS: Final = Facts(request_type=ApprovalType.PURCHASE, title="x", requester="rita", entity_path=(UUID(int=9),))


def approvers_of(step: RuleStep, **directory: object) -> list[str]:
    """The users and roles that a rule with this one step asks."""
    rule = Rule(id=UUID(int=1), version=1, terms=RuleTerms(name="rule", steps=(step,)))
    panel = people.lay_out(Route((Chosen(rule, "it matches"),)), FACTS, Place(), People(**directory))  # type: ignore[arg-type]
    return [seat.user_id or seat.role for seat in panel.steps[0].seats]


def users(*user_ids: str) -> tuple[Approver, ...]:
    return tuple(Approver(ApproverKind.USER, user_id) for user_id in user_ids)


class TestQuorum:
    """Ben has left and max manages him, so that a quorum of ben and max is one person."""

    DIRECTORY: Final = {"managers": {"ben": ("max",)}, "gone": frozenset({"ben"})}

    def test_quorum_of_fewer_different_people_is_rejected(self) -> None:
        step = RuleStep(name="two", approvers=users("ben", "max"), mode=Mode.QUORUM, quorum=2, sla_hours=1)
        assert approvers_of(step) == ["ben", "max"]
        with pytest.raises(ApproverMissing):
            approvers_of(step, **self.DIRECTORY)

    def test_escalation_approver_completes_a_quorum(self) -> None:
        (boss,) = users("boss")
        step = RuleStep(
            name="two", approvers=users("ben", "max"), mode=Mode.QUORUM, quorum=2, sla_hours=1, escalate_to=boss
        )
        assert approvers_of(step, **self.DIRECTORY) == ["max", "boss"]

    def test_role_completes_a_quorum(self) -> None:
        finance = Approver(ApproverKind.ROLE, "finance")
        step = RuleStep(name="two", approvers=(*users("ben"), finance), mode=Mode.QUORUM, quorum=2, sla_hours=1)
        assert approvers_of(step, **self.DIRECTORY) == ["max", "finance"]
