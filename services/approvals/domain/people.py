"""Who is asked: what rules say of approvers, as users and roles of this request. Pure.

Whoever asks for the approval is replaced by their manager, and who is not there any more by theirs. A step that has
nobody left asks its escalation approver; where that is nobody either, the request is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.approvals.domain.eligibility import eligible, first_eligible
from services.approvals.domain.lives import Mode
from services.approvals.domain.routes import Chosen, Route
from services.approvals.domain.rules import Approver, ApproverKind, Facts, RuleStep
from services.approvals.domain.seats import Level, Panel, Seat, Step
from services.approvals.errors import ApproverMissing


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Who answers for the place of a request."""

    department_manager: str = ""
    """Of the department, or of the nearest one above that has one; empty where none has."""
    entity_controller: str = ""
    """Of the entity, or of the nearest one above that has one; empty where none has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """What user management knows of those who could be asked."""

    managers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The active managers of each, nearest first."""
    gone: frozenset[str] = frozenset()
    """Who is not there any more, or never was."""


def named(route: Route, facts: Facts, place: Place) -> frozenset[str]:
    """The users of whom user management has to be asked."""
    approvers = [
        approver
        for chosen in route.levels
        for step in chosen.rule.terms.steps
        for approver in (*step.approvers, step.escalate_to)
        if approver
    ]
    users = {_user(approver, facts, place)[0] for approver in approvers} - {""}
    asks_manager = any(approver.kind is ApproverKind.MANAGER_OF_REQUESTER for approver in approvers)
    return frozenset(users | ({facts.requester} if asks_manager or facts.requester in users else set()))


@dataclass(frozen=True, slots=True)
class _Asking:
    """A rule that asks, and what is known of those whom it could mean."""

    chosen: Chosen
    facts: Facts
    place: Place
    people: People

    def may_decide(self, user_id: str) -> bool:
        """Whether a user may sit in a step: whoever asks may not, unless the rule allows it."""
        return eligible(user_id, self.facts.requester, self.chosen.rule.terms)

    def manager_of(self, user_id: str) -> str:
        """The nearest active manager who may decide; empty where there is none."""
        managers = self.people.managers.get(user_id, ())
        return first_eligible(managers, self.facts.requester, self.chosen.rule.terms)


def lay_out(route: Route, facts: Facts, place: Place, people: People) -> Panel:
    """The panel of a request; raises ApproverMissing naming the step that would have nobody to ask, and why."""
    asking = [_Asking(chosen, facts, place, people) for chosen in route.levels]
    steps = [_step(level, one, step) for level, one in enumerate(asking) for step in one.chosen.rule.terms.steps]
    return Panel(requester=facts.requester, levels=tuple(map(_level, route.levels)), steps=tuple(steps))


def _level(chosen: Chosen) -> Level:
    terms = chosen.rule.terms
    return Level(
        rule_id=chosen.rule.id,
        rule_version=chosen.rule.version,
        name=terms.name,
        reason=chosen.reason,
        flow=terms.flow,
        auto_approve=terms.auto_approve,
        allow_self_approval=terms.allow_self_approval,
        on_expiry=terms.on_expiry,
        business_hours=terms.business_hours,
    )


def _step(level: int, asking: _Asking, step: RuleStep) -> Step:
    found = [_seat(approver, asking) for approver in step.approvers]
    seats = list({(seat.user_id, seat.role): seat for seat in found if isinstance(seat, Seat)}.values())
    escalate_to = _escalation(step, asking)
    if escalate_to and not _can_agree(step, seats):
        seats.append(escalate_to)
    if not _can_agree(step, seats):
        missing = [why for why in found if isinstance(why, str)] or ["too few different people are asked"]
        raise ApproverMissing(asking.chosen.rule.terms.name, step.name, missing)
    return Step(
        name=step.name,
        level=level,
        mode=step.mode,
        quorum=step.quorum,
        seats=tuple(seats),
        sla_hours=step.sla_hours,
        escalate_to=escalate_to,
    )


def _can_agree(step: RuleStep, seats: Sequence[Seat]) -> bool:
    """Whether enough different people are asked; anybody with a role can be as many as are needed."""
    if step.mode is not Mode.QUORUM:
        return bool(seats)
    return any(seat.role for seat in seats) or len(seats) >= step.quorum


def _seat(approver: Approver, asking: _Asking) -> Seat | str:
    """The seat of somebody whom a rule names, or why there is nobody."""
    if approver.kind is ApproverKind.ROLE:
        return Seat(role=approver.name, why=f"the rule asks anybody with the role {approver.name}")
    requester = asking.facts.requester
    if approver.kind is ApproverKind.MANAGER_OF_REQUESTER:
        manager = asking.manager_of(requester)
        seat = Seat(user_id=manager, why=f"they manage {requester}, who asks")
        return seat if manager else f"{requester} has no active manager"
    user_id, why = _user(approver, asking.facts, asking.place)
    if not user_id:
        return why
    if asking.may_decide(user_id) and user_id not in asking.people.gone:
        return Seat(user_id=user_id, why=why)
    reason = "is not active" if asking.may_decide(user_id) else "asks"
    manager = asking.manager_of(user_id)
    seat = Seat(user_id=manager, why=f"they manage {user_id}, who {reason}; {why}", in_place_of=user_id)
    return seat if manager else f"{user_id} {reason} and has no active manager"


def _escalation(step: RuleStep, asking: _Asking) -> Seat | None:
    seat = _seat(step.escalate_to, asking) if step.escalate_to else None
    if not isinstance(seat, Seat):
        return None
    why = "the rule asks them where others can't or don't"
    return Seat(user_id=seat.user_id, role=seat.role, why=why, in_place_of=seat.in_place_of)


def _user(approver: Approver, facts: Facts, place: Place) -> tuple[str, str]:
    """The user whom an approver stands for, empty where there is none, and why it is that one, or none."""
    return _USERS.get(approver.kind, _nobody)(approver, facts, place)


def _named_user(approver: Approver, facts: Facts, place: Place) -> tuple[str, str]:  # noqa: ARG001 - as the others
    return approver.name, f"the rule asks {approver.name}"


def _department_manager(approver: Approver, facts: Facts, place: Place) -> tuple[str, str]:  # noqa: ARG001 - likewise
    if not facts.department_path:
        return "", "the request is about no department"
    if not place.department_manager:
        return "", "neither the department nor one above it has a manager"
    return place.department_manager, "they manage the department"


def _entity_controller(approver: Approver, facts: Facts, place: Place) -> tuple[str, str]:  # noqa: ARG001 - likewise
    if not place.entity_controller:
        return "", "neither the entity nor one above it has a controller"
    return place.entity_controller, "they are the controller of the entity"


def _nobody(approver: Approver, facts: Facts, place: Place) -> tuple[str, str]:  # noqa: ARG001 - likewise
    return "", ""


_USERS: Final[Mapping[ApproverKind, Callable[[Approver, Facts, Place], tuple[str, str]]]] = {
    ApproverKind.USER: _named_user,
    ApproverKind.DEPARTMENT_MANAGER: _department_manager,
    ApproverKind.ENTITY_CONTROLLER: _entity_controller,
}
