"""Renewals: the terms of a successor contract, and the recommendation about the end of a contract."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Final
from uuid import UUID

from kit.dates import months_later
from kit.money import BP, Money
from services.entities import domain
from services.entities.domain.contracts import IN_FORCE, ContractState, ContractTerms, LicenseState, Phase

DECISION_DAYS: Final = 90
"""The decision period: a recommendation is made from this many days before the notice date on."""
UNUSED_BP: Final = 5_000
UNDERUSED_BP: Final = 8_000
EXCEEDED_BP: Final = 12_000
"""Thresholds of the expected use of the commitment: below the first two, or above the third, a change is advised."""
UPLIFT_HIGH_BP: Final = 1_000
_INT32_MAX: Final = 2**31 - 1


class Recommendation(StrEnum):
    """RenewalCheck.Recommendation."""

    NONE = "NONE"
    RENEW = "RENEW"
    RENEGOTIATE = "RENEGOTIATE"
    TERMINATE = "TERMINATE"


class ReasonKind(StrEnum):
    """RenewalReason.Kind."""

    NOT_IN_FORCE = "NOT_IN_FORCE"
    EVERGREEN = "EVERGREEN"
    RENEWED = "RENEWED"
    TERMINATED = "TERMINATED"
    NOT_YET = "NOT_YET"
    NOTICE_OVER = "NOTICE_OVER"
    COMMITMENT_UNUSED = "COMMITMENT_UNUSED"
    COMMITMENT_UNDERUSED = "COMMITMENT_UNDERUSED"
    COMMITMENT_EXCEEDED = "COMMITMENT_EXCEEDED"
    COMMITMENT_FITS = "COMMITMENT_FITS"
    USAGE_UNKNOWN = "USAGE_UNKNOWN"
    UPLIFT_HIGH = "UPLIFT_HIGH"
    FEE_RISES = "FEE_RISES"
    PURCHASE_ORDER_EXCEEDED = "PURCHASE_ORDER_EXCEEDED"
    SUSPENDED = "SUSPENDED"
    LICENSE_FAILED = "LICENSE_FAILED"
    AS_AGREED = "AS_AGREED"


@dataclass(frozen=True, slots=True)
class RenewalReason:
    """A reason for a recommendation; `recommendation` is what this reason alone would lead to."""

    kind: ReasonKind
    text: str
    recommendation: Recommendation


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalRequest:
    """A request to renew a contract. None or empty: as agreed in the contract."""

    contract_number: str = ""
    """Empty: to be assigned from the tenant's own sequence."""
    end_date: date | None = None
    uplift_bp: int | None = None


