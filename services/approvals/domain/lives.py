"""The lives of requests, steps and rules: states, and what leads from one to the other. Pure."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import resources
from services.approvals.errors import ApprovalRuleStateForbids, ApprovalStateForbids


class ApprovalType(StrEnum):
    """Approval.Type."""

    PURCHASE = "PURCHASE"
    BUDGET_INCREASE = "BUDGET_INCREASE"
    BUDGET_OVERSPEND = "BUDGET_OVERSPEND"
    CONTRACT = "CONTRACT"
    AMENDMENT = "AMENDMENT"
    INVOICE = "INVOICE"
    DISPUTE_RESOLUTION = "DISPUTE_RESOLUTION"
    OTHER = "OTHER"


class ApprovalState(StrEnum):
    """Approval.State."""

    OPENING = "OPENING"
    PENDING = "PENDING"
    CHANGES_REQUESTED = "CHANGES_REQUESTED"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


ENDED: Final = frozenset(
    {ApprovalState.APPROVED, ApprovalState.REJECTED, ApprovalState.CANCELLED, ApprovalState.EXPIRED}
)
"""The states that a request never leaves."""


class Event(StrEnum):
    """What happens to a request; the value is how it reads in a sentence."""

    OPEN = "opened"
    REFUSE = "refused money"
    DECIDE = "decided on"
    APPROVE = "approved"
    REJECT = "rejected"
    REQUEST_CHANGES = "sent back"
    RESUBMIT = "resubmitted"
    CANCEL = "cancelled"
    EXPIRE = "let expire"


_S, _E = ApprovalState, Event
TRANSITIONS: Final[Mapping[tuple[ApprovalState, Event], ApprovalState]] = {
    (_S.OPENING, _E.OPEN): _S.PENDING,
    (_S.PENDING, _E.DECIDE): _S.PENDING,
    (_S.PENDING, _E.APPROVE): _S.APPROVED,
    (_S.PENDING, _E.REJECT): _S.REJECTED,
    (_S.PENDING, _E.REQUEST_CHANGES): _S.CHANGES_REQUESTED,
    (_S.PENDING, _E.CANCEL): _S.CANCELLED,
    (_S.PENDING, _E.EXPIRE): _S.EXPIRED,
    (_S.CHANGES_REQUESTED, _E.RESUBMIT): _S.OPENING,
    (_S.CHANGES_REQUESTED, _E.CANCEL): _S.CANCELLED,
    (_S.OPENING, _E.REFUSE): _S.CHANGES_REQUESTED,
}
"""The whole life of a request; what is not here is not allowed. The first opening that is refused leaves nothing."""


def advance_approval(id: UUID, state: ApprovalState, event: Event) -> ApprovalState:
    """The state after the event; raises ApprovalStateForbids naming the states in which it can be."""
    return resources.advance(TRANSITIONS, id, state, event, ApprovalStateForbids)


class RuleState(StrEnum):
    """ApprovalRule.State."""

    ACTIVE = "ACTIVE"
    PAUSED = "PAUSED"
    DELETED = "DELETED"


class RuleAction(StrEnum):
    """What is done to a rule; the value is how it reads in a sentence."""

    CHANGE = "changed"
    PAUSE = "paused"
    RESUME = "resumed"
    DELETE = "deleted"


_R, _RA = RuleState, RuleAction
RULE_TRANSITIONS: Final[Mapping[tuple[RuleState, RuleAction], RuleState]] = {
    (_R.ACTIVE, _RA.CHANGE): _R.ACTIVE,
    (_R.ACTIVE, _RA.PAUSE): _R.PAUSED,
    (_R.ACTIVE, _RA.RESUME): _R.ACTIVE,
    (_R.ACTIVE, _RA.DELETE): _R.DELETED,
    (_R.PAUSED, _RA.CHANGE): _R.PAUSED,
    (_R.PAUSED, _RA.PAUSE): _R.PAUSED,
    (_R.PAUSED, _RA.RESUME): _R.ACTIVE,
    (_R.PAUSED, _RA.DELETE): _R.DELETED,
}
"""The whole life of a rule."""


def advance_rule(id: UUID, state: RuleState, action: RuleAction) -> RuleState:
    """The state after the action; raises ApprovalRuleStateForbids naming the states in which it is allowed."""
    return resources.advance(RULE_TRANSITIONS, id, state, action, ApprovalRuleStateForbids)


class Flow(StrEnum):
    """Approval.Flow."""

    SEQUENTIAL = "SEQUENTIAL"
    PARALLEL = "PARALLEL"


class Mode(StrEnum):
    """Approval.Mode."""

    ANY = "ANY"
    ALL = "ALL"
    QUORUM = "QUORUM"


class StepState(StrEnum):
    """ApprovalStep.State."""

    WAITING = "WAITING"
    ACTIVE = "ACTIVE"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    ENDED = "ENDED"


class Decision(StrEnum):
    """ApprovalSeat.Decision."""

    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    CHANGES_REQUESTED = "CHANGES_REQUESTED"


class Funds(StrEnum):
    """Approval.Funds."""

    NONE = "NONE"
    HELD = "HELD"
    COMMITTED = "COMMITTED"
    RELEASED = "RELEASED"
    RAISED = "RAISED"
    FAILED = "FAILED"


class ActionType(StrEnum):
    """ApprovalAction.Type."""

    APPROVE = "APPROVE"
    REJECT = "REJECT"
    REQUEST_CHANGES = "REQUEST_CHANGES"
    COMMENT = "COMMENT"
    DELEGATE = "DELEGATE"
    ESCALATE = "ESCALATE"
    ADD_APPROVER = "ADD_APPROVER"
    REQUEST = "REQUEST"
    RESUBMIT = "RESUBMIT"
    CANCEL = "CANCEL"
    REMIND = "REMIND"
    EXPIRE = "EXPIRE"
    AUTO_APPROVE = "AUTO_APPROVE"
    REPLACE_APPROVER = "REPLACE_APPROVER"


class Mine(StrEnum):
    """ListApprovalsRequest.Mine."""

    TO_DECIDE = "TO_DECIDE"
    REQUESTED = "REQUESTED"


class OnExpiry(StrEnum):
    """What becomes of a request that nobody decides in time."""

    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"
