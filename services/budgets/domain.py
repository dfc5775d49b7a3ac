"""The rules of budgets: states, periods, what a charge may take, and when an alert is due. Pure; no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import resources
from kit.money import BP, Money
from services.budgets.errors import (
    AlertStateForbids,
    ApprovalRequired,
    BudgetExceeded,
    BudgetStateForbids,
    CurrencyMismatch,
    OutsidePeriod,
)

DEPTH_MAX: Final = 8
"""Most levels of budgets above one another."""

THRESHOLDS_DEFAULT_BP: Final = (5000, 8000, 9000, 10000)


class State(StrEnum):
    """Budget.State."""

    DRAFT = "DRAFT"
    ACTIVE = "ACTIVE"
    CLOSED = "CLOSED"


class Action(StrEnum):
    """What is done to a budget; the value is how it reads in a sentence."""

    ACTIVATE = "activated"
    CLOSE = "closed"
    REOPEN = "reopened"
    CHANGE = "changed"
    CHARGE = "charged"
    ADOPT = "given another budget below it"


class PeriodType(StrEnum):
    """Budget.PeriodType."""

    MONTHLY = "MONTHLY"
    QUARTERLY = "QUARTERLY"
    ANNUAL = "ANNUAL"
    CUSTOM = "CUSTOM"


class OverspendPolicy(StrEnum):
    """Budget.OverspendPolicy."""

    BLOCK = "BLOCK"
    WARN = "WARN"
    ALLOW_WITHIN_TOLERANCE = "ALLOW_WITHIN_TOLERANCE"
    REQUIRE_APPROVAL = "REQUIRE_APPROVAL"


class AlertType(StrEnum):
    """Alert.Type."""

    THRESHOLD = "THRESHOLD"
    OVERSPEND = "OVERSPEND"


class AlertState(StrEnum):
    """Alert.State."""

    OPEN = "OPEN"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    RESOLVED = "RESOLVED"


class AlertAction(StrEnum):
    """What is done to an alert; the value is how it reads in a sentence."""

    ACKNOWLEDGE = "acknowledged"
    RESOLVE = "resolved"


class EntryType(StrEnum):
    """Entry.Type."""

    CHARGE = "CHARGE"
    ADJUST = "ADJUST"


class ChargeVerdict(StrEnum):
    """Charge.Verdict."""

    ACCEPTED = "ACCEPTED"
    ACCEPTED_OVERSPENT = "ACCEPTED_OVERSPENT"


class AvailabilityVerdict(StrEnum):
    """Availability.Verdict."""

    AVAILABLE = "AVAILABLE"
    AVAILABLE_OVERSPENT = "AVAILABLE_OVERSPENT"
    EXCEEDED = "EXCEEDED"
    NOT_ACTIVE = "NOT_ACTIVE"
    OUTSIDE_PERIOD = "OUTSIDE_PERIOD"
    APPROVAL_REQUIRED = "APPROVAL_REQUIRED"


TRANSITIONS: Final[Mapping[tuple[State, Action], State]] = {
    (State.DRAFT, Action.ACTIVATE): State.ACTIVE,
    (State.DRAFT, Action.CLOSE): State.CLOSED,
    (State.DRAFT, Action.CHANGE): State.DRAFT,
    (State.DRAFT, Action.ADOPT): State.DRAFT,
    (State.ACTIVE, Action.CLOSE): State.CLOSED,
    (State.ACTIVE, Action.CHANGE): State.ACTIVE,
    (State.ACTIVE, Action.CHARGE): State.ACTIVE,
    (State.ACTIVE, Action.ADOPT): State.ACTIVE,
    (State.CLOSED, Action.REOPEN): State.ACTIVE,
}
"""The whole life of a budget; what is not here is not allowed."""


def advance(budget_id: UUID, state: State, action: Action) -> State:
    """The state after `action`; raises BudgetStateForbids naming the states in which it is allowed."""
    return resources.advance(TRANSITIONS, budget_id, state, action, BudgetStateForbids)


ALERT_TRANSITIONS: Final[Mapping[tuple[AlertState, AlertAction], AlertState]] = {
    (AlertState.OPEN, AlertAction.ACKNOWLEDGE): AlertState.ACKNOWLEDGED,
    (AlertState.OPEN, AlertAction.RESOLVE): AlertState.RESOLVED,
    (AlertState.ACKNOWLEDGED, AlertAction.RESOLVE): AlertState.RESOLVED,
}
"""The whole life of an alert."""


def advance_alert(alert_id: UUID, state: AlertState, action: AlertAction) -> AlertState:
    """The state after `action`; raises AlertStateForbids naming the states in which it is allowed."""
    return resources.advance(ALERT_TRANSITIONS, alert_id, state, action, AlertStateForbids)


_MONTHS: Final[Mapping[PeriodType, int]] = {PeriodType.MONTHLY: 1, PeriodType.QUARTERLY: 3, PeriodType.ANNUAL: 12}


def period_end(period_type: PeriodType, start: date) -> date:
    """The day after the last one of a period that starts at `start`; CUSTOM has none to compute.

    The same day of the later month, or that month's last where it is shorter (31 January → 28 February).
    """
    months = start.month - 1 + _MONTHS[period_type]
    year, month = start.year + months // 12, months % 12 + 1
    return start.replace(year=year, month=month, day=min(start.day, _days_in(year, month)))


def _days_in(year: int, month: int) -> int:
    following = date(year + month // 12, month % 12 + 1, 1)
    return (following - date(year, month, 1)).days


@dataclass(frozen=True, slots=True)
class Balance:
    """A budget of a chain, as the decision about a charge sees it."""

    id: UUID
    name: str
    state: State
    policy: OverspendPolicy
    tolerance_bp: int
    amount: Money
    spent: Money
    starts: datetime
    ends: datetime
    thresholds_bp: Sequence[int]

    @property
    def available(self) -> Money:
        """What is left; below zero where it is overspent."""
        return self.amount - self.spent

    @property
    def utilisation_bp(self) -> int:
        """What is spent, as a share of the amount in basis points, rounded down."""
        return self.spent.utilisation_bp(self.amount)

    @property
    def overspent(self) -> bool:
        """Whether more is spent than it has."""
        return self.amount < self.spent

    @property
    def limit(self) -> Money | None:
        """The most that may be spent by its policy, to the last digit of the currency; None where it only warns."""
        if self.policy is OverspendPolicy.WARN:
            return None
        if self.policy is OverspendPolicy.ALLOW_WITHIN_TOLERANCE:
            return self.amount.share(BP + self.tolerance_bp)
        return self.amount

    @property
    def room(self) -> Money:
        """What may still be spent, tolerance included; below zero where more is spent than it has."""
        return (self.limit or self.amount) - self.spent

    @property
    def beyond_policy(self) -> bool:
        """Whether more is spent than its policy allows."""
        return self.limit is not None and self.limit < self.spent

    def charged(self, amount: Money) -> "Balance":
        """This budget after a charge of `amount`."""
        return replace(self, spent=self.spent + amount)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a charge does: the chain before and after it, the budget charged first, then the one above it and so on."""

    verdict: ChargeVerdict
    before: Sequence[Balance]
    after: Sequence[Balance]