AS_AGREED: Final = RenewalRequest()
"""A renewal on the terms agreed in the contract."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalFacts:
    """The facts that a recommendation is based on, as of `today`."""

    contract_id: UUID
    terms: ContractTerms
    state: ContractState
    license_state: LicenseState
    successor_id: UUID | None
    """The contract that renews this one; None if there is none."""
    termination_date: date | None
    used: Money | None
    """Cost of the usage since the start date, in the currency of the contract; None: unknown."""
    today: date

    @property
    def days_to_end(self) -> int:
        """The days from today to the end date; 0 if that is over, or for an evergreen contract."""
        end = self.terms.end_date
        return max((end - self.today).days, 0) if end else 0

    @property
    def notice_date(self) -> date | None:
        """The last day on which notice can be given; None for an evergreen contract."""
        end = self.terms.end_date
        return domain.contracts.notice_date(end, self.terms.renewal_notice_days) if end else None

    @property
    def renews_automatically(self) -> bool:
        """True if the contract is renewed at its end unless something changes before."""
        return domain.contracts.renews_automatically(self.terms, self.state, self.termination_date)

    @property
    def expected_utilisation_bp(self) -> int:
        """The expected share of the commitment used at the end, if usage continues at its rate so far; 0 if unknown."""
        terms = self.terms
        if not (terms.minimum_commitment and self.used and terms.end_date):
            return 0
        elapsed = (min(self.today, terms.end_date) - terms.start_date).days
        if elapsed <= 0 or self.used.amount <= 0:
            return 0
        expected = Fraction(self.used.amount) * (terms.end_date - terms.start_date).days / elapsed
        return min(int(expected * BP / Fraction(terms.minimum_commitment.amount)), _INT32_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalAssessment:
    """The recommendation about the end of a contract, with its reasons and the terms of a renewal as agreed."""

    facts: RenewalFacts
    recommendation: Recommendation
    reasons: Sequence[RenewalReason]
    """The most important one first."""
    renewal: ContractTerms | None
    """Terms of a renewal as agreed; None for an evergreen contract."""


def renewal_terms(terms: ContractTerms, request: RenewalRequest = AS_AGREED) -> ContractTerms:
    """Return the terms of the successor: it starts at the end date of the contract, with its prices uplifted.

    It keeps the anchor day, unless the contract ends on another day of the month. Of several phases the last one
    continues. Amounts for the whole term are scaled to the length of the new term.
    Raises ValueError for an evergreen contract.
    """
    if terms.end_date is None:
        raise ValueError("an evergreen contract has no end date at which it could be renewed")
    start, uplift_bp = terms.end_date, terms.renewal_uplift_bp if request.uplift_bp is None else request.uplift_bp
    anchor_day = domain.contracts.anchor_day_on(start, terms)
    end = request.end_date or months_later(start, terms.renewal_term_months, anchor_day)
    ratio = _length_ratio(terms, end)
    renewal = replace(
        terms,
        contract_number=request.contract_number,
        start_date=start,
        end_date=end,
        anchor_day=None if anchor_day == start.day else anchor_day,
        phases=_renewal_phases(terms, start, uplift_bp),
        remainders=(),
        former_ends=(),
        minimum_commitment=_scaled(terms.minimum_commitment, ratio) if terms.minimum_commitment else None,
        total_value=domain.proration.uplift(_scaled(terms.total_value, ratio), uplift_bp),
    )
    if not renewal.phases:
        return renewal
    return replace(renewal, total_value=domain.fees.term_value(domain.fees.build_plan(renewal), start))


def _length_ratio(terms: ContractTerms, end: date) -> Fraction:
    """Return how many times as long as the current term a successor is that ends on `end`.

    Raises ValueError for an evergreen contract.
    """
    if terms.end_date is None:
        raise ValueError("an evergreen contract has no end date at which it could be renewed")
    old_anchor_day, new_anchor_day = (
        domain.contracts.anchor_day_on(day, terms) for day in (terms.start_date, terms.end_date)
    )
    new_months = months_between(terms.end_date, max(terms.end_date, end), new_anchor_day)
    return new_months / months_between(terms.start_date, terms.end_date, old_anchor_day)


def _renewal_phases(terms: ContractTerms, start: date, uplift_bp: int) -> tuple[Phase, ...]:
    if not terms.phases:
        return ()
    return (Phase(start, domain.proration.uplift(terms.phases[-1].fee, uplift_bp)),)


def _scaled(money: Money, ratio: Fraction) -> Money:
    return domain.proration.round_exact(Fraction(money.amount) * ratio, money.currency)


def months_between(start: date, end: date, anchor_day: int | None = None) -> Fraction:
    """Return the months from `start` to `end`; days after the last whole month are a fraction of the next month.

    Months begin on `anchor_day`, by default on the day of `start`.
    """
    months = (end.year - start.year) * 12 + end.month - start.month
    if months_later(start, months, anchor_day) > end:
        months -= 1
    since, until = (months_later(start, months + extra, anchor_day) for extra in (0, 1))
    return months + Fraction((end - since).days, (until - since).days)


def assess(facts: RenewalFacts) -> RenewalAssessment:
    """Return the recommendation about the end of a contract."""
    recommendation, reasons = _recommend(facts)
    renewal = renewal_terms(facts.terms) if facts.terms.end_date else None
    return RenewalAssessment(facts=facts, recommendation=recommendation, reasons=reasons, renewal=renewal)


def _recommend(facts: RenewalFacts) -> tuple[Recommendation, Sequence[RenewalReason]]:
    no_decision = _reason_for_no_decision(facts)
    if no_decision:
        return Recommendation.NONE, [no_decision]
    weights = list(Recommendation)  # each member outweighs those before it
    reasons = sorted(_reasons(facts), key=lambda reason: weights.index(reason.recommendation), reverse=True)
    if not reasons:
        reasons = [RenewalReason(ReasonKind.AS_AGREED, "There is no reason against a renewal.", Recommendation.RENEW)]
    recommendation = reasons[0].recommendation
    notice_over = _notice_over(facts)
    if notice_over:
        # The contract is renewed anyway; only a termination for cause could end it.
        if recommendation is Recommendation.TERMINATE:
            recommendation = Recommendation.RENEGOTIATE
        reasons = [*reasons, notice_over]
    return recommendation, reasons


def _reason_for_no_decision(facts: RenewalFacts) -> RenewalReason | None:
    def reason(kind: ReasonKind, text: str) -> RenewalReason:
        return RenewalReason(kind, text, Recommendation.NONE)

    if facts.state not in IN_FORCE:
        return reason(ReasonKind.NOT_IN_FORCE, f"The contract is {facts.state}.")
    if facts.notice_date is None:
        return reason(ReasonKind.EVERGREEN, "The contract is evergreen: it has no end date.")
    if facts.termination_date:
        return reason(ReasonKind.TERMINATED, f"The contract is terminated as of {facts.termination_date}.")
    if facts.successor_id:
        return reason(ReasonKind.RENEWED, "The contract already has a successor.")
    decision_start = facts.notice_date - timedelta(days=DECISION_DAYS)
    if facts.today < decision_start:
        text = f"The contract ends on {facts.terms.end_date}; a decision is due from {decision_start} on."
        return reason(ReasonKind.NOT_YET, text)
    return None


def _reasons(facts: RenewalFacts) -> Iterator[RenewalReason]:
    terms = facts.terms
    if terms.minimum_commitment:
        yield _usage_reason(facts)
    if terms.renewal_uplift_bp >= UPLIFT_HIGH_BP:
        text = f"The renewal costs {percent_text(terms.renewal_uplift_bp)} more."
        yield RenewalReason(ReasonKind.UPLIFT_HIGH, text, Recommendation.RENEGOTIATE)
    yield from _price_reasons(terms)
    if facts.state is ContractState.SUSPENDED:
        yield RenewalReason(ReasonKind.SUSPENDED, "The contract is suspended.", Recommendation.RENEGOTIATE)
    if facts.license_state is LicenseState.FAILED:
        text = "The license of the contract could not be provisioned."
        yield RenewalReason(ReasonKind.LICENSE_FAILED, text, Recommendation.RENEGOTIATE)


def _price_reasons(terms: ContractTerms) -> Iterator[RenewalReason]:
    """Yield reasons for a renewal at the last fee of a ramp, and for a limit of the purchase order that is too low."""
    renewal = renewal_terms(terms)
    ratio = _length_ratio(terms, renewal.end_date or renewal.start_date)
    current = Fraction(terms.total_value.amount) * ratio
    if terms.phases and current:
        rise_bp = int((Fraction(renewal.total_value.amount) / current - 1) * BP)
        if rise_bp >= UPLIFT_HIGH_BP:
            text = (
                f"The renewal costs {percent_text(rise_bp)} more than the current term for the same time:"
                f" {renewal.total_value} instead of {_scaled(terms.total_value, ratio)}."
            )
            yield RenewalReason(ReasonKind.FEE_RISES, text, Recommendation.RENEGOTIATE)
    limit, order = terms.purchase_order_limit, terms.purchase_order_number
    if limit:
        fees = domain.fees.total_due(domain.fees.build_plan(terms), terms.end_date or domain.fees.HORIZON)
        name, total = ("current term", fees) if limit < fees else ("renewal", renewal.total_value)
        if limit < total:
            text = f"The fees of the {name}, {total}, exceed the limit of the purchase order {order}, {limit}."
            yield RenewalReason(ReasonKind.PURCHASE_ORDER_EXCEEDED, text, Recommendation.RENEGOTIATE)


def _usage_reason(facts: RenewalFacts) -> RenewalReason:
    if facts.used is None or facts.today <= facts.terms.start_date:
        return RenewalReason(
            ReasonKind.USAGE_UNKNOWN, "It is not known how much of the commitment was used.", Recommendation.RENEW
        )
    bp = facts.expected_utilisation_bp
    commitment = facts.terms.minimum_commitment
    text = f"{percent_text(bp)} of the commitment of {commitment} will be used by the end of the term."
    if bp < UNUSED_BP:
        return RenewalReason(ReasonKind.COMMITMENT_UNUSED, text, Recommendation.TERMINATE)
    if bp < UNDERUSED_BP:
        return RenewalReason(ReasonKind.COMMITMENT_UNDERUSED, text, Recommendation.RENEGOTIATE)
    if bp > EXCEEDED_BP:
        return RenewalReason(ReasonKind.COMMITMENT_EXCEEDED, text, Recommendation.RENEGOTIATE)
    return RenewalReason(ReasonKind.COMMITMENT_FITS, text, Recommendation.RENEW)


def _notice_over(facts: RenewalFacts) -> RenewalReason | None:
    notice_date = facts.notice_date
    if notice_date is None or not facts.renews_automatically or facts.today <= notice_date:
        return None
    text = f"Notice was due by {notice_date}; the contract renews automatically on {facts.terms.end_date}."
    return RenewalReason(ReasonKind.NOTICE_OVER, text, Recommendation.RENEW)


def percent_text(bp: int) -> str:
    """Format basis points as a percentage: "12.5 %"."""
    return f"{bp // 100}.{bp % 100:02}".rstrip("0").rstrip(".") + " %"
