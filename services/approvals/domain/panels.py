"""Deciding: what is done with the panel of a request. Pure.

Every function gives a new panel, and what is to be recorded and said.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from services.approvals.domain.eligibility import eligible, first_eligible, ineligibility
from services.approvals.domain.hours import after
from services.approvals.domain.lives import ActionType, Decision, Event, Flow, Mode, OnExpiry, StepState
from services.approvals.domain.seats import Actor, Asked, Change, Level, Panel, Record, Seat, Step
from services.approvals.errors import AlreadyDecided, EscalationMissing, NotAnApprover, SelfApproval, TargetRefused

_Refusal = NotAnApprover | SelfApproval | AlreadyDecided


def begin(panel: Panel, now: datetime) -> Change:
    """Ask the first; a panel of which nobody is asked approves."""
    return _on(panel, now, 0)


def decide(
    panel: Panel, actor: Actor, decision: Decision, now: datetime, *, comment: str = "", step: int = 0
) -> Change:
    """Take a decision in every step under way in which the actor is asked, or in the one of that number.

    Raises NotAnApprover, SelfApproval or AlreadyDecided.
    """
    records: list[Record] = []
    refusals: list[_Refusal] = []
    for number in _under_way(panel, step):
        try:
            place = _place(panel, panel.steps[number - 1], actor)
        except (NotAnApprover, SelfApproval, AlreadyDecided) as refusal:
            refusals.append(refusal)
            continue
        seat = panel.steps[number - 1].seats[place]
        behalf = "" if seat.user_id in {"", actor.user_id} else seat.user_id
        taken = replace(seat, decision=decision, decided_by=actor.user_id, on_behalf_of=behalf, decide_time=now)
        panel = _with_seat(panel, number, place, taken)
        action = _ACTIONS[decision]
        records.append(Record(step=number, action=action, actor=actor.user_id, on_behalf_of=behalf, comment=comment))
        if decision is not Decision.APPROVED:
            break
    if not records:
        raise _clearest(refusals) if refusals else NotAnApprover(_names(panel))
    return _judged(panel, decision, records, now)


_ACTIONS: Final = {
    Decision.APPROVED: ActionType.APPROVE,
    Decision.REJECTED: ActionType.REJECT,
    Decision.CHANGES_REQUESTED: ActionType.REQUEST_CHANGES,
}
_ENDS: Final = {Decision.REJECTED: Event.REJECT, Decision.CHANGES_REQUESTED: Event.REQUEST_CHANGES}


def _judged(panel: Panel, decision: Decision, records: Sequence[Record], now: datetime) -> Change:
    actor, comment = records[-1].actor, records[-1].comment
    if decision in _ENDS:
        state = StepState.REJECTED if decision is Decision.REJECTED else StepState.ENDED
        last = records[-1].step
        panel = _with_step(panel, last, replace(panel.steps[last - 1], state=state))
        return Change(panel=panel, outcome=_ENDS[decision], decided_by=actor, comment=comment, records=tuple(records))
    for record in records:
        current = panel.steps[record.step - 1]
        if _agreed(current):
            panel = _with_step(panel, record.step, replace(current, state=StepState.APPROVED))
    gone_on = _on(panel, now, records[-1].step)
    return replace(
        gone_on,
        decided_by=actor if gone_on.outcome else "",
        comment=comment if gone_on.outcome else "",
        records=(*records, *gone_on.records),
    )


def _under_way(panel: Panel, step: int) -> Sequence[int]:
    """The numbers of the steps under way, or of the one that is asked for if it is."""
    active = [number for number, one in enumerate(panel.steps, start=1) if one.state is StepState.ACTIVE]
    return [number for number in active if step in {0, number}]


def _place(panel: Panel, step: Step, actor: Actor) -> int:
    """The seat from which the actor decides in a step: their own, then one of their role, then one as a delegate.

    Raises AlreadyDecided, SelfApproval or NotAnApprover.
    """
    if any(seat.decided_by == actor.user_id for seat in step.seats):
        raise AlreadyDecided(step.name)
    fits = [
        place
        for rank in (_is_own, _is_of_role, _is_delegated)
        for place, seat in enumerate(step.seats)
        if seat.decision is None and rank(seat, actor)
    ]
    if not fits:
        raise NotAnApprover(_names(panel))
    rule = panel.levels[step.level]
    # A delegate of the requester does not decide on the requester's behalf, either.
    allowed = [place for place in fits if eligible(step.seats[place].user_id, panel.requester, rule)]
    if not allowed or not eligible(actor.user_id, panel.requester, rule):
        raise SelfApproval
    return allowed[0]


def _is_own(seat: Seat, actor: Actor) -> bool:
    return bool(seat.user_id) and seat.user_id == actor.user_id


def _is_of_role(seat: Seat, actor: Actor) -> bool:
    return seat.role in actor.roles


def _is_delegated(seat: Seat, actor: Actor) -> bool:
    return seat.user_id in actor.acts_for


def _clearest(refusals: Sequence[_Refusal]) -> _Refusal:
    """Of several refusals the one that says most."""
    return min(refusals, key=lambda refusal: isinstance(refusal, NotAnApprover))


def _agreed(step: Step) -> bool:
    """Whether as many agreed as are needed."""
    if any(seat.extra and seat.decision is None for seat in step.seats):
        return False
    if any(seat.superior and seat.decision is Decision.APPROVED for seat in step.seats):
        return True
    if step.mode is Mode.ALL:
        return all(seat.decision is Decision.APPROVED for seat in step.seats)
    agreed = {seat.decided_by for seat in step.seats if seat.decision is Decision.APPROVED}
    if step.mode is Mode.QUORUM:
        return len(agreed) >= step.quorum
    # One of those whom the rule asks; who was asked by one of them in addition does not stand for them.
    return any(seat.decision is Decision.APPROVED and not seat.extra for seat in step.seats)


def _on(panel: Panel, now: datetime, last: int) -> Change:
    """Ask those whose turn it is; the request is approved where there is nobody left."""
    started: list[int] = []
    records: list[Record] = []
    for level, terms in enumerate(panel.levels):
        numbers = [number for number, step in enumerate(panel.steps, start=1) if step.level == level]
        if not numbers and terms.auto_approve and not last:
            records.append(Record(step=0, action=ActionType.AUTO_APPROVE, comment=terms.reason))
        left = [number for number in numbers if panel.steps[number - 1].state is not StepState.APPROVED]
        if not left:
            continue
        wanted = left if terms.flow is Flow.PARALLEL else left[:1]
        for number in wanted:
            if panel.steps[number - 1].state is StepState.WAITING:
                panel = _with_step(panel, number, _started(panel.steps[number - 1], terms, now))
                started.append(number)
        return Change(panel=panel, records=tuple(records), started=tuple(started))
    return Change(panel=panel, outcome=Event.APPROVE, records=tuple(records))


def _started(step: Step, level: Level, now: datetime) -> Step:
    hours = level.business_hours
    return replace(
        step,
        state=StepState.ACTIVE,
        start_time=now,
        remind_time=after(now, step.sla_hours / 2, hours),
        due_time=after(now, step.sla_hours, hours),
    )


def hand_over(panel: Panel, actor: Actor, target: str, *, comment: str = "", step: int = 0) -> Change:
    """Let somebody else sit where the actor sits, for this request.

    Raises NotAnApprover, SelfApproval, AlreadyDecided, or TargetRefused.
    """
    number, place = _seat_of(panel, actor, step)
    current = panel.steps[number - 1]
    _check_target(panel, current, target)
    seat = current.seats[place]
    why = f"{actor.user_id} handed it over"
    taken = replace(seat, user_id=target, role="", why=why, in_place_of=seat.user_id or actor.user_id)
    record = Record(step=number, action=ActionType.DELEGATE, actor=actor.user_id, target=target, comment=comment)
    return Change(panel=_with_seat(panel, number, place, taken), records=(record,))


def join(panel: Panel, actor: Actor, target: str, *, comment: str = "", step: int = 0) -> Change:
    """Have somebody else asked as well, who then must agree; whoever sits in the step may, or an administrator.

    Raises as `hand_over`.
    """
    number = _step_of(panel, actor, step)
    current = panel.steps[number - 1]
    _check_target(panel, current, target)
    seat = Seat(user_id=target, why=f"{actor.user_id} had them asked as well", extra=True)
    record = Record(step=number, action=ActionType.ADD_APPROVER, actor=actor.user_id, target=target, comment=comment)
    return Change(panel=_with_step(panel, number, replace(current, seats=(*current.seats, seat))), records=(record,))


def escalate(panel: Panel, actor: Actor, now: datetime, *, comment: str = "", step: int = 0) -> Change:
    """Ask whom the step asks when it takes too long, at once; whoever sits in the step may, or an administrator.

    Raises NotAnApprover, or EscalationMissing.
    """
    number = _step_of(panel, actor, step)
    current = panel.steps[number - 1]
    if current.escalated:
        raise EscalationMissing(current.name, "it was escalated before")
    if current.escalate_to is None:
        raise EscalationMissing(current.name, "its rule names nobody")
    if _escalation(panel, current) is None:
        raise EscalationMissing(current.name, "its escalation approver is the requester")
    record = Record(step=number, action=ActionType.ESCALATE, actor=actor.user_id, comment=comment)
    panel, seat = _escalated(panel, number, now)
    target = seat.user_id or seat.role if seat else ""
    return Change(panel=panel, records=(replace(record, target=target),), escalated=((number, seat),) if seat else ())


def _escalated(panel: Panel, number: int, now: datetime) -> tuple[Panel, Seat | None]:
    """The step with its escalation approver asked as well, who is enough, and as much time again; the new seat."""
    step = panel.steps[number - 1]
    hours = panel.levels[step.level].business_hours
    seats, added = step.seats, None
    approver = _escalation(panel, step)
    if approver:
        superior = replace(approver, superior=True)
        waiting = [place for place, seat in enumerate(seats) if seat.decision is None and _same(seat, superior)]
        if waiting:
            seats = tuple(replace(seat, superior=place in waiting) for place, seat in enumerate(seats))
        else:
            seats, added = (*seats, superior), superior
    due = after(now, step.sla_hours, hours)
    return _with_step(panel, number, replace(step, seats=seats, escalated=True, reminded=True, due_time=due)), added


def _escalation(panel: Panel, step: Step) -> Seat | None:
    """The escalation approver of a step, if it has one who may decide."""
    approver = step.escalate_to
    if approver and eligible(approver.user_id, panel.requester, panel.levels[step.level]):
        return approver
    return None


def _same(one: Seat, other: Seat) -> bool:
    return (one.user_id, one.role) == (other.user_id, other.role)


def tick(panel: Panel, now: datetime) -> Change:
    """Do what the clock does: remind at half time, escalate at the end, and end the request after as long again."""
    records: list[Record] = []
    reminded: list[int] = []
    escalated: list[tuple[int, Seat]] = []
    for number in _under_way(panel, 0):
        step = panel.steps[number - 1]
        if step.due_time and step.due_time <= now:
            if step.escalated:
                return _timed_out(panel, number, records)
            panel, seat = _escalated(panel, number, now)
            target = seat.user_id or seat.role if seat else ""
            records.append(Record(step=number, action=ActionType.ESCALATE, target=target))
            if seat:
                escalated.append((number, seat))
        elif step.remind_time and step.remind_time <= now and not step.reminded:
            panel = _with_step(panel, number, replace(step, reminded=True))
            records.append(Record(step=number, action=ActionType.REMIND))
            reminded.append(number)
    return Change(panel=panel, records=tuple(records), reminded=tuple(reminded), escalated=tuple(escalated))


def _timed_out(panel: Panel, number: int, records: Sequence[Record]) -> Change:
    step = panel.steps[number - 1]
    rejects = panel.levels[step.level].on_expiry is OnExpiry.REJECTED
    comment = f"Nobody decided in the step {step.name!r} in time."
    action = ActionType.REJECT if rejects else ActionType.EXPIRE
    said = Record(step=number, action=action, comment=comment)
    return Change(
        panel=panel,
        outcome=Event.REJECT if rejects else Event.EXPIRE,
        comment=comment,
        records=(*records, said),
    )


def replace_user(panel: Panel, user_id: str, managers: Sequence[str]) -> Change:
    """Replace an approver who left in the active and later steps, by the first of `managers` who may decide there.

    `managers` are the active managers of the user, nearest first. If none of them may decide, the escalation approver
    of the step replaces the user. If that is nobody either, the slot stays, and the step is escalated or expires.
    """
    records: list[Record] = []
    for number, step in enumerate(panel.steps, start=1):
        if step.state not in {StepState.WAITING, StepState.ACTIVE}:
            continue
        for place, seat in enumerate(step.seats):
            if seat.user_id != user_id or seat.decision is not None:
                continue
            successor = _successor(panel, number, user_id, managers)
            if successor is None:
                continue
            taken = replace(
                seat, user_id=successor.user_id, role=successor.role, why=successor.why, in_place_of=user_id
            )
            panel = _with_seat(panel, number, place, taken)
            target = successor.user_id or successor.role
            records.append(Record(step=number, action=ActionType.REPLACE_APPROVER, on_behalf_of=user_id, target=target))
    return Change(panel=panel, records=tuple(records))


def _successor(panel: Panel, number: int, user_id: str, managers: Sequence[str]) -> Seat | None:
    step = panel.steps[number - 1]
    rule, seats = panel.levels[step.level], step.seats
    manager = first_eligible(managers, panel.requester, rule, seats)
    if manager:
        return Seat(user_id=manager, why=f"they manage {user_id}, who left")
    approver = step.escalate_to
    return approver if approver and eligible(approver.user_id, panel.requester, rule, seats) else None


def next_due(panel: Panel) -> datetime | None:
    """When the clock does something next; None where nobody is asked."""
    due = []
    for number in _under_way(panel, 0):
        step = panel.steps[number - 1]
        due += [step.due_time] if step.reminded else [step.remind_time, step.due_time]
    return min((moment for moment in due if moment), default=None)


def asked(panel: Panel) -> Sequence[Asked]:
    """The seats that wait for a decision."""
    return [
        Asked(number, seat)
        for number in _under_way(panel, 0)
        for seat in panel.steps[number - 1].seats
        if seat.decision is None
    ]


def end(panel: Panel) -> Panel:
    """The panel of a request that has ended: nobody is asked any more."""
    over = {StepState.WAITING, StepState.ACTIVE}
    steps = (replace(step, state=StepState.ENDED) if step.state in over else step for step in panel.steps)
    return replace(panel, steps=tuple(steps))


def _names(panel: Panel) -> Sequence[str]:
    return [one.seat.user_id or f"anybody with the role {one.seat.role}" for one in asked(panel)]


def _seat_of(panel: Panel, actor: Actor, step: int) -> tuple[int, int]:
    """The first seat from which the actor could decide."""
    refusals: list[_Refusal] = []
    for number in _under_way(panel, step):
        try:
            return number, _place(panel, panel.steps[number - 1], actor)
        except (NotAnApprover, SelfApproval, AlreadyDecided) as refusal:
            refusals.append(refusal)
    raise _clearest(refusals) if refusals else NotAnApprover(_names(panel))


def _step_of(panel: Panel, actor: Actor, step: int) -> int:
    """The first step in which the actor is asked, or has decided; an administrator is everywhere."""
    for number in _under_way(panel, step):
        seats = panel.steps[number - 1].seats
        decided = any(seat.decided_by == actor.user_id for seat in seats)
        ranks = (_is_own, _is_of_role, _is_delegated)
        if actor.admin or decided or any(rank(seat, actor) for rank in ranks for seat in seats):
            return number
    raise NotAnApprover(_names(panel))


def _check_target(panel: Panel, step: Step, target: str) -> None:
    reason = ineligibility(target, panel.requester, panel.levels[step.level], step.seats)
    if reason:
        raise TargetRefused(reason)


def _with_seat(panel: Panel, number: int, place: int, seat: Seat) -> Panel:
    step = panel.steps[number - 1]
    seats = (*step.seats[:place], seat, *step.seats[place + 1 :])
    return _with_step(panel, number, replace(step, seats=seats))


def _with_step(panel: Panel, number: int, step: Step) -> Panel:
    return replace(panel, steps=(*panel.steps[: number - 1], step, *panel.steps[number:]))
