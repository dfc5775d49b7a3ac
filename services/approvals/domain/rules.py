"""Approval rules: states, transitions, and their specification. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time
from decimal import Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import resources
from kit.money import Money
from services.approvals.domain.approvals import ApprovalType
from services.approvals.errors.rules import ApprovalRuleStateForbids


class RuleState(StrEnum):
    """ApprovalRule.State."""

    ACTIVE = "ACTIVE"
    PAUSED = "PAUSED"
    DELETED = "DELETED"


class RuleAction(StrEnum):
    """Action that changes a rule. The value completes the sentence "it can be …" in errors."""

    CHANGE = "changed"
    PAUSE = "paused"
    RESUME = "resumed"
    DELETE = "deleted"


_S, _A = RuleState, RuleAction
RULE_TRANSITIONS: Final[Mapping[tuple[RuleState, RuleAction], RuleState]] = {
    (_S.ACTIVE, _A.CHANGE): _S.ACTIVE,
    (_S.ACTIVE, _A.PAUSE): _S.PAUSED,
    (_S.ACTIVE, _A.RESUME): _S.ACTIVE,
    (_S.ACTIVE, _A.DELETE): _S.DELETED,
    (_S.PAUSED, _A.CHANGE): _S.PAUSED,
    (_S.PAUSED, _A.PAUSE): _S.PAUSED,
    (_S.PAUSED, _A.RESUME): _S.ACTIVE,
    (_S.PAUSED, _A.DELETE): _S.DELETED,
}
"""The life cycle of a rule."""


def advance(id: UUID, state: RuleState, action: RuleAction) -> RuleState:
    """Return the state after the action. Raises ApprovalRuleStateForbids with the states in which it is allowed."""
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


class OnExpiry(StrEnum):
    """Final state of a request that is not decided before its deadline."""

    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"


class ApproverKind(StrEnum):
    """How a rule determines an approver."""

    USER = "USER"
    ROLE = "ROLE"
    DEPARTMENT_MANAGER = "DEPARTMENT_MANAGER"
    ENTITY_CONTROLLER = "ENTITY_CONTROLLER"
    MANAGER_OF_REQUESTER = "MANAGER_OF_REQUESTER"


@dataclass(frozen=True, slots=True)
class Approver:
    """An approver in a rule: a user, a role, or a position relative to the request."""

    kind: ApproverKind
    name: str = ""
    """Id of the user, or name of the role; empty for the other kinds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessHours:
    """Weekly hours that count for deadlines."""

    time_zone: str
    weekdays: frozenset[int]
    """1 is Monday and 7 is Sunday."""
    start: time
    end: time


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleStep:
    """Approvers who decide together, and how many of them must approve."""

    name: str
    approvers: tuple[Approver, ...]
    mode: Mode = Mode.ANY
    quorum: int = 0
    sla_hours: int
    escalate_to: Approver | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSpec:
    """Specification of a rule: which requests it matches, and how they are approved."""

    name: str
    priority: int = 0
    request_type: ApprovalType | None = None
    """None: every type."""
    amount_above: Decimal | None = None
    """Lower bound, exclusive."""
    amount_up_to: Decimal | None = None
    """Upper bound, inclusive."""
    currency: str = ""
    """Currency of the two bounds; empty if there is none."""
    ladder: str = ""
    entity_ids: frozenset[UUID] = frozenset()
    department_ids: frozenset[UUID] = frozenset()
    categories: frozenset[str] = frozenset()
    condition: str = ""
    steps: tuple[RuleStep, ...] = ()
    flow: Flow = Flow.SEQUENTIAL
    auto_approve: bool = False
    allow_self_approval: bool = False
    on_expiry: OnExpiry = OnExpiry.EXPIRED
    business_hours: BusinessHours | None = None
    is_default: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One version of a rule."""

    id: UUID
    version: int
    """0 for a draft that is not saved."""
    spec: RuleSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFilter:
    """Filter of ListApprovalRules; fields that are empty or None don't filter."""

    state: RuleState | None = None
    """None: all states except DELETED."""
    request_type: ApprovalType | None = None
    ladder: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The properties of a request that rules match."""

    request_type: ApprovalType
    title: str
    requester: str
    entity_path: tuple[UUID, ...]
    """The entity and its ancestors, nearest first."""
    department_path: tuple[UUID, ...] = ()
    """The department and its ancestors, nearest first; empty without a department."""
    category: str = ""
    amount: Money | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
