"""Amendments: states, input types, and what they change of the terms and fees of a contract."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum
from itertools import islice, zip_longest
from typing import Any, Final, TypeAlias
from uuid import UUID

from kit import resources
from kit.dates import months_later
from kit.money import Money
from services.entities import domain
from services.entities.domain.contracts import BillingFrequency, ContractTerms, Phase
from services.entities.domain.fees import BillingPeriod, FeePlan
from services.entities.domain.field_violations import FieldViolation
from services.entities.domain.proration import DateRange
from services.entities.errors.amendments import AmendmentOutsideTerm, AmendmentStale, AmendmentStateForbids
from services.entities.errors.contracts import ContractIsTerminated

EFFECTIVE_TIMER: Final = "amendment"
"""Kind of the timers that apply an approved amendment when its effective date begins."""

PERIODS_MAX: Final = 60
"""The most billing periods whose fees an amendment lists."""
_EVERGREEN_MONTHS: Final = 12


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
    """Actions on an amendment; the value is the past participle used in error messages."""

    APPROVE = "approved"
    APPLY = "applied"
    REJECT = "rejected"


AMENDMENT_TRANSITIONS: Final[Mapping[tuple[AmendmentState, AmendmentAction], AmendmentState]] = {
    (AmendmentState.DRAFT, AmendmentAction.APPROVE): AmendmentState.APPROVED,
    (AmendmentState.DRAFT, AmendmentAction.REJECT): AmendmentState.REJECTED,
    (AmendmentState.APPROVED, AmendmentAction.APPLY): AmendmentState.APPLIED,
    (AmendmentState.APPROVED, AmendmentAction.REJECT): AmendmentState.REJECTED,
}
"""The complete life cycle of an amendment. Every pair that is not listed is forbidden."""


def advance(amendment_id: UUID, state: AmendmentState, action: AmendmentAction) -> AmendmentState:
    """Return the state after `action`. Raises AmendmentStateForbids, which names the states that allow it."""
    return resources.advance(AMENDMENT_TRANSITIONS, amendment_id, state, action, AmendmentStateForbids)


TermValues: TypeAlias = Mapping[str, Any]
"""Values of terms by name. Besides the fields of ContractTerms:

