"""The workflow of one round of a request: applied rules, steps, approver slots and their decisions. Pure values.

Workflows are immutable. `domain.decisions` and `domain.deadlines` return a changed copy within a WorkflowChange.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from services.approvals.domain.approvals import SERVICE_ACTOR, ActionType, ApprovalAction
from services.approvals.domain.rules import BusinessHours, Flow, Mode, OnExpiry


class StepState(StrEnum):
    """ApprovalStep.State."""

    WAITING = "WAITING"
    ACTIVE = "ACTIVE"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    ENDED = "ENDED"


UNDECIDED_STATES = frozenset({StepState.WAITING, StepState.ACTIVE})


class Decision(StrEnum):
    """ApprovalSeat.Decision."""

    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    CHANGES_REQUESTED = "CHANGES_REQUESTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproverSlot:
    """One decision of a step, to be made by a user or by anyone with a role."""

    user_id: str = ""
    role: str = ""
    reason: str
    """Why the slot is assigned to this user or role, as a sentence."""
    in_place_of: str = ""
    """User who was assigned before, and delegated the slot or left."""
    added: bool = False
    """Added by ADD_APPROVER: this approval is required, whatever the mode of the step."""
    escalation: bool = False
    """Added by an escalation: this approval is sufficient."""
    decision: Decision | None = None
    decided_by: str = ""
    on_behalf_of: str = ""
    """User for whom a delegate decided."""
    decide_time: datetime | None = None

    @property
    def assignee(self) -> tuple[str, str]:
        """The user and the role; one of them is empty."""
        return self.user_id, self.role


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Approver slots that are decided together."""

    name: str
    rule_index: int
    """Index of the step's rule in `Workflow.rules`."""
    mode: Mode
    quorum: int = 0
    slots: tuple[ApproverSlot, ...]
    sla_hours: int
    escalate_to: ApproverSlot | None = None
    """Slot to be added by an escalation."""
    state: StepState = StepState.WAITING
    start_time: datetime | None = None
    remind_time: datetime | None = None
    due_time: datetime | None = None
    """Time of the escalation; after the escalation, time at which the request expires."""
    reminded: bool = False
    escalated: bool = False

    @property
    def sla(self) -> timedelta:
        """Time until the step is escalated, in business hours if its rule has them."""
        return timedelta(hours=self.sla_hours)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedRule:
    """A rule that applies to a request, as it was when the request was submitted."""

    rule_id: UUID
    rule_version: int
    name: str
    reason: str
    """Why the rule applies, as a sentence."""
    flow: Flow = Flow.SEQUENTIAL
    auto_approve: bool = False
    allow_self_approval: bool = False
    on_expiry: OnExpiry = OnExpiry.EXPIRED
    business_hours: BusinessHours | None = None


@dataclass(frozen=True, slots=True)
class ApprovalRequirement:
    """Whether something needs approval before it is done, and the rules that apply to it."""

    needed: bool
    rules: Sequence[AppliedRule]


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSlot:
    """A slot of an active step without a decision."""

    step: int
    """Number of the step."""
    slot: ApproverSlot
    barred: frozenset[str] = frozenset()
    """Users who can't decide it, whatever their roles and delegations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """The steps of a request, ordered by rule. Steps are numbered from 1."""

    requester: str
    rules: tuple[AppliedRule, ...]
    steps: tuple[Step, ...]

    def step(self, number: int) -> Step:
        """Return the step with this number."""
        return self.steps[number - 1]

    def rule_of(self, step: Step) -> AppliedRule:
        """Return the rule that the step comes from."""
        return self.rules[step.rule_index]

    def active_steps(self, number: int = 0) -> Sequence[int]:
        """Return the numbers of the active steps; with `number`, of that step only, if it is active."""
        active = [n for n, step in enumerate(self.steps, start=1) if step.state is StepState.ACTIVE]
        return [n for n in active if number in {0, n}]

    def pending_slots(self) -> Sequence[PendingSlot]:
        """Return the slots of active steps without a decision."""
        return [
            PendingSlot(step=number, slot=slot)
            for number in self.active_steps()
            for slot in self.step(number).slots
            if slot.decision is None
        ]

    def with_step(self, number: int, step: Step) -> "Workflow":
        """Return a copy with another step under this number."""
        return replace(self, steps=(*self.steps[: number - 1], step, *self.steps[number:]))

    def with_slot(self, number: int, index: int, slot: ApproverSlot) -> "Workflow":
        """Return a copy with another slot at this index of the step."""
        step = self.step(number)
        return self.with_step(number, replace(step, slots=(*step.slots[:index], slot, *step.slots[index + 1 :])))

    def ended(self) -> "Workflow":
        """Return a copy in which no step is waiting or active."""
        steps = (
            replace(step, state=StepState.ENDED) if step.state in UNDECIDED_STATES else step for step in self.steps
        )
        return replace(self, steps=tuple(steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRecord:
    """An entry of the history of a request."""

    action: ActionType
    step: int = 0
    """Number of the step; 0 if the action belongs to none."""
    actor: str = SERVICE_ACTOR
    on_behalf_of: str = ""
    target: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowChange:
    """The result of an action or a deadline: the changed workflow, its history entries and its events."""

    workflow: Workflow
    outcome: ApprovalAction | None = None
    """Action that ends the round; None if the request stays PENDING."""
    decided_by: str = SERVICE_ACTOR
    """With an outcome: the user who decided it."""
    comment: str = ""
    records: tuple[ActionRecord, ...] = ()
    started: tuple[int, ...] = ()
    """Numbers of the steps that became active."""
    reminded: tuple[int, ...] = ()
    """Numbers of the steps whose approvers are reminded."""
    escalated: tuple[tuple[int, ApproverSlot], ...] = ()
    """Numbers of the escalated steps, with the slots that were added."""
