"""Who may fill an approver slot: the one rule for creation, replacement, delegation and escalation. Pure."""

from collections.abc import Iterable
from typing import Protocol

from services.approvals.domain.seats import Seat


class SelfApprovalPolicy(Protocol):
    """The part of a rule that eligibility depends on."""

    @property
    def allow_self_approval(self) -> bool:
        """True if the requester may decide on their own request."""


def ineligibility(user_id: str, requester: str, rule: SelfApprovalPolicy, seats: Iterable[Seat] = ()) -> str:
    """Return why the user may not fill one more slot of a step with these slots; empty if they may.

    The requester may not, unless the rule allows self-approval. Nobody fills two slots of one step, since nobody
    decides twice in it.
    """
    if user_id == requester and not rule.allow_self_approval:
        return "must not be the requester"
    if any(user_id in {seat.user_id, seat.decided_by} for seat in seats if user_id):
        return "is an approver of this step already"
    return ""


def eligible(user_id: str, requester: str, rule: SelfApprovalPolicy, seats: Iterable[Seat] = ()) -> bool:
    """True if the user may fill one more slot of a step with these slots."""
    return not ineligibility(user_id, requester, rule, seats)


def first_eligible(
    candidates: Iterable[str], requester: str, rule: SelfApprovalPolicy, seats: Iterable[Seat] = ()
) -> str:
    """Return the first of the candidates who may fill one more slot of the step; empty if none may."""
    others = tuple(seats)
    return next((user_id for user_id in candidates if eligible(user_id, requester, rule, others)), "")