def decide(chain: Sequence[Balance], amount: Money, at: datetime) -> Decision:
    """Take a charge of `amount` at the moment `at` on the whole chain, or refuse it on the whole.

    Raises CurrencyMismatch, BudgetStateForbids, OutsidePeriod, BudgetExceeded or ApprovalRequired, each naming the
    budget of the chain that refuses; where several lack room, the one with the least. Approval is asked for only where
    it helps: not when another budget refuses for good.
    """
    for balance in chain:
        _check_takes_charge(balance, amount, at)
    after = [balance.charged(amount) for balance in chain]
    refusing = [left for left in after if left.beyond_policy]
    if refusing:
        for_good = [left for left in refusing if left.policy is not OverspendPolicy.REQUIRE_APPROVAL]
        refusal = BudgetExceeded if for_good else ApprovalRequired
        binding = tightest(for_good or refusing)
        room = binding.room + amount
        raise refusal(binding.id, binding.name, requested=amount, available=room, limit=binding.amount)
    overspent = any(balance.overspent for balance in after)
    verdict = ChargeVerdict.ACCEPTED_OVERSPENT if overspent else ChargeVerdict.ACCEPTED
    return Decision(verdict, chain, after)


def _check_takes_charge(balance: Balance, amount: Money, at: datetime) -> None:
    if balance.amount.currency != amount.currency:
        raise CurrencyMismatch(balance.id, given=amount.currency, currency=balance.amount.currency)
    advance(balance.id, balance.state, Action.CHARGE)
    if not balance.starts <= at < balance.ends:
        raise OutsidePeriod(balance.id, at=at, starts=balance.starts, ends=balance.ends)


def tightest(balances: Sequence[Balance]) -> Balance:
    """The budget with the least room; of several the first."""
    return min(balances, key=lambda balance: balance.room.amount)


@dataclass(frozen=True, slots=True)
class Availability:
    """What a charge would meet."""

    verdict: AvailabilityVerdict
    binding: UUID
    before: Sequence[Balance]
    after: Sequence[Balance]
    explanation: str


_REFUSALS: Final = {
    BudgetStateForbids: AvailabilityVerdict.NOT_ACTIVE,
    OutsidePeriod: AvailabilityVerdict.OUTSIDE_PERIOD,
    BudgetExceeded: AvailabilityVerdict.EXCEEDED,
    ApprovalRequired: AvailabilityVerdict.APPROVAL_REQUIRED,
}


def availability(chain: Sequence[Balance], amount: Money, at: datetime) -> Availability:
    """What `decide` would say, and why; raises CurrencyMismatch as it does."""
    after = [balance.charged(amount) if balance.amount.currency == amount.currency else balance for balance in chain]
    try:
        decision = decide(chain, amount, at)
    except (BudgetStateForbids, OutsidePeriod, BudgetExceeded, ApprovalRequired) as refusal:
        return Availability(_REFUSALS[type(refusal)], refusal.id, chain, after, refusal.message)
    binding = tightest(after)
    if decision.verdict is ChargeVerdict.ACCEPTED_OVERSPENT:
        text = f"It would be taken, and leave the budget {binding.name!r} overspent by {-binding.available}."
        return Availability(AvailabilityVerdict.AVAILABLE_OVERSPENT, binding.id, chain, after, text)
    text = f"It would be taken; the budget {binding.name!r} would have {binding.available} left."
    return Availability(AvailabilityVerdict.AVAILABLE, binding.id, chain, after, text)


@dataclass(frozen=True, slots=True)
class Mark:
    """A point that a budget can pass: one of its thresholds, or its amount."""

    type: AlertType
    threshold_bp: int


def marks_passed(balance: Balance) -> set[Mark]:
    """Every mark that the budget is at or past; each is to have an alert, once."""
    used = balance.spent.amount * BP
    passed = {Mark(AlertType.THRESHOLD, bp) for bp in balance.thresholds_bp if used >= balance.amount.amount * bp}
    return passed | {Mark(AlertType.OVERSPEND, BP)} if balance.overspent else passed
