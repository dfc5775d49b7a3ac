"""Which fees of a contract fall due on which day.

A fee is for a billing period and falls due on its first day. Billing periods are counted from the contract's start.
Where the contract ends inside one, its fee is the part for the days until then. Where another phase begins inside
one, the difference for the rest of the period falls due on that day, as a credit where the fee becomes lower.
What is billed once is for no period: it falls due in full on the first day.

Without phases the total value is spread evenly: every billing period costs the same, rounded down, and the last one
takes what remains. The total value of an evergreen contract is a year's, so there the last one of each year takes it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from fractions import Fraction
from itertools import count
from typing import Final

from kit.money import Money
from services.entities import domain
from services.entities.domain.contracts import BillingFrequency, ContractTerms, Phase
from services.entities.domain.proration import Days, Stretch

HORIZON: Final = date(2200, 1, 1)
"""No fee of a contract without an end is looked for from here on; the dates of contracts lie before it."""

_MONTHS: Final[Mapping[BillingFrequency, int]] = {
    BillingFrequency.MONTHLY: 1,
    BillingFrequency.QUARTERLY: 3,
    BillingFrequency.ANNUAL: 12,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeePlan:
    """All that the fees of a contract follow from."""

    frequency: BillingFrequency
    currency: str
    start: date
    end: date | None
    """The first day without fees; None: there is none."""
    phases: Sequence[Phase]
    """In the order of their days, the first one on the first day of the contract."""
    remainder: Money
    """What remains of the total value, after it was spread evenly."""
    remainder_every: int = 0
    """The period with this number takes the remainder, and each that is a multiple of it; 0: there is none."""

    @property
    def limit(self) -> date:
        """The day from which on no fee is looked for."""
        return min(self.end or HORIZON, HORIZON)


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """What a fee is for; `number` counts from the contract's start, the first being 1."""

    number: int
    whole: Days
    """As long as the billing frequency says."""
    days: Days
    """Those until the contract's end."""


@dataclass(frozen=True, slots=True)
class Fee:
    """What falls due on a day: for a billing period or, after its first day, for the rest of one."""

    due_date: date
    amount: Money
    period: BillingPeriod


def plan_of(terms: ContractTerms, termination_date: date | None = None) -> FeePlan:
    """The fees of a contract on these terms, which somebody may have terminated before its end."""
    plan = FeePlan(
        frequency=terms.billing_frequency,
        currency=terms.total_value.currency,
        start=terms.start_date,
        end=terms.end_date,
        phases=terms.phases or (Phase(terms.start_date, terms.total_value),),
        remainder=Money.zero(terms.total_value.currency),
    )
    if not terms.phases and terms.billing_frequency is not BillingFrequency.ONE_TIME:
        plan = _spread_evenly(plan, terms.total_value)
    end = domain.contracts.last_day_without(termination_date, terms.end_date)
    # Who terminates before the end does not come to the last period, whose remainder it is.
    return replace(plan, end=end, remainder_every=plan.remainder_every if end == plan.end or not plan.end else 0)


def _spread_evenly(plan: FeePlan, total: Money) -> FeePlan:
    until = plan.end or domain.proration.months_later(plan.start, 12)
    periods = list(periods_from(replace(plan, end=until), plan.start))
    weight = sum((Fraction(period.days.count, period.whole.count) for period in periods), Fraction(0))
    fee = domain.proration.rounded_down(Fraction(total.amount) / weight, plan.currency)
    level = replace(plan, phases=(Phase(plan.start, fee),))
    spread = sum((fee_of(level, period) for period in periods), Money.zero(plan.currency))
    return replace(level, remainder=total - spread, remainder_every=len(periods))


def periods_from(plan: FeePlan, day: date) -> Iterator[BillingPeriod]:
    """The billing periods until the contract's end, in their order, from the one in which `day` is, or the first."""
    if plan.frequency is BillingFrequency.ONE_TIME:
        term = Days(plan.start, plan.limit)
        found: Iterator[BillingPeriod] = iter([BillingPeriod(1, term, term)])
    else:
        found = _calendar(plan, day)
    return (period for period in found if period.days.end > day)


