"""Fee schedule of a contract: which amounts fall due on which day.

A fee is charged per billing period and falls due on its first day. Billing periods are counted from the start date of
the contract and begin on its anchor day, which a renewal keeps: after 30 November comes 31 December if the first
contract began on a 31st. If the contract ends within a period, the fee of that period is prorated by days. If a new
phase begins within a period, the difference for the rest of the period falls due on that day; it is a credit if the fee
drops. If the contract is extended beyond an end within a period that has begun, the fee for the further days of that
period falls due on the former end date. A ONE_TIME fee belongs to no period and falls due in full on the first day.

Without phases the total value is spread evenly: every billing period costs the same, rounded down, and the last period
includes the remainder. The total value of an evergreen contract is that of a year, so the last period of each year
includes it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from fractions import Fraction
from itertools import count
from typing import Final

from kit.dates import months_later
from kit.money import Money
from services.entities import domain
from services.entities.domain.contracts import BillingFrequency, ContractTerms, Phase
from services.entities.domain.field_violations import FieldViolation
from services.entities.domain.proration import DateRange, FeeInterval

HORIZON: Final = date(2200, 1, 1)
"""End of the fee schedule of evergreen contracts; all dates of contracts are before it."""

_MONTHS: Final[Mapping[BillingFrequency, int]] = {
    BillingFrequency.MONTHLY: 1,
    BillingFrequency.QUARTERLY: 3,
    BillingFrequency.ANNUAL: 12,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeePlan:
    """Everything that determines the fees of a contract."""

    frequency: BillingFrequency
    currency: str
    start: date
    end: date | None
    """The first day without fees; None: open-ended."""
    phases: Sequence[Phase]
    """Ordered by start date; the first begins on the start date of the contract."""
    anchor_day: int
    """Day of the month on which billing periods begin."""
    remainder: Money
    """The part of the total value that is left after it was spread evenly."""
    remainder_every: int = 0
    """Every n-th billing period includes the remainder; 0: none does."""
    remainders: Mapping[int, Money] = field(default_factory=dict)
    """Remainders of single billing periods by their number, kept from before an amendment."""
    former_ends: Sequence[date] = ()
    """Earlier end dates of an extended contract, within billing periods that had begun; ascending."""

    @property
    def schedule_end(self) -> date:
        """The first day after the fee schedule: the end of the contract, at most HORIZON."""
        return min(self.end or HORIZON, HORIZON)


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """A billing period of a contract; `number` counts from 1 at the start of the contract."""

    number: int
    full: DateRange
    """The period as the billing frequency defines it."""
    dates: DateRange
    """The days of the period before the end of the contract."""


@dataclass(frozen=True, slots=True)
class Fee:
    """An amount that falls due for a billing period; below zero it is a credit."""

    due_date: date
    amount: Money


def build_plan(terms: ContractTerms, termination_date: date | None = None) -> FeePlan:
    """Return the fee plan of a contract with these terms that ends early if `termination_date` is given."""
    plan = FeePlan(
        frequency=terms.billing_frequency,
        currency=terms.total_value.currency,
        start=terms.start_date,
        end=terms.end_date,
        anchor_day=domain.contracts.anchor_day_on(terms.start_date, terms),
        phases=terms.phases or (Phase(terms.start_date, terms.total_value),),
        remainder=Money.zero(terms.total_value.currency),
        former_ends=terms.former_ends,
    )
    if not terms.phases and terms.billing_frequency is not BillingFrequency.ONE_TIME:
        plan = _spread_evenly(plan, terms.total_value)
    end = domain.contracts.effective_end(termination_date, terms.end_date)
    if end is None or end == plan.end:
        return replace(plan, end=end, remainders=dict(terms.remainders))
    # A contract that is terminated early never reaches the last period, which takes the remainder.
    return replace(
        plan,
        end=end,
        remainder_every=0 if plan.end else plan.remainder_every,
        remainders={number: amount for number, amount in terms.remainders if _full_dates(plan, number).end <= end},
    )


def remainders_until(plan: FeePlan, day: date | None) -> Iterator[tuple[int, Money]]:
    """Yield the remainders of the billing periods that end by `day`; by the end of the contract without `day`.

    An evergreen contract has no end, so it needs a day. Raises ValueError without one.
    """
    until = domain.contracts.effective_end(day, plan.end)
    if until is None:
        raise ValueError("the remainders of an evergreen contract have no end")
    if plan.frequency is BillingFrequency.ONE_TIME:
        return
    for period in periods_from(plan, plan.start):
        if period.dates.end > until:
            return
        remainder = _remainder(plan, period)
        if remainder.amount:
            yield period.number, remainder


def _spread_evenly(plan: FeePlan, total: Money) -> FeePlan:
    until = plan.end or months_later(plan.start, 12, plan.anchor_day)
    periods = list(periods_from(replace(plan, end=until), plan.start))
    weight = sum((Fraction(period.dates.days, period.full.days) for period in periods), Fraction(0))
    fee = domain.proration.round_down(Fraction(total.amount) / weight, plan.currency)
    level = replace(plan, phases=(Phase(plan.start, fee),))
    spread = sum((period_fee(level, period) for period in periods), Money.zero(plan.currency))
    return replace(level, remainder=total - spread, remainder_every=len(periods))


def periods_from(plan: FeePlan, day: date) -> Iterator[BillingPeriod]:
    """Yield the billing periods in order, from the one that contains `day` (or the first one) to the contract's end."""
    if plan.frequency is BillingFrequency.ONE_TIME:
        term = DateRange(plan.start, plan.schedule_end)
        periods: Iterator[BillingPeriod] = iter([BillingPeriod(1, term, term)])
    else:
        periods = _calendar(plan, day)
    return (period for period in periods if period.dates.end > day)


