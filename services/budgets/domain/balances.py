"""Balances of budgets, and the decision whether a chain of budgets accepts a movement. Pure.

    available = amount + carried - spent - held - committed

A movement counts against a budget and all budgets above it: the whole chain accepts it, or the whole chain refuses it.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Final, NamedTuple
from uuid import UUID

from kit.money import BP, Money
from services.budgets import domain
from services.budgets.domain.budgets import BUDGET_TRANSITIONS, BudgetAction, BudgetState, OverspendPolicy
from services.budgets.domain.entries import AvailabilityVerdict, ChargeVerdict, EntryType
from services.budgets.errors.budgets import (
    ApprovalRequired,
    BudgetExceeded,
    BudgetRefusal,
    BudgetStateForbids,
    CurrencyMismatch,
    OutsidePeriod,
    PeriodLocked,
    UsedTooLarge,
)

ZERO: Final = Decimal(0)
NO_ID: Final = UUID(int=0)
LARGEST: Final = Decimal(10**14) - 1
"""The largest balance, 14 digits before the point; the limit of budgets whose policy sets none."""
UTILISATION_MAX_BP: Final = 2**31 - 1


class Terms(NamedTuple):
    """The definition of a budget, without its numbers."""

    tenant_id: UUID
    id: UUID
    entity_id: UUID
    department_id: UUID | None
    name: str
    state: BudgetState
    currency: str
    policy: OverspendPolicy
    tolerance_bp: int
    starts: datetime
    ends: datetime
    thresholds_bp: Sequence[int]
    period_start: date
    time_zone: str
    locked_until: datetime | None = None
    """The first time that no period lock covers; None without a lock."""


class Movement(NamedTuple):
    """A change of the numbers of a budget, in its currency."""

    spent: Decimal = ZERO
    held: Decimal = ZERO
    committed: Decimal = ZERO
    captured: Decimal = ZERO
    """The part of `spent` that was held before."""

    @property
    def used(self) -> Decimal:
        """Change of the used amount; negative for refunds and releases."""
        return self.spent + self.held + self.committed


class Balance(NamedTuple):
    """The numbers of a budget at one moment, in its currency."""

    terms: Terms
    amount: Decimal
    carried: Decimal
    """Carried forward from the previous period; negative if that was overspent."""
    spent: Decimal
    held: Decimal
    committed: Decimal
    captured: Decimal
    version: int
    """The number of ledger entries that have changed it."""

    @property
    def total(self) -> Decimal:
        """The amount plus the amount carried forward."""
        return self.amount + self.carried

    @property
    def used(self) -> Decimal:
        """What is spent, held or committed."""
        return self.spent + self.held + self.committed

    @property
    def available(self) -> Decimal:
        """What is left; below zero if it is overspent."""
        return self.amount + self.carried - self.spent - self.held - self.committed

    @property
    def utilisation_bp(self) -> int:
        """What is used as a share of the total, in basis points, rounded down; at most the largest int32.

        That largest number also if the budget is overspent by what was carried forward and nothing is used of it yet.
        """
        return UTILISATION_MAX_BP if self.total < 0 else self.share_bp(self.used)

    def share_bp(self, amount: Decimal) -> int:
        """Return an amount as a share of the total, in basis points, rounded down; at most the largest int32."""
        total = self.total
        if total <= 0:
            return UTILISATION_MAX_BP if amount > 0 else 0
        return min(int(amount * BP / total), UTILISATION_MAX_BP)

    @property
    def overspent(self) -> bool:
        """True if more is used than the total."""
        return self.available < 0

    @property
    def limit(self) -> Decimal:
        """The largest amount that the policy allows to be used, rounded down to the smallest unit of the currency."""
        policy = self.terms.policy
        if policy is OverspendPolicy.WARN:
            return LARGEST
        if policy is OverspendPolicy.ALLOW_WITHIN_TOLERANCE:
            return min(Money(self.total, self.terms.currency).share(BP + self.terms.tolerance_bp).amount, LARGEST)
        return self.total

    @property
    def beyond_policy(self) -> bool:
        """True if more is used than the policy allows; never of an unused budget, whatever was carried forward."""
        used = self.used
        return used > self.limit and used > 0

    def moved(self, movement: Movement) -> "Balance":
        """Return the balance after a movement."""
        return Balance(
            self.terms,
            self.amount,
            self.carried,
            self.spent + movement.spent,
            self.held + movement.held,
            self.committed + movement.committed,
            self.captured + movement.captured,
            self.version + 1,
        )

    def before_carrying(self, carried_forward: Decimal) -> "Balance":
        """Return the balance with what it has carried forward to the next period, as its own period had it."""
        return self._replace(carried=self.carried + carried_forward)

    def money(self, amount: Decimal) -> Money:
        """Return an amount in the currency of the budget."""
        return Money(amount, self.terms.currency)


@lru_cache(maxsize=50_000)
def _points(total: Decimal, thresholds_bp: tuple[int, ...]) -> list[Decimal]:
    return sorted(total * bp / BP for bp in thresholds_bp)


def quiet_range(balance: Balance) -> tuple[Decimal, Decimal]:
    """Return the half-open range [low, high) of `used` in which no further alert threshold is crossed.

    It saves the comparison with all thresholds on the hot path. No range extends across the total, where the OVERSPEND
    alert is raised or resolved.
    """
    total, used = balance.total, balance.used
    if total <= 0:
        return used, used
    points = _points(total, tuple(balance.terms.thresholds_bp))
    index = bisect_right(points, used)
    low = points[index - 1] if index else -LARGEST
    high = points[index] if index < len(points) else LARGEST
    return (low, min(high, total)) if used <= total else (used, high)


class Rule(NamedTuple):
    """What a type of entry requires of every budget of its chain."""

    action: BudgetAction
    timed: bool
    """True if its time must lie within the period."""


class Correction(NamedTuple):
    """A change of what a rolled-over budget has carried forward to the budget of its next period."""

    amount: Decimal
    """Below zero if less is carried forward."""
    closing: Balance
    """The rolled-over budget after the correction."""
    opened: Balance
    """The budget of its next period after the correction."""


RULES: Final[Mapping[EntryType, Rule]] = {
    EntryType.CHARGE: Rule(BudgetAction.CHARGE, timed=True),
    EntryType.HOLD: Rule(BudgetAction.RESERVE, timed=True),
    EntryType.COMMIT: Rule(BudgetAction.RESERVE, timed=False),
    EntryType.CAPTURE: Rule(BudgetAction.RESERVE, timed=True),
    EntryType.RELEASE: Rule(BudgetAction.RETURN, timed=False),
    EntryType.EXPIRE: Rule(BudgetAction.RETURN, timed=False),
    EntryType.REFUND: Rule(BudgetAction.RETURN, timed=False),
}
"""Rules of the entries that are posted to a chain; other entries record changes of the budgets themselves."""


class Decision(NamedTuple):
    """An accepted movement: the chain before and after it, from the budget itself upwards."""

    verdict: ChargeVerdict
    before: Sequence[Balance]
    after: Sequence[Balance]
    moved: Sequence[Balance]
    """The chain after the movement alone; differs from `after` by the corrections."""
    corrections: Sequence[Correction] = ()
    """In the order in which they are recorded."""


def decide(
    chain: Sequence[Balance], entry_type: EntryType, movement: Movement, at: datetime, *, approved: bool = False
) -> Decision:
    """Accept a movement with the time `at` for the whole chain, or refuse it for the whole chain.

    Raises BudgetStateForbids, OutsidePeriod, PeriodLocked, BudgetExceeded, UsedTooLarge or ApprovalRequired, each
    naming the budget of the chain that refuses it; of several without room, the one with the least. ApprovalRequired is
    raised only if approval would help, not if a hard limit refuses it as well. An `approved` movement passes budgets
    with policy REQUIRE_APPROVAL.
    """
    check_accepts(chain, entry_type, at)
    after = [balance.moved(movement) for balance in chain]
    return Decision(judge(after, movement.used, approved=approved), chain, after, after)


def check_accepts(chain: Sequence[Balance], entry_type: EntryType, at: datetime) -> None:
    """Raise an error unless the states, the periods and the period locks of all budgets allow the entry.

    That is BudgetStateForbids, OutsidePeriod or PeriodLocked.
    """
    rule = RULES[entry_type]
    action, timed = rule
    is_charge = entry_type is EntryType.CHARGE
    for balance in chain:
        terms = balance.terms
        if (terms.state, action) not in BUDGET_TRANSITIONS or (timed and not terms.starts <= at < terms.ends):
            _refuse(terms, rule, at)
        if is_charge and terms.locked_until is not None and at < terms.locked_until:
            raise PeriodLocked(terms.id, at=at, locked_until=terms.locked_until)


def judge(after: Sequence[Balance], requested: Decimal, *, approved: bool) -> ChargeVerdict:
    """Return the verdict on what leaves budgets like this, `requested` included.

    Raises BudgetExceeded, UsedTooLarge or ApprovalRequired if a budget has no room for it, unless `requested`, by which
    its use rose or its total fell, is zero or below.
    """
    increases = requested > 0
    overspent = False
    refusing: list[Balance] = []
    for left in after:
        below_zero = left.available < 0
        overspent = overspent or below_zero
        # A limit with a tolerance is rounded down and may be below the total; all others are at least the total.
        may_refuse = below_zero or left.terms.policy is OverspendPolicy.ALLOW_WITHIN_TOLERANCE
        if increases and may_refuse and left.beyond_policy:
            refusing.append(left)
    if refusing and approved:
        refusing = _hard(refusing)
    if refusing:
        raise _insufficient(refusing, requested)
    return ChargeVerdict.ACCEPTED_OVERSPENT if overspent else ChargeVerdict.ACCEPTED


def _refuse(terms: Terms, rule: Rule, at: datetime) -> None:
    """Raise BudgetStateForbids or OutsidePeriod."""
    domain.budgets.advance(terms.id, terms.state, rule.action)
    raise OutsidePeriod(terms.id, at=at, starts=terms.starts, ends=terms.ends)


def _hard(refusing: Sequence[Balance]) -> list[Balance]:
    """Return those to which an approval makes no difference."""
    return [
        left for left in refusing if left.terms.policy is not OverspendPolicy.REQUIRE_APPROVAL or left.used > LARGEST
    ]


def _insufficient(refusing: Sequence[Balance], requested: Decimal) -> BudgetExceeded | UsedTooLarge | ApprovalRequired:
    if hard := _hard(refusing):
        return exceeded(tightest(hard), requested)
    binding = tightest(refusing)
    return ApprovalRequired(binding.terms.id, binding.terms.name, **_shortfall(binding, requested))


def exceeded(left: Balance, requested: Decimal) -> BudgetExceeded | UsedTooLarge:
    """Return the refusal of `requested`, which would leave the budget like this, beyond what its policy allows."""
    terms = left.terms
    unlimited = terms.policy is OverspendPolicy.REQUIRE_APPROVAL or left.limit == LARGEST
    if not unlimited or left.used <= LARGEST:
        return BudgetExceeded(terms.id, terms.name, **_shortfall(left, requested))
    used, largest = left.money(left.used - requested), left.money(LARGEST)
    return UsedTooLarge(terms.id, terms.name, requested=left.money(requested), used=used, largest=largest)


def _shortfall(left: Balance, requested: Decimal) -> dict[str, Money]:
    return {
        "requested": left.money(requested),
        "available": left.money(left.limit - left.used + requested),
        "limit": left.money(left.total),
    }


def check_currency(balance: Balance, currency: str) -> None:
    """Raise CurrencyMismatch unless the budget is in `currency`. All budgets of a chain are in the same one."""
    if balance.terms.currency != currency:
        terms = balance.terms
        raise CurrencyMismatch(terms.id, given=currency, currency=terms.currency)


def tightest(balances: Iterable[Balance]) -> Balance:
    """Return the budget with the least room, the first of several. With policy WARN, the room is what is left."""
    return min(balances, key=_room)


def _room(balance: Balance) -> Decimal:
    only_warns = balance.terms.policy is OverspendPolicy.WARN
    return balance.available if only_warns else balance.limit - balance.used


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a charge would be accepted, and why."""

    verdict: AvailabilityVerdict
    binding: UUID | None
    """None if the caller may not see it."""
    explained: UUID
    """The budget that `explanation` names: the binding one, or one of a later period that refuses the charge."""
    before: Sequence[Balance]
    after: Sequence[Balance]
    explanation: str
    by_policy: Mapping[OverspendPolicy, AvailabilityVerdict]
    """The verdict for each policy of the binding budget, if no other budget refused the charge."""
    corrections: Sequence[Correction] = ()
    """How the charge would correct what was carried forward."""
    hidden: Collection[UUID] = ()
    """Budgets of the chain that the caller may not see."""


