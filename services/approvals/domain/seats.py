"""Who sits where: the steps of a request, who is asked in them, and what each of them said. Pure.

A panel is what a request's row keeps of that; panels.py has what is done with it.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.approvals.domain.lives import ActionType, Decision, Event, Flow, Mode, OnExpiry, StepState
from services.approvals.domain.rules import BusinessHours


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Somebody who is asked: a user, or anybody with a role."""

    user_id: str = ""
    role: str = ""
    why: str
    in_place_of: str = ""
    """Who was asked before them, and handed it over or left."""
    extra: bool = False
    """Somebody had them asked as well: they must agree, whatever the mode."""
    superior: bool = False
    """They are asked since the step takes too long: that they agree is enough."""
    decision: Decision | None = None
    decided_by: str = ""
    on_behalf_of: str = ""
    decide_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Those who are asked at the same time."""

    name: str
    level: int
    """The place of its rule in the panel's levels."""
    mode: Mode
    quorum: int = 0
    seats: tuple[Seat, ...]
    sla_hours: int
    escalate_to: Seat | None = None
    """Who is asked as well when it takes too long."""
    state: StepState = StepState.WAITING
    start_time: datetime | None = None
    remind_time: datetime | None = None
    due_time: datetime | None = None
    """When it is escalated; once it is, when the request ends."""
    reminded: bool = False
    escalated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A rule that the request took, as it was then."""

    rule_id: UUID
    rule_version: int
    name: str
    reason: str
    """Why this one, in a sentence."""
    flow: Flow = Flow.SEQUENTIAL
    auto_approve: bool = False
    allow_self_approval: bool = False
    on_expiry: OnExpiry = OnExpiry.EXPIRED
    business_hours: BusinessHours | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """The steps of a request in their order, level by level."""

    requester: str
    levels: tuple[Level, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Somebody who does something to a request."""

    user_id: str
    roles: frozenset[str] = frozenset()
    acts_for: frozenset[str] = frozenset()
    """The users for whom they decide, by delegation."""
    admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is kept of something that was done."""

    step: int
    """Its number, from 1 on; 0 where it was done in none."""
    action: ActionType
    actor: str = ""
    """Empty: the clock, or a rule."""
    on_behalf_of: str = ""
    target: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A seat that waits for a decision."""

    step: int
    seat: Seat


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What something that was done makes of a panel."""

    panel: Panel
    outcome: Event | None = None
    """What becomes of the request; None where it goes on."""
    decided_by: str = ""
    comment: str = ""
    records: tuple[Record, ...] = ()
    started: tuple[int, ...] = ()
    """The numbers of the steps whose approvers are asked now."""
    reminded: tuple[int, ...] = ()
    escalated: tuple[tuple[int, Seat], ...] = ()
    """The steps in which somebody is asked as well, since they took too long."""
