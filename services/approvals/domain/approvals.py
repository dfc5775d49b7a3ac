"""Approval requests: states, transitions, and the inputs and results of their use cases. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import resources
from kit.money import Money
from services.approvals.errors.approvals import ApprovalStateForbids

OPENING_TIMER: Final = "approval-opening"
"""Kind of the timers of OPENING requests: an interrupted opening is completed or rolled back."""
DEADLINE_TIMER: Final = "approval-clock"
"""Kind of the timers of PENDING requests: the next reminder, escalation or expiry."""
SERVICE_ACTOR: Final = "service:approvals"
"""Actor of changes that a deadline or a rule causes."""


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


BUDGET_TYPES: Final = frozenset({ApprovalType.BUDGET_INCREASE, ApprovalType.BUDGET_OVERSPEND})
"""Types that change a budget when they are approved, and hold nothing on it before."""
EXTERNAL_TYPES: Final = frozenset({ApprovalType.CONTRACT, ApprovalType.AMENDMENT})
"""Types that another service submits, and resubmits."""


class ApprovalState(StrEnum):
    """Approval.State."""

    OPENING = "OPENING"
    PENDING = "PENDING"
    CHANGES_REQUESTED = "CHANGES_REQUESTED"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


FINAL_STATES: Final = frozenset(
    {ApprovalState.APPROVED, ApprovalState.REJECTED, ApprovalState.CANCELLED, ApprovalState.EXPIRED}
)
CANCELLABLE_STATES: Final = frozenset({ApprovalState.PENDING, ApprovalState.CHANGES_REQUESTED})


class ApprovalAction(StrEnum):
    """Action that changes the state of a request. The value completes the sentence "it can be …" in errors."""

    OPEN = "opened"
    REJECT_HOLD = "denied a hold by its budget"
    DECIDE = "decided on"
    APPROVE = "approved"
    REJECT = "rejected"
    REQUEST_CHANGES = "returned for changes"
    RESUBMIT = "resubmitted"
    CANCEL = "cancelled"
    EXPIRE = "expired"


_S, _A = ApprovalState, ApprovalAction
APPROVAL_TRANSITIONS: Final[Mapping[tuple[ApprovalState, ApprovalAction], ApprovalState]] = {
    (_S.OPENING, _A.OPEN): _S.PENDING,
    (_S.OPENING, _A.REJECT_HOLD): _S.CHANGES_REQUESTED,
    (_S.PENDING, _A.DECIDE): _S.PENDING,
    (_S.PENDING, _A.APPROVE): _S.APPROVED,
    (_S.PENDING, _A.REJECT): _S.REJECTED,
    (_S.PENDING, _A.REQUEST_CHANGES): _S.CHANGES_REQUESTED,
    (_S.PENDING, _A.CANCEL): _S.CANCELLED,
    (_S.PENDING, _A.EXPIRE): _S.EXPIRED,
    (_S.CHANGES_REQUESTED, _A.RESUBMIT): _S.OPENING,
    (_S.CHANGES_REQUESTED, _A.CANCEL): _S.CANCELLED,
}
"""The life cycle of a request. A rejected hold in the first round deletes the request instead."""


def advance(id: UUID, state: ApprovalState, action: ApprovalAction) -> ApprovalState:
    """Return the state after the action. Raises ApprovalStateForbids with the states in which it is allowed."""
    return resources.advance(APPROVAL_TRANSITIONS, id, state, action, ApprovalStateForbids)


class ReservationState(StrEnum):
    """Approval.Funds."""

    NONE = "NONE"
    HELD = "HELD"
    COMMITTED = "COMMITTED"
    RELEASED = "RELEASED"
    RAISED = "RAISED"
    FAILED = "FAILED"


_SETTLEMENT_ORDER: Final = (ReservationState.FAILED, ReservationState.RELEASED)
_SETTLEMENT_ORDER_APPROVED: Final = (ReservationState.RELEASED, ReservationState.FAILED)
_FINAL_SETTLEMENTS: Final = (ReservationState.COMMITTED, ReservationState.RAISED)


def settles(state: ApprovalState, current: ReservationState, settlement: ReservationState) -> bool:
    """True if a settlement replaces the current reservation state of its round.

    The result is the same in any order of arrival. A hold that could not be released can be released later, and an
    approval that could not be applied can be applied later. The hold of an approved request is released before the
    request is reported as FAILED.
    """
    order = _SETTLEMENT_ORDER_APPROVED if state is ApprovalState.APPROVED else _SETTLEMENT_ORDER
    ranks = {each: rank for rank, each in enumerate([*order, *_FINAL_SETTLEMENTS])}
    return ranks.get(settlement, -1) >= ranks.get(current, -1)


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
    ROLL_OVER = "ROLL_OVER"


class Involvement(StrEnum):
    """ListApprovalsRequest.Mine."""

    TO_DECIDE = "TO_DECIDE"
    REQUESTED = "REQUESTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """A user who reads requests or acts on them."""

    user_id: str
    roles: frozenset[str] = frozenset()
    acts_for: frozenset[str] = frozenset()
    """Users on whose behalf they decide, by delegation."""
    acts_for_by_requester: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """For each of these users: those of `acts_for` to whom a chain leads that does not pass through that user."""
    admin: bool = False
    """True if they may act for other users; for a caller with a scope, on requests within it."""
    tenant_admin: bool = False
    """True if they may act for all users of the tenant: administrators without a scope."""
    may_decide: bool = True
    """False if no role of theirs permits decisions."""
    left: bool | None = None
    """True if they were deactivated in user management; None if that has not been checked."""

    def acting_for(self, requester: str) -> frozenset[str]:
        """Return the users on whose behalf they decide about a request: no chain passes through its requester."""
        return self.acts_for_by_requester.get(requester, self.acts_for)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalDraft:
    """Input of a new request, or of a new round of one."""

    request_type: ApprovalType
    title: str
    description: str = ""
    requester: str
    entity_id: UUID | None = None
    """None: the entity of the budget."""
    department_id: UUID | None = None
    budget_id: UUID | None = None
    category: str = ""
    amount: Money | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    subject_type: str = ""
    subject_id: str = ""
    submission: int = 0
    """Number of this submission among those of its subject; 0 unless another service submits it."""
    overspend: bool = False
    """Request approval of the overspend if the budget requires that."""
    key: str = ""
    """Idempotency key of the call; used to find an interrupted opening."""
    digest: bytes = b""
    """Fingerprint of the call, to detect a key that is reused with other input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRequest:
    """Input of ActOnApproval."""

    action: ActionType
    comment: str = ""
    target: str = ""
    step: int = 0
    """Number of the step; 0: all active steps in which the actor is an approver."""
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalFilter:
    """Filter of ListApprovals; fields that are empty or None don't filter."""

    state: ApprovalState | None = None
    request_type: ApprovalType | None = None
    requester: str = ""
    involvement: Involvement | None = None
    entity_id: UUID | None = None
    department_id: UUID | None = None
    budget_id: UUID | None = None
    amount_from: Money | None = None
    amount_to: Money | None = None
    due_before: datetime | None = None
    subject_type: str = ""
    subject_id: str = ""


@dataclass(frozen=True, slots=True)
class ApprovalSummary:
    """Count, sum and cycle times of the requests of one type, state and currency."""

    request_type: ApprovalType
    state: ApprovalState
    amount: Money | None
    count: int
    oldest_time: datetime
    cycle_mean_s: float | None
    """None for states that are not final; so is the median."""
    cycle_median_s: float | None


def needs_hold(request_type: ApprovalType, budget_id: UUID | None) -> bool:
    """True if the amount of a request is held on its budget while it is undecided."""
    return budget_id is not None and request_type not in BUDGET_TYPES
