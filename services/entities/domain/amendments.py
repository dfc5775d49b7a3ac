"""The rules of amendments: states, what they change of a contract's terms, and what that does to its fees."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from itertools import islice, zip_longest
from typing import Any, Final, TypeAlias
from uuid import UUID

from kit import resources
from kit.money import Money
from services.entities import domain
from services.entities.domain.contracts import BillingFrequency, ContractTerms, Phase
from services.entities.domain.fees import BillingPeriod, FeePlan
from services.entities.domain.flaws import Flaw
from services.entities.domain.proration import Days
from services.entities.errors.amendments import AmendmentOutsideTerm, AmendmentStale, AmendmentStateForbids

FEES_SHOWN: Final = 60
"""Most billing periods that an amendment shows the fees of."""
_EVERGREEN_MONTHS_SHOWN: Final = 12


class AmendmentType(StrEnum):
    """Amendment.Type."""

    PRICE = "PRICE"
    TERM = "TERM"
    SEATS = "SEATS"
    SCOPE = "SCOPE"
    OTHER = "OTHER"


class AmendmentState(StrEnum):
    """Amendment.State."""

    DRAFT = "DRAFT"
    APPROVED = "APPROVED"
    APPLIED = "APPLIED"
    REJECTED = "REJECTED"


class AmendmentAction(StrEnum):
    """What is done to an amendment; the value is how it reads in a sentence."""

    APPROVE = "approved"
    APPLY = "applied"
    REJECT = "rejected"


AMENDMENT_TRANSITIONS: Final[Mapping[tuple[AmendmentState, AmendmentAction], AmendmentState]] = {
    (AmendmentState.DRAFT, AmendmentAction.APPROVE): AmendmentState.APPROVED,
    (AmendmentState.DRAFT, AmendmentAction.REJECT): AmendmentState.REJECTED,
    (AmendmentState.APPROVED, AmendmentAction.APPLY): AmendmentState.APPLIED,
    (AmendmentState.APPROVED, AmendmentAction.REJECT): AmendmentState.REJECTED,
}
"""The whole life of an amendment; what is not here is not allowed."""


def advance_amendment(amendment_id: UUID, state: AmendmentState, action: AmendmentAction) -> AmendmentState:
    """The state after `action`; raises AmendmentStateForbids naming the states in which it is allowed."""
    return resources.advance(AMENDMENT_TRANSITIONS, amendment_id, state, action, AmendmentStateForbids)


Changes: TypeAlias = Mapping[str, Any]
"""Terms by name: those of ContractTerms, and for `phases` what each begins with and what follows.