fee      the fee of a billing period from the effective date on; of a ONE_TIME contract, the total
phases   the phases that follow `fee`; present whenever `fee` is, since a new fee replaces all later phases
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AmendmentDraft:
    """An amendment to be created."""

    amendment_type: AmendmentType
    effective_date: date
    after: TermValues
    """The new values of the terms that change."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AmendmentFilter:
    """Filters of ListAmendments; None matches every amendment."""

    state: AmendmentState | None = None
    amendment_type: AmendmentType | None = None


_REQUIRED_TERMS: Final[Mapping[AmendmentType, frozenset[str]]] = {
    AmendmentType.PRICE: frozenset({"fee"}),
    AmendmentType.TERM: frozenset({"end_date"}),
    AmendmentType.SEATS: frozenset({"seats"}),
    AmendmentType.SCOPE: frozenset({"license_tier", "sla_terms", "minimum_commitment"}),
    AmendmentType.OTHER: frozenset(),
}
"""An amendment of the type changes at least one of these terms; it may change others as well."""


def with_phases(after: TermValues) -> TermValues:
    """Return the changes with `phases` set wherever `fee` is: a new fee replaces all later phases."""
    return {**after, "phases": after.get("phases", ())} if "fee" in after else after


def current_values(terms: ContractTerms, names: Collection[str], effective: date) -> TermValues:
    """Return the values of the named terms just before an amendment takes effect on the day."""
    plan = domain.fees.build_plan(terms)
    phases = () if terms.billing_frequency is BillingFrequency.ONE_TIME else plan.phases
    fees = {
        "fee": domain.fees.fee_on(plan, effective),
        "phases": tuple(phase for phase in phases if phase.start_date > effective),
    }
    return {name: fees[name] if name in fees else getattr(terms, name) for name in names}


def amend(terms: ContractTerms, after: TermValues, effective: date) -> ContractTerms:
    """Return the terms with the changes applied; the total value changes with the fees."""
    others = {name: value for name, value in after.items() if name not in {"fee", "phases"}}
    if terms.billing_frequency is BillingFrequency.ONE_TIME:
        return replace(terms, **others, total_value=after.get("fee", terms.total_value))
    phases = _amended_phases(terms, after, effective)
    changed = replace(terms, **others, phases=phases)
    if phases and (terms.phases != phases or terms.remainders):
        changed = replace(changed, remainders=_kept_remainders(terms, after, effective))
    if "end_date" in after:
        changed = replace(changed, former_ends=_former_ends(terms, after["end_date"], effective))
    same_fees = phases == terms.phases and changed.end_date == terms.end_date
    return changed if same_fees else _with_total_value(terms, changed, effective)


def _amended_phases(terms: ContractTerms, after: TermValues, effective: date) -> tuple[Phase, ...]:
    phases: Sequence[Phase] = domain.fees.build_plan(terms).phases
    if "fee" in after:
        earlier = (phase for phase in phases if phase.start_date < effective)
        return (*earlier, Phase(effective, after["fee"]), *after["phases"])
    if "end_date" in after:  # the fees stay as they are; they are not spread over the new term
        end = after["end_date"]
        return tuple(phase for phase in phases if end is None or phase.start_date < end)
    return terms.phases


def _kept_remainders(terms: ContractTerms, after: TermValues, effective: date) -> tuple[tuple[int, Money], ...]:
    """Return the remainders that stay where they are: those before a new fee, or before the nearer end of the term."""
    plan = domain.fees.build_plan(terms)
    end: date | None = effective if "fee" in after else after.get("end_date", terms.end_date)
    if end is None and plan.end is None:
        return terms.remainders
    return tuple(domain.fees.remainders_until(plan, end))


def _former_ends(terms: ContractTerms, end: date | None, effective: date) -> tuple[date, ...]:
    """Return the former ends after a change of the end, with the present one if its period has begun and goes on."""
    former = terms.end_date
    if former is None or (end is not None and end <= former):
        return terms.former_ends
    period = next(domain.fees.periods_from(domain.fees.build_plan(terms), former - timedelta(days=1)))
    if period.full.start < effective and former < period.full.end:
        return (*(day for day in terms.former_ends if day < former), former)
    return terms.former_ends


def _with_total_value(terms: ContractTerms, changed: ContractTerms, effective: date) -> ContractTerms:
    before, after = domain.fees.build_plan(terms), domain.fees.build_plan(changed)
    total = domain.fees.term_value(after, effective)
    if bool(before.end) == bool(after.end):
        # The agreed total value may differ from the sum of the fees; it changes by the difference of the sums.
        total = terms.total_value + total - domain.fees.term_value(before, effective)
    return replace(changed, total_value=max(total, Money.zero(total.currency)))


def violations(amendment_type: AmendmentType, after: TermValues, terms: ContractTerms) -> Iterator[FieldViolation]:
    """Yield the violations of the changes themselves; those of the amended terms are checked afterwards."""
    required = sorted(_REQUIRED_TERMS[amendment_type])
    if required and not after.keys() & required:
        terms_text = required[0] if len(required) == 1 else f"at least one of {', '.join(required)}"
        text = f"an amendment of type {amendment_type} must change {terms_text}"
        yield FieldViolation(required[0], text, "amendment.type")
    elif not after:
        yield FieldViolation("", "must change at least one term", "amendment.empty")
    if after.get("phases") and "fee" not in after:
        yield FieldViolation("phases", "requires fee, the fee before the first of these phases", "amendment.phases")
    if after.get("phases") and terms.billing_frequency is BillingFrequency.ONE_TIME:
        yield FieldViolation("phases", "must be empty for billing_frequency ONE_TIME", "amendment.phases")
    currency = terms.total_value.currency
    fees = [("fee", after["fee"])] if "fee" in after else []
    fees += [(f"phases[{index}].fee", phase.fee) for index, phase in enumerate(after.get("phases", ()))]
    for field, fee in fees:
        if fee.currency != currency:
            yield FieldViolation(
                f"{field}.currency_code", f"must be the currency of the contract, {currency}", "amendment.currency"
            )
        if fee.amount < 0:
            yield FieldViolation(f"{field}.amount", "must be 0 or more", "amendment.value")


def check_effective_date(
    contract_id: UUID, terms: ContractTerms, after: TermValues, termination_date: date | None, effective: date
) -> None:
    """Raise AmendmentOutsideTerm if the contract is not in force on the day, before or after the changes."""
    end = domain.contracts.effective_end(termination_date, terms.end_date)
    end = domain.contracts.effective_end(end, after.get("end_date"))
    if effective < terms.start_date or (end and effective >= end):
        raise AmendmentOutsideTerm(contract_id, effective=effective, start=terms.start_date, end=end)


def check_extension(contract_id: UUID, after: TermValues, termination_date: date | None) -> None:
    """Raise ContractIsTerminated if the changes would extend a contract beyond the day of its termination."""
    if termination_date and "end_date" in after:
        end: date | None = after["end_date"]
        if end is None or end > termination_date:
            raise ContractIsTerminated(contract_id, termination_date)


def check_not_stale(amendment_id: UUID, before: TermValues, terms: ContractTerms, effective: date) -> None:
    """Raise AmendmentStale if a term to be changed no longer has the value that it had at creation."""
    current = current_values(terms, before.keys(), effective)
    stale = sorted(name for name, value in before.items() if current[name] != value)
    if stale:
        raise AmendmentStale(amendment_id, stale)


@dataclass(frozen=True, slots=True)
class AmendedFee:
    """The fee of a billing period before and after an amendment."""

    number: int
    dates: DateRange
    old: Money
    new: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class AmendmentEffect:
    """The effect of an amendment on the fees of a contract."""

    period: DateRange
    """The billing period in which it takes effect."""
    old_part: Money
    """The old fee for the days from the effective date to the end of that period."""
    new_part: Money
    """The new fee for these days."""
    fees: tuple[AmendedFee, ...]
    """That period and the following ones, at most PERIODS_MAX; of an evergreen contract, those of one year."""
    old_total: Money
    new_total: Money


def compute_effect(
    terms: ContractTerms, changed: ContractTerms, termination_date: date | None, effective: date
) -> AmendmentEffect:
    """Return how the fees change if `terms` become `changed` on the day, which must be within the contract."""
    old, new = (domain.fees.build_plan(each, termination_date) for each in (terms, changed))
    fees = tuple(islice(_amended_fees(old, new, effective), PERIODS_MAX))
    period = fees[0].dates
    rest = DateRange(effective, period.end)
    one_time = terms.billing_frequency is BillingFrequency.ONE_TIME
    return AmendmentEffect(
        period=period,
        old_part=fees[0].old if one_time else domain.fees.accrue(old, rest),
        new_part=fees[0].new if one_time else domain.fees.accrue(new, rest),
        fees=fees,
        old_total=terms.total_value,
        new_total=changed.total_value,
    )


def _amended_fees(old: FeePlan, new: FeePlan, effective: date) -> Iterator[AmendedFee]:
    """Yield the periods from the effective date on.

    Both plans count from the same start date, so periods of the same number differ only by the end of the contract.
    """
    evergreen_end = months_later(effective, _EVERGREEN_MONTHS)
    periods = zip_longest(domain.fees.periods_from(old, effective), domain.fees.periods_from(new, effective))
    for before, after in periods:
        longer = max((period for period in (before, after) if period), key=lambda period: period.dates.end)
        evergreen = old.end is None or new.end is None
        if evergreen and longer.dates.start >= evergreen_end:
            return
        yield AmendedFee(longer.number, longer.dates, _fee_or_zero(old, before), _fee_or_zero(new, after))


def _fee_or_zero(plan: FeePlan, period: BillingPeriod | None) -> Money:
    return domain.fees.period_fee(plan, period) if period else Money.zero(plan.currency)
