"""Random rules, amounts and approvals: a request is approved only with the approvals that its rules require.

The required steps are derived a second time here, independently of the service: from the table of amount limits.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from kit.money import Money
from services.approvals import domain
from services.approvals.domain.approvals import Actor, ApprovalAction, ApprovalType
from services.approvals.domain.approvers import DirectorySnapshot, ResponsibleUsers
from services.approvals.domain.rules import Approver, ApproverKind, Facts, Flow, Mode, Rule, RuleSpec, RuleStep
from services.approvals.domain.workflows import Decision, Workflow, WorkflowChange
from services.approvals.errors.approvals import AlreadyDecided, NotAnApprover

NOW: Final = datetime(2026, 3, 2, 9, tzinfo=UTC)
USERS: Final = ("ann", "ben", "cid", "dot", "eve")
MANAGERS: Final = dict.fromkeys(USERS, ("boss",))
LIMITS: Final = st.integers(0, 20).map(lambda thousands: Decimal(thousands * 1000))
AMOUNTS: Final = st.decimals("0.01", "25000", places=2)


@st.composite
def rule_steps(draw: st.DrawFn, name: str) -> RuleStep:
    user_ids = draw(st.lists(st.sampled_from(USERS), min_size=1, max_size=3, unique=True))
    mode = draw(st.sampled_from(Mode))
    return RuleStep(
        name=name,
        approvers=tuple(Approver(ApproverKind.USER, user_id) for user_id in user_ids),
        mode=mode,
        quorum=draw(st.integers(1, len(user_ids))) if mode is Mode.QUORUM else 0,
        sla_hours=draw(st.integers(1, 48)),
        escalate_to=Approver(ApproverKind.USER, "boss"),
    )


@st.composite
def rules(draw: st.DrawFn, number: int, above: Decimal | None, ladder: str) -> Rule:
    names = [f"{number}.{step}" for step in range(draw(st.integers(1, 2)))]
    upper = draw(st.one_of(st.none(), LIMITS.map(lambda more: (above or Decimal(0)) + more + 1)))
    spec = RuleSpec(
        name=f"rule {number}",
        priority=draw(st.integers(0, 2)),
        request_type=draw(st.sampled_from([ApprovalType.PURCHASE, ApprovalType.INVOICE])) if not ladder else None,
        amount_above=above,
        amount_up_to=upper,
        currency="EUR" if above is not None or upper is not None else "",
        ladder=ladder,
        steps=tuple(draw(rule_steps(name)) for name in names),
        flow=draw(st.sampled_from(Flow)),
    )
    return Rule(id=UUID(int=number), version=1, spec=spec)


@dataclass(frozen=True)
class RuleSet:
    """The rules of a tenant."""

    rules: tuple[Rule, ...]

    def required_steps(self, amount: Decimal) -> set[str]:
        """The names of the steps that a purchase of this amount must pass; empty if no rule matches."""
        matching = [rule for rule in self.rules if self._matches(rule.spec, amount)]
        if not matching:
            return set()
        highest = max(rule.spec.priority for rule in matching)
        best = [rule for rule in matching if rule.spec.priority == highest]
        first = min(best, key=lambda rule: (self._width(rule.spec), rule.id))
        applied = [first]
        if first.spec.ladder:
            applied = [
                rule
                for rule in self.rules
                if rule.spec.ladder == first.spec.ladder
                and (rule.spec.amount_above is None or rule.spec.amount_above < amount)
            ]
        return {step.name for rule in applied for step in rule.spec.steps}

    @staticmethod
    def _matches(spec: RuleSpec, amount: Decimal) -> bool:
        of_type = spec.request_type in {None, ApprovalType.PURCHASE}
        above = spec.amount_above is None or spec.amount_above < amount
        return of_type and above and (spec.amount_up_to is None or amount <= spec.amount_up_to)

    @staticmethod
    def _width(spec: RuleSpec) -> Decimal:
        """The width of the amount range; one without upper bound is wider the lower it starts."""
        lower = spec.amount_above or Decimal(0)
        return Decimal(10**15) - lower if spec.amount_up_to is None else spec.amount_up_to - lower


@st.composite
def rule_sets(draw: st.DrawFn) -> RuleSet:
    levels = draw(st.lists(LIMITS, max_size=4, unique=True))
    single = draw(st.lists(st.one_of(st.none(), LIMITS), max_size=4))
    bounds = [(above, "ladder") for above in levels] + [(above, "") for above in single]
    order = draw(st.permutations(bounds))
    return RuleSet(tuple(draw(rules(number, *bound)) for number, bound in enumerate(order, start=1)))


def workflow_of(rule_set: RuleSet, amount: Decimal, requester: str) -> Workflow | None:
    facts = Facts(
        request_type=ApprovalType.PURCHASE,
        title="x",
        requester=requester,
        entity_path=(UUID(int=99),),
        amount=Money(amount, "EUR"),
    )
    route = domain.routes.choose(rule_set.rules, facts, {"EUR": amount}, lambda *_: None)
    if route is None:
        return None
    directory = DirectorySnapshot(managers=MANAGERS)
    return domain.approvers.create_workflow(route, facts, ResponsibleUsers(), directory)


@settings(max_examples=500)
@given(rule_set=rule_sets(), amount=AMOUNTS, requester=st.sampled_from(["rita", *USERS]), data=st.data())
def test_every_request_ends_and_is_approved_only_with_all_required_approvals(
    rule_set: RuleSet, amount: Decimal, requester: str, data: st.DataObject
) -> None:
    required, workflow = rule_set.required_steps(amount), workflow_of(rule_set, amount, requester)
    assert {step.name for step in workflow.steps} == required if workflow else not required
    if workflow is None:
        return
    change, now, approvals = domain.decisions.start(workflow, NOW), NOW, dict[str, set[str]]()
    for _ in range(data.draw(st.integers(0, 30))):
        if change.outcome:
            break
        now += timedelta(hours=data.draw(st.integers(0, 6)))
        user_id = data.draw(st.sampled_from([*USERS, "boss", "rita"]))
        change = approve(change.workflow, user_id, now, approvals)
    while not change.outcome:  # then only time passes
        due_time = domain.deadlines.next_due_time(change.workflow)
        assert due_time is not None, "the workflow is neither decided nor has a deadline"
        now = max(now, due_time)
        change = domain.deadlines.apply(change.workflow, now)
    if change.outcome is ApprovalAction.APPROVE:
        assert set(approvals) == required
        assert requester not in set().union(*approvals.values())
        assert all(is_approved(step, approvals[step.name], left_out(rule.spec, step, requester))
                   for rule in rule_set.rules for step in rule.spec.steps if step.name in required)  # fmt: skip


def approve(workflow: Workflow, user_id: str, now: datetime, approvals: dict[str, set[str]]) -> WorkflowChange:
    """Apply the deadlines, then approve as the user if they are an approver; add that to `approvals`, by step."""
    change = domain.deadlines.apply(workflow, now)
    if change.outcome:
        return change
    try:
        change = domain.decisions.decide(change.workflow, Actor(user_id=user_id), Decision.APPROVED, now)
    except (NotAnApprover, AlreadyDecided):
        return change
    for record in change.records:
        approvals.setdefault(change.workflow.step(record.step).name, set()).add(record.actor)
    return change


def left_out(spec: RuleSpec, step: RuleStep, requester: str) -> set[str]:
    """The requester if their slot may be left out: their manager replaces them in one parallel step only."""
    others = {approver.name for other in spec.steps if other is not step for approver in other.approvers}
    return {requester} if spec.flow is Flow.PARALLEL and requester in others else set()


def is_approved(step: RuleStep, users: set[str], left_out: set[str]) -> bool:
    """True if these users are enough to approve the step. The escalation approver alone is."""
    approvers = {approver.name for approver in step.approvers}
    if "boss" in users:
        return True
    required = {Mode.ANY: 1, Mode.ALL: len(approvers - left_out), Mode.QUORUM: step.quorum}[step.mode]
    return len(users & approvers) >= required
