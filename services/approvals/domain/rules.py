"""What a rule of approval says. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from kit.money import Money
from services.approvals.domain.lives import ApprovalType, Flow, Mode, OnExpiry


class ApproverKind(StrEnum):
    """How a rule names somebody who is asked."""

    USER = "USER"
    ROLE = "ROLE"
    DEPARTMENT_MANAGER = "DEPARTMENT_MANAGER"
    ENTITY_CONTROLLER = "ENTITY_CONTROLLER"
    MANAGER_OF_REQUESTER = "MANAGER_OF_REQUESTER"


@dataclass(frozen=True, slots=True)
class Approver:
    """Somebody who is asked, as a rule names them."""

    kind: ApproverKind
    name: str = ""
    """The user or the role; empty for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessHours:
    """The hours of a week that count."""

    time_zone: str
    weekdays: frozenset[int]
    """1 is Monday and 7 is Sunday."""
    start: time
    end: time


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleStep:
    """Who is asked at the same time, and how many of them must agree."""

    name: str
    approvers: tuple[Approver, ...]
    mode: Mode = Mode.ANY
    quorum: int = 0
    sla_hours: int
    escalate_to: Approver | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTerms:
    """What a rule says."""

    name: str
    priority: int = 0
    request_type: ApprovalType | None = None
    """None: every type."""
    amount_above: Decimal | None = None
    amount_up_to: Decimal | None = None
    currency: str = ""
    """Of the two amounts; empty where there is none."""
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
    """A rule in one of its versions."""

    id: UUID
    version: int
    terms: RuleTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What rules look at in a request."""

    request_type: ApprovalType
    title: str
    requester: str
    entity_path: tuple[UUID, ...]
    """The entity, then those above it, nearest first."""
    department_path: tuple[UUID, ...] = ()
    """The department, then those above it, nearest first; empty where it is about none."""
    category: str = ""
    amount: Money | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