REFUSALS: Final[Mapping[type[BudgetRefusal], AvailabilityVerdict]] = {
    BudgetStateForbids: AvailabilityVerdict.NOT_ACTIVE,
    OutsidePeriod: AvailabilityVerdict.OUTSIDE_PERIOD,
    PeriodLocked: AvailabilityVerdict.PERIOD_LOCKED,
    UsedTooLarge: AvailabilityVerdict.EXCEEDED,
    BudgetExceeded: AvailabilityVerdict.EXCEEDED,  # the last one of a verdict has the text for budgets above
    ApprovalRequired: AvailabilityVerdict.APPROVAL_REQUIRED,
}


Decide = Callable[[Sequence[Balance], EntryType, Movement, datetime], Decision]


def availability(chain: Sequence[Balance], amount: Decimal, at: datetime, decide: Decide = decide) -> Availability:
    """Return what `decide` would decide on a charge, and why."""
    charge = Movement(spent=amount)
    corrections: Sequence[Correction] = ()
    try:
        decision = decide(chain, EntryType.CHARGE, charge, at)
    except tuple(REFUSALS) as refusal:
        verdict, text, explained = REFUSALS[type(refusal)], refusal.message, refusal.id
        after: Sequence[Balance] = [balance.moved(charge) for balance in chain]
        # A budget of a later period may refuse it, outside of the chain; the budget of the charge is binding then.
        binding = next((balance for balance in after if balance.terms.id == explained), after[0])
    else:
        after, corrections = decision.after, decision.corrections
        binding = tightest(after)
        explained = binding.terms.id
        left = binding.money(binding.available)
        if decision.verdict is ChargeVerdict.ACCEPTED_OVERSPENT:
            verdict = AvailabilityVerdict.AVAILABLE_OVERSPENT
            text = f"It would be accepted and leave the budget {binding.terms.name!r} overspent by {-left}."
        else:
            verdict = AvailabilityVerdict.AVAILABLE
            text = f"It would be accepted; the budget {binding.terms.name!r} would have {left} left."
    return Availability(verdict, binding.terms.id, explained, chain, after, text, by_policy(binding), corrections)


def by_policy(after: Balance) -> Mapping[OverspendPolicy, AvailabilityVerdict]:
    """Return the verdict that each policy would have on the balance after a charge."""
    if not after.overspent:
        return dict.fromkeys(OverspendPolicy, AvailabilityVerdict.AVAILABLE)
    if after.used > LARGEST:
        return dict.fromkeys(OverspendPolicy, AvailabilityVerdict.EXCEEDED)
    tolerated = after.used <= after.money(after.total).share(BP + after.terms.tolerance_bp).amount
    return {
        OverspendPolicy.BLOCK: AvailabilityVerdict.EXCEEDED,
        OverspendPolicy.WARN: AvailabilityVerdict.AVAILABLE_OVERSPENT,
        OverspendPolicy.ALLOW_WITHIN_TOLERANCE: (
            AvailabilityVerdict.AVAILABLE_OVERSPENT if tolerated else AvailabilityVerdict.EXCEEDED
        ),
        OverspendPolicy.REQUIRE_APPROVAL: AvailabilityVerdict.APPROVAL_REQUIRED,
    }