def _calendar(plan: FeePlan, day: date) -> Iterator[BillingPeriod]:
    months = _MONTHS[plan.frequency]
    passed = ((day.year - plan.start.year) * 12 + day.month - plan.start.month) // months
    for index in count(max(passed - 1, 0)):
        full = _full_dates(plan, index + 1)
        if full.start >= plan.schedule_end:
            return
        yield BillingPeriod(index + 1, full, full.before(plan.schedule_end))


def _full_dates(plan: FeePlan, number: int) -> DateRange:
    """Return the days of a billing period as the billing frequency defines it."""
    months = _MONTHS[plan.frequency]
    start, end = (months_later(plan.start, count * months, plan.anchor_day) for count in (number - 1, number))
    return DateRange(start, end)


def fee_on(plan: FeePlan, day: date) -> Money:
    """Return the fee of a full billing period in the phase that applies on `day`."""
    return next((phase.fee for phase in reversed(plan.phases) if phase.start_date <= day), Money.zero(plan.currency))


def period_fee(plan: FeePlan, period: BillingPeriod) -> Money:
    """Return the whole fee of a billing period, including differences that fall due within it."""
    return _fee_until(plan, period, period.dates.end)


def _fee_until(plan: FeePlan, period: BillingPeriod, until: date) -> Money:
    """Return the part of a period's fee for its days before `until`.

    A ONE_TIME fee counts on the first day, the remainder of the total value on the last one.
    """
    if plan.frequency is BillingFrequency.ONE_TIME:
        return fee_on(plan, period.dates.start) if until > period.dates.start else Money.zero(plan.currency)
    fee = domain.proration.accrued(_fee_intervals(plan.phases, period), period.full, until, plan.currency)
    return fee + _remainder(plan, period) if until >= period.dates.end else fee


def _remainder(plan: FeePlan, period: BillingPeriod) -> Money:
    if plan.remainder_every and period.number % plan.remainder_every == 0:
        return plan.remainder
    return plan.remainders.get(period.number, Money.zero(plan.currency))


def _fee_intervals(phases: Sequence[Phase], period: BillingPeriod) -> Iterator[FeeInterval]:
    """Yield the days of the period on which each phase applies."""
    ends = [*(phase.start_date for phase in phases[1:]), period.dates.end]
    for phase, end in zip(phases, ends, strict=True):
        dates = period.dates.intersection(DateRange(phase.start_date, end))
        if dates.days:
            yield FeeInterval(dates, phase.fee.amount)


def _period_fees_due(plan: FeePlan, period: BillingPeriod) -> Iterator[Fee]:
    """Yield the fees due for a period: on its first day, and on the first day of each phase or extension within it."""
    if plan.frequency is BillingFrequency.ONE_TIME:
        yield Fee(period.dates.start, period_fee(plan, period))
        return
    due_so_far = -_remainder(plan, period)
    extended = [day for day in plan.former_ends if period.dates.start < day < period.dates.end]
    starts = [phase.start_date for phase in plan.phases if period.dates.start < phase.start_date < period.dates.end]
    for day in sorted({period.dates.start, *starts, *extended}):
        begun = [phase for phase in plan.phases if phase.start_date <= day]
        until = next((end for end in extended if end > day), period.dates.end)
        due = domain.proration.accrued(_fee_intervals(begun, period), period.full, until, plan.currency)
        yield Fee(day, due - due_so_far)
        due_so_far = due


def fees_due(plan: FeePlan, dates: DateRange) -> Iterator[Fee]:
    """Yield the fees that fall due on these days, in date order, without those of zero."""
    for period in periods_from(plan, dates.start):
        if period.dates.start >= dates.end:
            return
        for fee in _period_fees_due(plan, period):
            if dates.start <= fee.due_date < dates.end and fee.amount.amount:
                yield fee


def total_due(plan: FeePlan, until: date) -> Money:
    """Return the sum of the fees that fall due before `until`."""
    due = fees_due(plan, DateRange(plan.start, until))
    return sum((fee.amount for fee in due), Money.zero(plan.currency))


def accrue(plan: FeePlan, dates: DateRange) -> Money:
    """Return the fees for these days, regardless of when they fall due.

    Adjacent ranges sum to the amount of their union.
    """
    total = Money.zero(plan.currency)
    for period in periods_from(plan, dates.start):
        if period.dates.start >= dates.end:
            break
        shared = period.dates.intersection(dates)
        total += _fee_until(plan, period, shared.end) - _fee_until(plan, period, shared.start)
    return total


def term_value(plan: FeePlan, day: date) -> Money:
    """Return the value of the whole term; of an evergreen contract, that of the year from `day` on."""
    if plan.end:
        return total_due(plan, plan.end)
    return accrue(plan, DateRange(day, months_later(day, 12)))


def value_violations(terms: ContractTerms) -> Iterator[FieldViolation]:
    """Yield a violation if the total value of a new contract is not the sum of the fees of its phases.

    The terms must be consistent otherwise.
    """
    if terms.phases:
        total = term_value(build_plan(terms), terms.start_date)
        if terms.total_value != total:
            value = "of the term" if terms.end_date else "of the first year"
            text = f"must be {total}, the sum of the fees {value} that the phases result in"
            yield FieldViolation("total_value.amount", text, "contract.value")


def date_reached(plan: FeePlan, amount: Money) -> date | None:
    """Return the first day on which the fees due so far sum to `amount` or more; None if they never do."""
    due = Money.zero(plan.currency)
    for fee in fees_due(plan, DateRange(plan.start, plan.schedule_end)):
        due += fee.amount
        if amount <= due:
            return fee.due_date
    return None
