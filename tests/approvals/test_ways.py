"""Rules and amounts at random: what a request's ladder demands is given before it is approved, and nothing hangs.

What is demanded is worked out a second time here, in another way than the service does: from the table of limits.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from kit.money import Money
from services.approvals.domain import panels, people, routes
from services.approvals.domain.lives import ApprovalType, Decision, Event, Flow, Mode
from services.approvals.domain.people import People, Place
from services.approvals.domain.rules import Approver, ApproverKind, Facts, Rule, RuleStep, RuleTerms
from services.approvals.domain.seats import Actor, Change, Panel
from services.approvals.errors import AlreadyDecided, NotAnApprover

NOW: Final = datetime(2026, 3, 2, 9, tzinfo=UTC)
USERS: Final = ("ann", "ben", "cid", "dot", "eve")
MANAGERS: Final = dict.fromkeys(USERS, ("boss",))
LIMITS: Final = st.integers(0, 20).map(lambda thousands: Decimal(thousands * 1000))
AMOUNTS: Final = st.decimals("0.01", "25000", places=2)


@st.composite
def drawn_step(draw: st.DrawFn, name: str) -> RuleStep:
    who = draw(st.lists(st.sampled_from(USERS), min_size=1, max_size=3, unique=True))
    mode = draw(st.sampled_from(Mode))
    return RuleStep(
        name=name,
        approvers=tuple(Approver(ApproverKind.USER, one) for one in who),
        mode=mode,
        quorum=draw(st.integers(1, len(who))) if mode is Mode.QUORUM else 0,
        sla_hours=draw(st.integers(1, 48)),
        escalate_to=Approver(ApproverKind.USER, "boss"),
    )


@st.composite
def drawn_rule(draw: st.DrawFn, number: int, above: Decimal | None, ladder: str) -> Rule:
    names = [f"{number}.{step}" for step in range(draw(st.integers(1, 2)))]
    upper = draw(st.one_of(st.none(), LIMITS.map(lambda more: (above or Decimal(0)) + more + 1)))
    terms = RuleTerms(
        name=f"rule {number}",
        priority=draw(st.integers(0, 2)),
        request_type=draw(st.sampled_from([ApprovalType.PURCHASE, ApprovalType.INVOICE])) if not ladder else None,
        amount_above=above,
        amount_up_to=upper,
        currency="EUR" if above is not None or upper is not None else "",
        ladder=ladder,
        steps=tuple(draw(drawn_step(name)) for name in names),
        flow=draw(st.sampled_from(Flow)),
    )
    return Rule(id=UUID(int=number), version=1, terms=terms)


@dataclass(frozen=True)
class Book:
    """The rules of a tenant."""

    rules: tuple[Rule, ...]

    def demanded(self, amount: Decimal) -> set[str]:
        """The names of the steps that a purchase of so much has to pass; empty where no rule is for it."""
        fitting = [rule for rule in self.rules if self._covers(rule.terms, amount)]
        if not fitting:
            return set()
        highest = max(rule.terms.priority for rule in fitting)
        best = [rule for rule in fitting if rule.terms.priority == highest]
        first = min(best, key=lambda rule: (self._width(rule.terms), rule.id))
        taken = [first]
        if first.terms.ladder:
            taken = [
                rule
                for rule in self.rules
                if rule.terms.ladder == first.terms.ladder
                and (rule.terms.amount_above is None or rule.terms.amount_above < amount)
            ]
        return {step.name for rule in taken for step in rule.terms.steps}

    @staticmethod
    def _covers(terms: RuleTerms, amount: Decimal) -> bool:
        of_type = terms.request_type in {None, ApprovalType.PURCHASE}
        above = terms.amount_above is None or terms.amount_above < amount
        return of_type and above and (terms.amount_up_to is None or amount <= terms.amount_up_to)

    @staticmethod
    def _width(terms: RuleTerms) -> Decimal:
        """How many euros a rule is for; one without an end is wider the lower it begins."""
        begins = terms.amount_above or Decimal(0)
        return Decimal(10**15) - begins if terms.amount_up_to is None else terms.amount_up_to - begins


@st.composite
def drawn_book(draw: st.DrawFn) -> Book:
    ladder = draw(st.lists(LIMITS, max_size=4, unique=True))
    alone = draw(st.lists(st.one_of(st.none(), LIMITS), max_size=4))
    places = [(above, "ladder") for above in ladder] + [(above, "") for above in alone]
    order = draw(st.permutations(places))
    return Book(tuple(draw(drawn_rule(number, *place)) for number, place in enumerate(order, start=1)))


def panel_of(book: Book, amount: Decimal, requester: str) -> Panel | None:
    facts = Facts(
        request_type=ApprovalType.PURCHASE,
        title="x",
        requester=requester,
        entity_path=(UUID(int=99),),
        amount=Money(amount, "EUR"),
    )
    route = routes.choose(book.rules, facts, {"EUR": amount}, lambda *_: None)
    return people.lay_out(route, facts, Place(), People(managers=MANAGERS)) if route else None


@settings(max_examples=500)
@given(book=drawn_book(), amount=AMOUNTS, requester=st.sampled_from(["rita", *USERS]), data=st.data())
def test_no_request_is_approved_without_what_its_ladder_demands_and_none_hangs(
    book: Book, amount: Decimal, requester: str, data: st.DataObject
) -> None:
    demanded, panel = book.demanded(amount), panel_of(book, amount, requester)
    assert {step.name for step in panel.steps} == demanded if panel else not demanded
    if panel is None:
        return
    change, now, agreed = panels.begin(panel, NOW), NOW, dict[str, set[str]]()
    for _ in range(data.draw(st.integers(0, 30))):
        if change.outcome:
            break
        now += timedelta(hours=data.draw(st.integers(0, 6)))
        change = somebody_agrees(change.panel, data.draw(st.sampled_from([*USERS, "boss", "rita"])), now, agreed)
    while not change.outcome:  # and then time passes
        due = panels.next_due(change.panel)
        assert due is not None, "it hangs"
        now = max(now, due)
        change = panels.tick(change.panel, now)
    if change.outcome is Event.APPROVE:
        assert set(agreed) == demanded
        assert requester not in set().union(*agreed.values())
        assert all(enough(step, agreed[step.name]) for rule in book.rules for step in rule.terms.steps
                   if step.name in demanded)  # fmt: skip


def somebody_agrees(panel: Panel, who: str, now: datetime, agreed: dict[str, set[str]]) -> Change:
    """Let time pass, then somebody agree where they are asked; kept by step in `agreed`."""
    change = panels.tick(panel, now)
    if change.outcome:
        return change
    try:
        change = panels.decide(change.panel, Actor(user_id=who), Decision.APPROVED, now)
    except (NotAnApprover, AlreadyDecided):
        return change
    for record in change.records:
        agreed.setdefault(change.panel.steps[record.step - 1].name, set()).add(record.actor)
    return change


def enough(step: RuleStep, agreed: set[str]) -> bool:
    """Whether those who agreed are as many as the rule asks for; the word of the escalation approver is enough."""
    asked = {approver.name for approver in step.approvers}
    if "boss" in agreed:
        return True
    needed = {Mode.ANY: 1, Mode.ALL: len(asked), Mode.QUORUM: step.quorum}[step.mode]
    return len(agreed & asked) >= needed
