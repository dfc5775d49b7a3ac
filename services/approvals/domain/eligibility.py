"""Eligibility of users for approver slots: the same for creation, replacement, delegation and escalation. Pure."""

from collections.abc import Iterable
from typing import Protocol

from services.approvals.domain.workflows import ApproverSlot


class SelfApprovalPolicy(Protocol):
    """The part of a rule that eligibility depends on."""

    @property
    def allow_self_approval(self) -> bool:
        """True if requesters may decide on their own requests."""


def ineligibility(user_id: str, requester: str, rule: SelfApprovalPolicy, slots: Iterable[ApproverSlot] = ()) -> str:
    """Return why the user may not fill another slot of a step with these slots; empty if they may.

    The requester may not, unless the rule allows self-approval. No user fills two slots of a step, because each user
    decides once per step. Roles are always eligible: `user_id` is empty for them.
    """
    if user_id == requester and not rule.allow_self_approval:
        return "must not be the requester"
    if user_id and any(user_id in {slot.user_id, slot.decided_by} for slot in slots):
        return "is already an approver of this step"
    return ""


def eligible(user_id: str, requester: str, rule: SelfApprovalPolicy, slots: Iterable[ApproverSlot] = ()) -> bool:
    """True if the user may fill another slot of a step with these slots."""
    return not ineligibility(user_id, requester, rule, slots)


def first_eligible(
    candidates: Iterable[str], requester: str, rule: SelfApprovalPolicy, slots: Iterable[ApproverSlot] = ()
) -> str:
    """Return the first candidate who may fill another slot of a step with these slots; empty if there is none."""
    filled = tuple(slots)
    return next((user_id for user_id in candidates if eligible(user_id, requester, rule, filled)), "")
