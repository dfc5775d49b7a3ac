"""Eligibility of users for approver slots: the same for creation, replacement, delegation and escalation. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from services.approvals.domain.rules import Flow, Mode
from services.approvals.domain.workflows import ApproverSlot, PendingSlot, Step, Workflow


class SelfApprovalPolicy(Protocol):
    """The part of a rule that eligibility depends on."""

    @property
    def allow_self_approval(self) -> bool:
        """True if requesters may decide on their own requests."""


def ineligibility(user_id: str, requester: str, rule: SelfApprovalPolicy, slots: Iterable[ApproverSlot] = ()) -> str:
    """Return why the user may not fill another slot beside these slots; empty if they may.

    The requester may not, unless the rule allows self-approval. No user fills two slots of a step or of parallel steps.
    A slot without a user (`user_id` empty) is assigned to a role, which is always eligible.
    """
    if user_id == requester and not rule.allow_self_approval:
        return "must not be the requester"
    if user_id and any(user_id in {slot.user_id, slot.decided_by} for slot in slots):
        return "is already an approver of this step or of a parallel one"
    return ""


def eligible(user_id: str, requester: str, rule: SelfApprovalPolicy, slots: Iterable[ApproverSlot] = ()) -> bool:
    """True if the user may fill another slot beside these slots."""
    return not ineligibility(user_id, requester, rule, slots)


def first_eligible(
    candidates: Iterable[str], requester: str, rule: SelfApprovalPolicy, slots: Iterable[ApproverSlot] = ()
) -> str:
    """Return the first candidate who may fill another slot beside these slots; empty if there is none."""
    filled = tuple(slots)
    return next((user_id for user_id in candidates if eligible(user_id, requester, rule, filled)), "")


def parallel_steps(workflow: Workflow, number: int) -> Sequence[Step]:
    """Return the other steps that run in parallel with a step: those of its rule, if their flow is PARALLEL."""
    step = workflow.step(number)
    if workflow.rule_of(step).flow is not Flow.PARALLEL:
        return ()
    return [
        other for n, other in enumerate(workflow.steps, start=1) if other.rule_index == step.rule_index and n != number
    ]


def slots_beside(workflow: Workflow, number: int) -> Sequence[ApproverSlot]:
    """Return the slots of a step and of those parallel with it: each user fills at most one of them."""
    steps = [workflow.step(number), *parallel_steps(workflow, number)]
    return [slot for step in steps for slot in step.slots]


def pending_slots(workflow: Workflow) -> Sequence[PendingSlot]:
    """Return the slots of active steps without a decision, with the users who can't decide them."""
    return [replace(one, barred=_barred(workflow, one)) for one in workflow.pending_slots()]


def _barred(workflow: Workflow, pending: PendingSlot) -> frozenset[str]:
    """Return the users who can't decide a slot.

    These are users who decided in its step, and users of parallel steps: each user decides in one of these steps,
    unless the slots in both are their own. The requester can't decide either, unless the rule allows self-approval.
    """
    step = workflow.step(pending.step)
    barred = {slot.decided_by for slot in step.slots}
    for other in parallel_steps(workflow, pending.step):
        barred |= {slot.decided_by for slot in other.slots if slot.decided_by != slot.user_id}
        barred |= {slot.user_id for slot in other.slots if slot.user_id != pending.slot.user_id}
    if not workflow.rule_of(step).allow_self_approval:
        barred.add(workflow.requester)
    return frozenset(barred - {""})


def can_be_approved(mode: Mode, quorum: int, slots: Sequence[ApproverSlot]) -> bool:
    """True if these slots are enough to approve a step, together with the decisions that they have already."""
    if any(slot.escalation for slot in slots):
        return True
    if mode is Mode.QUORUM:
        return len(slots) >= quorum
    return any(not slot.added for slot in slots)


def has_decided(workflow: Workflow, number: int, user_id: str) -> bool:
    """True if the user decided in a step, or in one parallel with it on behalf of others or by a role."""
    if not user_id:
        return False
    parallel = (slot for step in parallel_steps(workflow, number) for slot in step.slots)
    return any(slot.decided_by == user_id for slot in workflow.step(number).slots) or any(
        slot.decided_by == user_id != slot.user_id for slot in parallel
    )
