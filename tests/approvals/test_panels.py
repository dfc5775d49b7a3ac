"""Deciding, without a database: who may do what in which step, and what comes of it."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.approvals.domain import panels
from services.approvals.domain.lives import ActionType, Decision, Event, Flow, Mode, OnExpiry, StepState
from services.approvals.domain.seats import Actor, Change, Level, Panel, Seat, Step
from services.approvals.errors import AlreadyDecided, EscalationMissing, NotAnApprover, SelfApproval, TargetRefused

NOW: Final = datetime(2026, 3, 2, 9, tzinfo=UTC)
APPROVED, REJECTED, CHANGES = Decision.APPROVED, Decision.REJECTED, Decision.CHANGES_REQUESTED


def level(**given: object) -> Level:
    return Level(rule_id=UUID(int=1), rule_version=1, name="rule", reason="it fits", **given)  # type: ignore[arg-type]


def step(*who: str, at: int = 0, **given: object) -> Step:
    """A step that asks users, or roles where they begin with "@"."""
    seats = tuple(Seat(role=one[1:], why="") if one.startswith("@") else Seat(user_id=one, why="") for one in who)
    return Step(**{"name": "-".join(who), "level": at, "mode": Mode.ANY, "sla_hours": 10, "seats": seats, **given})  # type: ignore[arg-type]


def begun(*steps: Step, levels: tuple[Level, ...] = (), requester: str = "rita") -> Panel:
    return panels.begin(Panel(requester=requester, levels=levels or (level(),), steps=steps), NOW).panel


def actor(user_id: str, **given: object) -> Actor:
    return Actor(user_id=user_id, **given)  # type: ignore[arg-type]


def states(panel: Panel) -> list[str]:
    return [one.state.value for one in panel.steps]


class TestModes:
    @pytest.mark.parametrize(
        ("mode", "quorum", "needed"), [(Mode.ANY, 0, 1), (Mode.ALL, 0, 3), (Mode.QUORUM, 2, 2), (Mode.QUORUM, 3, 3)]
    )
    def test_so_many_must_agree(self, mode: Mode, quorum: int, needed: int) -> None:
        panel = begun(step("a", "b", "c", mode=mode, quorum=quorum))
        for count, who in enumerate("abc"[:needed], start=1):
            change = panels.decide(panel, actor(who), APPROVED, NOW)
            assert change.outcome == (Event.APPROVE if count == needed else None)
            panel = change.panel

    def test_one_person_fills_one_seat_only(self) -> None:
        panel = begun(step("a", "@finance", mode=Mode.ALL))
        panel = panels.decide(panel, actor("a", roles=frozenset({"finance"})), APPROVED, NOW).panel
        with pytest.raises(AlreadyDecided):
            panels.decide(panel, actor("a", roles=frozenset({"finance"})), APPROVED, NOW)
        assert panels.decide(panel, actor("f", roles=frozenset({"finance"})), APPROVED, NOW).outcome is Event.APPROVE

    def test_who_was_asked_as_well_must_agree_too(self) -> None:
        panel = panels.join(begun(step("a", "b")), actor("a"), "x").panel
        change = panels.decide(panel, actor("a"), APPROVED, NOW)
        assert change.outcome is None
        assert panels.decide(change.panel, actor("x"), APPROVED, NOW).outcome is Event.APPROVE

    def test_who_was_asked_as_well_does_not_stand_for_those_of_the_rule(self) -> None:
        panel = panels.join(begun(step("a", "b")), actor("a"), "x").panel
        assert panels.decide(panel, actor("x"), APPROVED, NOW).outcome is None

    @pytest.mark.parametrize(("decision", "outcome"), [(REJECTED, Event.REJECT), (CHANGES, Event.REQUEST_CHANGES)])
    def test_one_who_refuses_ends_it(self, decision: Decision, outcome: Event) -> None:
        change = panels.decide(begun(step("a", "b", mode=Mode.ALL)), actor("b"), decision, NOW, comment="no")
        assert (change.outcome, change.decided_by, change.comment) == (outcome, "b", "no")


class TestOrder:
    def test_steps_come_one_after_the_other(self) -> None:
        panel = begun(step("a"), step("b"))
        assert states(panel) == ["ACTIVE", "WAITING"]
        with pytest.raises(NotAnApprover):
            panels.decide(panel, actor("b"), APPROVED, NOW)
        change = panels.decide(panel, actor("a"), APPROVED, NOW)
        assert (states(change.panel), change.started, change.outcome) == (["APPROVED", "ACTIVE"], (2,), None)

    def test_in_parallel_all_steps_of_a_level_are_asked_and_the_next_level_waits(self) -> None:
        levels = (level(flow=Flow.PARALLEL), level())
        panel = begun(step("a"), step("b"), step("c", at=1), levels=levels)
        assert states(panel) == ["ACTIVE", "ACTIVE", "WAITING"]
        panel = panels.decide(panel, actor("b"), APPROVED, NOW).panel
        assert states(panel) == ["ACTIVE", "APPROVED", "WAITING"]
        panel = panels.decide(panel, actor("a"), APPROVED, NOW).panel
        assert states(panel) == ["APPROVED", "APPROVED", "ACTIVE"]
        assert panels.decide(panel, actor("c"), APPROVED, NOW).outcome is Event.APPROVE

    def test_who_is_asked_in_two_steps_at_once_decides_in_both(self) -> None:
        panel = begun(step("a"), step("a"), levels=(level(flow=Flow.PARALLEL),))
        change = panels.decide(panel, actor("a"), APPROVED, NOW)
        assert (change.outcome, [one.step for one in change.records]) == (Event.APPROVE, [1, 2])

    def test_of_a_rule_that_approves_by_itself_nobody_is_asked(self) -> None:
        change = panels.begin(Panel(requester="r", levels=(level(auto_approve=True),), steps=()), NOW)
        assert change.outcome is Event.APPROVE
        assert [one.action for one in change.records] == [ActionType.AUTO_APPROVE]


WHO: Final = {
    "asked": actor("a"),
    "of the role": actor("r2", roles=frozenset({"finance"})),
    "delegate": actor("d", acts_for=frozenset({"a"})),
    "delegate of whoever asks": actor("d", acts_for=frozenset({"rita"})),
    "of a later step": actor("z"),
    "whoever asks": actor("rita"),
    "whoever asks, of the role": actor("rita", roles=frozenset({"finance"})),
    "whoever asks, as a delegate": actor("rita", acts_for=frozenset({"a"})),
    "administrator": actor("root", admin=True),
    "stranger": actor("m"),
}
MAY: Final = {"asked", "of the role", "delegate"}
SELF: Final = {"whoever asks, of the role", "whoever asks, as a delegate"}


class TestWhoMay:
    """Every decision by everybody, in a step that asks a and anybody of finance while z is asked later."""

    @pytest.mark.parametrize(("who", "decision"), list(itertools.product(WHO, Decision)))
    def test_decisions_are_for_those_who_are_asked(self, who: str, decision: Decision) -> None:
        panel = begun(step("a", "@finance"), step("z"))
        if who in MAY:
            change = panels.decide(panel, WHO[who], decision, NOW)
            behalf = "a" if who == "delegate" else ""
            assert [(one.actor, one.on_behalf_of) for one in change.records] == [(WHO[who].user_id, behalf)]
            return
        with pytest.raises(SelfApproval if who in SELF else NotAnApprover):
            panels.decide(panel, WHO[who], decision, NOW)

    @pytest.mark.parametrize("who", WHO)
    def test_seats_are_handed_over_by_those_who_sit_there(self, who: str) -> None:
        panel = begun(step("a", "@finance"), step("z"))
        if who in MAY:
            change = panels.hand_over(panel, WHO[who], "new")
            assert "new" in {seat.user_id for seat in change.panel.steps[0].seats}
            return
        with pytest.raises(SelfApproval if who in SELF else NotAnApprover):
            panels.hand_over(panel, WHO[who], "new")

    @pytest.mark.parametrize("who", WHO)
    def test_others_are_asked_as_well_by_who_sits_there_and_by_administrators(self, who: str) -> None:
        panel = begun(step("a", "@finance", escalate_to=Seat(user_id="boss", why="")), step("z"))
        if who in MAY | SELF | {"administrator"}:
            assert len(panels.join(panel, WHO[who], "new").panel.steps[0].seats) == 3
            assert [seat.user_id for _, seat in panels.escalate(panel, WHO[who], NOW).escalated] == ["boss"]
            return
        with pytest.raises(NotAnApprover):
            panels.join(panel, WHO[who], "new")
        with pytest.raises(NotAnApprover):
            panels.escalate(panel, WHO[who], NOW)

    def test_where_the_rule_allows_it_whoever_asks_decides(self) -> None:
        panel = begun(step("rita"), levels=(level(allow_self_approval=True),))
        assert panels.decide(panel, actor("rita"), APPROVED, NOW).outcome is Event.APPROVE

    def test_nobody_is_asked_twice_or_asked_for_their_own(self) -> None:
        panel = begun(step("a", "b"))
        for target in ("b", "rita"):
            with pytest.raises(TargetRefused):
                panels.hand_over(panel, actor("a"), target)
            with pytest.raises(TargetRefused):
                panels.join(panel, actor("a"), target)

    def test_without_an_escalation_approver_nothing_is_escalated(self) -> None:
        with pytest.raises(EscalationMissing):
            panels.escalate(begun(step("a")), actor("a"), NOW)


def later(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


class TestTheClock:
    BOSS = Seat(user_id="boss", why="")

    def test_half_time_reminds_once(self) -> None:
        panel = begun(step("a"))
        assert panels.next_due(panel) == later(5)
        change = panels.tick(panel, later(5))
        assert (change.reminded, [one.action for one in change.records]) == ((1,), [ActionType.REMIND])
        assert panels.next_due(change.panel) == later(10)
        assert panels.tick(change.panel, later(6)).records == ()

    def test_the_end_asks_somebody_else_as_well_whose_word_is_enough(self) -> None:
        panel = panels.tick(begun(step("a", "b", mode=Mode.ALL, escalate_to=self.BOSS)), later(10)).panel
        assert [seat.user_id for seat in panel.steps[0].seats] == ["a", "b", "boss"]
        assert panels.next_due(panel) == later(20)
        assert panels.decide(panel, actor("boss"), APPROVED, later(11)).outcome is Event.APPROVE
        assert panels.decide(panel, actor("a"), APPROVED, later(11)).outcome is None

    @pytest.mark.parametrize(
        ("on_expiry", "outcome"), [(OnExpiry.EXPIRED, Event.EXPIRE), (OnExpiry.REJECTED, Event.REJECT)]
    )
    def test_the_second_end_ends_it_as_the_rule_says(self, on_expiry: OnExpiry, outcome: Event) -> None:
        panel = panels.tick(begun(step("a"), levels=(level(on_expiry=on_expiry),)), later(10)).panel
        assert panels.tick(panel, later(19.9)).outcome is None
        assert panels.tick(panel, later(20)).outcome is outcome

    def test_who_left_is_replaced_also_in_later_steps(self) -> None:
        panel = begun(step("a"), step("b", "a", mode=Mode.ALL))
        change = panels.replace_user(panel, "a", ("new",))
        assert [[seat.user_id for seat in one.seats] for one in change.panel.steps] == [["new"], ["b", "new"]]
        assert [(one.on_behalf_of, one.target) for one in change.records] == [("a", "new")] * 2

    def test_without_a_manager_the_escalation_approver_replaces_who_left(self) -> None:
        change = panels.replace_user(begun(step("a", escalate_to=self.BOSS)), "a", ())
        assert change.panel.steps[0].seats[0].user_id == "boss"


class TestEligibility:
    """A requester is never an approver of their own request unless the rule allows it, however the slot is filled."""

    def test_departed_approver_is_not_replaced_by_the_requester_but_by_the_next_manager(self) -> None:
        change = panels.replace_user(begun(step("ben")), "ben", ("rita", "max"))
        assert [(seat.user_id, seat.in_place_of) for seat in change.panel.steps[0].seats] == [("max", "ben")]
        assert panels.decide(change.panel, actor("max"), APPROVED, NOW).outcome is Event.APPROVE

    def test_departed_approver_is_replaced_by_the_escalation_approver_if_only_the_requester_manages_them(self) -> None:
        boss = Seat(user_id="boss", why="")
        change = panels.replace_user(begun(step("ben", escalate_to=boss)), "ben", ("rita",))
        assert [seat.user_id for seat in change.panel.steps[0].seats] == ["boss"]

    def test_departed_approver_keeps_the_slot_if_nobody_else_may_fill_it(self) -> None:
        change = panels.replace_user(begun(step("ben")), "ben", ("rita",))
        assert ([seat.user_id for seat in change.panel.steps[0].seats], change.records) == (["ben"], ())

    def test_departed_approver_is_replaced_by_the_requester_if_the_rule_allows_self_approval(self) -> None:
        panel = begun(step("ben"), levels=(level(allow_self_approval=True),))
        change = panels.replace_user(panel, "ben", ("rita", "max"))
        assert [seat.user_id for seat in change.panel.steps[0].seats] == ["rita"]

    def test_departed_approver_is_not_replaced_by_an_approver_of_the_same_step(self) -> None:
        panel = begun(step("ben", "carla", mode=Mode.ALL))
        change = panels.replace_user(panel, "ben", ("carla", "max"))
        assert [seat.user_id for seat in change.panel.steps[0].seats] == ["max", "carla"]

    def test_escalation_does_not_add_the_requester(self) -> None:
        panel = begun(step("ben", escalate_to=Seat(user_id="rita", why="")))
        with pytest.raises(EscalationMissing):
            panels.escalate(panel, actor("ben"), NOW)
        change = panels.tick(panel, later(10))
        assert ([seat.user_id for seat in change.panel.steps[0].seats], change.escalated) == (["ben"], ())

    def test_delegate_of_the_requester_does_not_decide_for_the_requester(self) -> None:
        delegate = actor("dan", acts_for=frozenset({"rita"}))
        with pytest.raises(SelfApproval):
            panels.decide(begun(step("rita")), delegate, APPROVED, NOW)
        with pytest.raises(SelfApproval):
            panels.hand_over(begun(step("rita")), delegate, "max")

    def test_delegate_of_the_requester_decides_for_another_approver(self) -> None:
        delegate = actor("dan", acts_for=frozenset({"rita", "ben"}))
        change = panels.decide(begun(step("rita", "ben")), delegate, APPROVED, NOW)
        assert [record.on_behalf_of for record in change.records] == ["ben"]


PEOPLE: Final = "abcdefg"


@st.composite
def drawn_panels(draw: st.DrawFn) -> Panel:
    levels, steps = [], []
    for at in range(draw(st.integers(1, 3))):
        flow = draw(st.sampled_from(Flow))
        levels.append(level(flow=flow, on_expiry=draw(st.sampled_from(OnExpiry))))
        for _ in range(draw(st.integers(1, 3))):
            who = draw(st.lists(st.sampled_from([*PEOPLE, "@finance"]), min_size=1, max_size=4, unique=True))
            mode = draw(st.sampled_from(Mode))
            quorum = draw(st.integers(1, len(who))) if mode is Mode.QUORUM else 0
            boss = draw(st.sampled_from([None, Seat(user_id="boss", why="")]))
            steps.append(step(*who, at=at, mode=mode, quorum=quorum, escalate_to=boss))
    return Panel(requester="rita", levels=tuple(levels), steps=tuple(steps))


def enough(one: Step) -> bool:
    """Whether a step has the approvals that its rule demands, said in another way than the panel does."""
    agreed = [seat for seat in one.seats if seat.decision is APPROVED]
    people = {seat.decided_by for seat in agreed}
    if any(seat.extra and seat not in agreed for seat in one.seats):
        return False
    if any(seat.superior for seat in agreed):
        return True
    of_rule = [seat for seat in one.seats if not seat.extra or seat in agreed]
    if one.mode is Mode.ALL:
        return len(agreed) == len(of_rule)
    return len(people) >= one.quorum if one.mode is Mode.QUORUM else any(not seat.extra for seat in agreed)


class TestWhateverIsDone:
    @settings(max_examples=400)
    @given(panel=drawn_panels(), data=st.data())
    def test_nothing_is_approved_without_its_approvals_nobody_decides_twice_and_all_ends(
        self, panel: Panel, data: st.DataObject
    ) -> None:
        change, now = panels.begin(panel, NOW), NOW
        for _ in range(data.draw(st.integers(0, 25))):
            if change.outcome:
                break
            now += timedelta(hours=data.draw(st.integers(0, 4)))
            change = self.something(change.panel, now, data)
        for _ in range(200):  # and then nobody does anything any more
            if change.outcome:
                break
            due = panels.next_due(change.panel)
            assert due is not None, "it hangs"
            change = panels.tick(change.panel, max(now, due))
        assert change.outcome
        if change.outcome is Event.APPROVE:
            assert all(one.state is StepState.APPROVED and enough(one) for one in change.panel.steps)
        for one in change.panel.steps:
            deciders = [seat.decided_by for seat in one.seats if seat.decision]
            assert len(set(deciders)) == len(deciders)
            assert "rita" not in deciders

    def something(self, panel: Panel, now: datetime, data: st.DataObject) -> Change:
        who = Actor(
            user_id=data.draw(st.sampled_from([*PEOPLE, "boss", "rita", "x"])),
            roles=frozenset(data.draw(st.sets(st.just("finance")))),
            acts_for=frozenset(data.draw(st.sets(st.sampled_from([*PEOPLE, "rita"]), max_size=2))),
        )
        doing = data.draw(
            st.sampled_from(["approve", "approve", "approve", "tick", "hand", "join", "escalate", "leave"])
        )
        try:
            match doing:
                case "approve":
                    return panels.decide(panel, who, APPROVED, now)
                case "hand":
                    return panels.hand_over(panel, who, data.draw(st.sampled_from([*PEOPLE, "y"])))
                case "join":
                    return panels.join(panel, who, data.draw(st.sampled_from([*PEOPLE, "y"])))
                case "escalate":
                    return panels.escalate(panel, who, now)
                case "leave":
                    return panels.replace_user(
                        panel,
                        data.draw(st.sampled_from(PEOPLE)),
                        data.draw(st.lists(st.sampled_from([*PEOPLE, "rita", "boss"]), max_size=3)),
                    )
        except (NotAnApprover, SelfApproval, AlreadyDecided, TargetRefused, EscalationMissing):
            pass
        return panels.tick(panel, now)