def _calendar(plan: FeePlan, day: date) -> Iterator[BillingPeriod]:
    months = _MONTHS[plan.frequency]
    passed = ((day.year - plan.start.year) * 12 + day.month - plan.start.month) // months
    for number in count(max(passed - 1, 0)):
        start = domain.proration.months_later(plan.start, number * months)
        if start >= plan.limit:
            return
        whole = Days(start, domain.proration.months_later(plan.start, (number + 1) * months))
        yield BillingPeriod(number + 1, whole, whole.before(plan.limit))


def fee_on(plan: FeePlan, day: date) -> Money:
    """What a billing period costs by the phase that holds on the day."""
    return next((phase.fee for phase in reversed(plan.phases) if phase.start_date <= day), Money.zero(plan.currency))


def fee_of(plan: FeePlan, period: BillingPeriod) -> Money:
    """The whole fee for the days of a billing period, with the differences that fall due inside it."""
    return _fee_until(plan, period, period.days.end)


def _fee_until(plan: FeePlan, period: BillingPeriod, until: date) -> Money:
    """What of a period's fee is for its days before `until`.

    What is billed once is for the first day, and what remains of a total value for the last one.
    """
    if plan.frequency is BillingFrequency.ONE_TIME:
        return fee_on(plan, period.days.start) if until > period.days.start else Money.zero(plan.currency)
    of_days = domain.proration.accrued(_stretches(plan.phases, period), period.whole, until, plan.currency)
    return of_days + _remainder(plan, period) if until >= period.days.end else of_days


def _remainder(plan: FeePlan, period: BillingPeriod) -> Money:
    takes_it = plan.remainder_every and period.number % plan.remainder_every == 0
    return plan.remainder if takes_it else Money.zero(plan.currency)


def _stretches(phases: Sequence[Phase], period: BillingPeriod) -> Iterator[Stretch]:
    """The days of the period on which each phase holds."""
    ends = [*(later.start_date for later in phases[1:]), period.days.end]
    for phase, end in zip(phases, ends, strict=True):
        days = period.days.shared(Days(phase.start_date, end))
        if days.count:
            yield Stretch(days, phase.fee.amount)


def fees_of(plan: FeePlan, period: BillingPeriod) -> Iterator[Fee]:
    """What falls due for a billing period: on its first day, and wherever another phase begins inside it."""
    if plan.frequency is BillingFrequency.ONE_TIME:
        yield Fee(period.days.start, fee_of(plan, period), period)
        return
    due_so_far = -_remainder(plan, period)
    inside = (phase.start_date for phase in plan.phases if period.days.start < phase.start_date < period.days.end)
    for day in (period.days.start, *inside):
        known = [phase for phase in plan.phases if phase.start_date <= day]
        due = domain.proration.accrued(_stretches(known, period), period.whole, period.days.end, plan.currency)
        yield Fee(day, due - due_so_far, period)
        due_so_far = due


def find_fees(plan: FeePlan, days: Days) -> Iterator[Fee]:
    """The fees that fall due on the days, in the order of the calendar; what is free is left out."""
    for period in periods_from(plan, days.start):
        if period.days.start >= days.end:
            return
        for fee in fees_of(plan, period):
            if days.start <= fee.due_date < days.end and fee.amount.amount:
                yield fee


def sum_fees(plan: FeePlan, until: date) -> Money:
    """What falls due from the contract's start up to, and without, `until`."""
    due = find_fees(plan, Days(plan.start, until))
    return sum((fee.amount for fee in due), Money.zero(plan.currency))


def accrue(plan: FeePlan, days: Days) -> Money:
    """What of the fees is for the days, whenever it falls due: wherever a time is cut, its parts sum to the whole."""
    total = Money.zero(plan.currency)
    for period in periods_from(plan, days.start):
        if period.days.start >= days.end:
            break
        cut = period.days.shared(days)
        total += _fee_until(plan, period, cut.end) - _fee_until(plan, period, cut.start)
    return total


def value_of(plan: FeePlan, day: date) -> Money:
    """What the whole term is worth; of an evergreen contract, the year from `day` on."""
    return sum_fees(plan, plan.end) if plan.end else accrue(plan, Days(day, domain.proration.months_later(day, 12)))


def day_reaching(plan: FeePlan, amount: Money) -> date | None:
    """The day on which the fees that have fallen due first come to `amount` or more; None: never."""
    due = Money.zero(plan.currency)
    for fee in find_fees(plan, Days(plan.start, plan.limit)):
        due += fee.amount
        if amount <= due:
            return fee.due_date
    return None