fee      what a billing period costs from the effective date on; of a one-time contract, what it costs in all
phases   the phases after that; given wherever `fee` is, since a new fee replaces all that came after its day
"""

_NEEDED: Final[Mapping[AmendmentType, frozenset[str]]] = {
    AmendmentType.PRICE: frozenset({"fee"}),
    AmendmentType.TERM: frozenset({"end_date"}),
    AmendmentType.SEATS: frozenset({"seats"}),
    AmendmentType.SCOPE: frozenset({"license_tier", "sla_terms", "minimum_commitment"}),
    AmendmentType.OTHER: frozenset(),
}
"""Of these terms an amendment of the type changes one at least; it may change others along with it."""


def terms_now(terms: ContractTerms, names: Collection[str], effective: date) -> Changes:
    """What the named terms are before an amendment takes effect."""
    plan = domain.fees.plan_of(terms)
    later = () if terms.billing_frequency is BillingFrequency.ONE_TIME else plan.phases
    of_fees = {
        "fee": domain.fees.fee_on(plan, effective),
        "phases": tuple(phase for phase in later if phase.start_date > effective),
    }
    return {name: of_fees[name] if name in of_fees else getattr(terms, name) for name in names}


def amended(terms: ContractTerms, after: Changes, effective: date) -> ContractTerms:
    """The terms as they are once the changes have taken effect; the total value follows the fees."""
    others = {name: value for name, value in after.items() if name not in {"fee", "phases"}}
    if terms.billing_frequency is BillingFrequency.ONE_TIME:
        return replace(terms, **others, total_value=after.get("fee", terms.total_value))
    before = domain.fees.plan_of(terms)
    phases = terms.phases
    if "fee" in after:
        kept = (phase for phase in before.phases if phase.start_date < effective)
        phases = (*kept, Phase(effective, after["fee"]), *after["phases"])
    elif "end_date" in after:  # the fees stay as they are, and are not spread over another term
        end = after["end_date"]
        phases = tuple(phase for phase in before.phases if end is None or phase.start_date < end)
    changed = replace(terms, **others, phases=phases)
    return (
        changed
        if phases == terms.phases and changed.end_date == terms.end_date
        else _revalued(terms, changed, effective)
    )


def _revalued(terms: ContractTerms, changed: ContractTerms, effective: date) -> ContractTerms:
    before, after = domain.fees.plan_of(terms), domain.fees.plan_of(changed)
    total = domain.fees.value_of(after, effective)
    if bool(before.end) == bool(after.end):
        # What was agreed need not be the sum of the fees; it changes by as much as they do.
        total = terms.total_value + total - domain.fees.value_of(before, effective)
    return replace(changed, total_value=max(total, Money.zero(total.currency)))


def change_flaws(amendment_type: AmendmentType, after: Changes, terms: ContractTerms) -> Iterator[Flaw]:
    """What is wrong with the changes of a contract before anything is worked out of them."""
    needed = sorted(_NEEDED[amendment_type])
    if needed and not after.keys() & needed:
        told = f"one of {', '.join(needed)} must be changed by an amendment of the type {amendment_type}"
        yield Flaw(needed[0], told, "amendment.type")
    elif not after:
        yield Flaw("", "must change something", "amendment.empty")
    if after.get("phases") and "fee" not in after:
        yield Flaw("phases", "needs fee, the one that they follow", "amendment.phases")
    if after.get("phases") and terms.billing_frequency is BillingFrequency.ONE_TIME:
        yield Flaw("phases", "what is billed once has no phases", "amendment.phases")
    currency = terms.total_value.currency
    fees = [("fee", after["fee"])] if "fee" in after else []
    fees += [(f"phases[{place}].fee", phase.fee) for place, phase in enumerate(after.get("phases", ()))]
    for field, fee in fees:
        if fee.currency != currency:
            yield Flaw(
                f"{field}.currency_code", f"must be the currency of the contract, {currency}", "amendment.currency"
            )
        if fee.amount < 0:
            yield Flaw(f"{field}.amount", "must not be below zero", "amendment.value")


def check_effective(
    contract_id: UUID, terms: ContractTerms, after: Changes, termination_date: date | None, effective: date
) -> None:
    """Raise AmendmentOutsideTerm where the contract does not hold on the day, before the changes or with them."""
    end = domain.contracts.last_day_without(
        domain.contracts.last_day_without(termination_date, terms.end_date), after.get("end_date")
    )
    if effective < terms.start_date or (end and effective >= end):
        raise AmendmentOutsideTerm(contract_id, effective=effective, start=terms.start_date, end=end)


def check_still(amendment_id: UUID, before: Changes, terms: ContractTerms, effective: date) -> None:
    """Raise AmendmentStale where a term that is changed is not any more what it was when that was agreed."""
    now = terms_now(terms, before.keys(), effective)
    stale = sorted(name for name, value in before.items() if now[name] != value)
    if stale:
        raise AmendmentStale(amendment_id, stale)


@dataclass(frozen=True, slots=True)
class AmendedFee:
    """What a billing period costs before and after."""

    number: int
    days: Days
    old: Money
    new: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What an amendment does to the fees of a contract."""

    period: Days
    """The billing period in which it takes effect."""
    old_part: Money
    """What the days from the effective date to the end of that period cost before."""
    new_part: Money
    fees: tuple[AmendedFee, ...]
    """Of that period and those after it, at most FEES_SHOWN; of a contract without an end, of a year."""
    old_total: Money
    new_total: Money


def effect_of(terms: ContractTerms, changed: ContractTerms, termination_date: date | None, effective: date) -> Effect:
    """What it does to the fees that the terms become others on the day, which lies within the contract."""
    old, new = domain.fees.plan_of(terms, termination_date), domain.fees.plan_of(changed, termination_date)
    fees = tuple(islice(_amended_fees(old, new, effective), FEES_SHOWN))
    period = fees[0].days
    rest = Days(effective, period.end)
    one_time = terms.billing_frequency is BillingFrequency.ONE_TIME
    return Effect(
        period=period,
        old_part=fees[0].old if one_time else domain.fees.accrue(old, rest),
        new_part=fees[0].new if one_time else domain.fees.accrue(new, rest),
        fees=fees,
        old_total=terms.total_value,
        new_total=changed.total_value,
    )


def _amended_fees(old: FeePlan, new: FeePlan, effective: date) -> Iterator[AmendedFee]:
    """Both plans count from the same day: periods with one number have the same days, but for the contract's end."""
    for before, after in zip_longest(
        domain.fees.periods_from(old, effective), domain.fees.periods_from(new, effective)
    ):
        longer = max((period for period in (before, after) if period), key=lambda period: period.days.end)
        evergreen = old.end is None or new.end is None
        if evergreen and longer.days.start >= domain.proration.months_later(effective, _EVERGREEN_MONTHS_SHOWN):
            return
        yield AmendedFee(longer.number, longer.days, _fee_or_none(old, before), _fee_or_none(new, after))


def _fee_or_none(plan: FeePlan, period: BillingPeriod | None) -> Money:
    return domain.fees.fee_of(plan, period) if period else Money.zero(plan.currency)
