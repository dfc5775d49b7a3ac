"""Whether and how a contract is renewed: the terms of its successor, and what we would do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Final

from kit.money import BP, Money
from services.entities import domain
from services.entities.domain.contracts import IN_FORCE, ContractState, ContractTerms, LicenseState, Phase

DECISION_DAYS: Final = 90
"""So long before the day of notice there is something to decide."""
UNUSED_BP: Final = 5_000
UNDERUSED_BP: Final = 8_000
EXCEEDED_BP: Final = 12_000
"""What share of the commitment will be used, from which or up to which we would do something about it."""
UPLIFT_HIGH_BP: Final = 1_000


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
    SUSPENDED = "SUSPENDED"
    LICENSE_FAILED = "LICENSE_FAILED"
    AS_AGREED = "AS_AGREED"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is recommended; `points_to` is what we would do if this were all there is."""

    kind: ReasonKind
    text: str
    points_to: Recommendation


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a contract stands today."""

    terms: ContractTerms
    state: ContractState
    license_state: LicenseState
    renewed: bool
    """Whether a successor is there."""
    termination_date: date | None
    used: Money | None
    """What the usage since its start has cost; None: unknown."""
    today: date

    @property
    def expected_utilisation_bp(self) -> int:
        """What share of the commitment will have been used at the end if it goes on like this; 0 if unknown."""
        terms = self.terms
        if not (terms.minimum_commitment and self.used and terms.end_date):
            return 0
        passed = (min(self.today, terms.end_date) - terms.start_date).days
        if passed <= 0 or self.used.amount <= 0:
            return 0
        expected = Fraction(self.used.amount) * (terms.end_date - terms.start_date).days / passed
        return min(int(expected * BP / Fraction(terms.minimum_commitment.amount)), 2**31 - 1)


def renewed_terms(
    terms: ContractTerms, *, contract_number: str = "", end_date: date | None = None, uplift_bp: int | None = None
) -> ContractTerms:
    """The terms of the successor of a contract that has an end: it begins there, and is dearer by the uplift.

    Of phases the last one goes on. What was agreed for a whole term grows or shrinks with the length of the term.
    """
    if terms.end_date is None:
        raise ValueError("an evergreen contract has no end at which it could be renewed")
    start, uplift = terms.end_date, terms.renewal_uplift_bp if uplift_bp is None else uplift_bp
    end = end_date or domain.proration.months_later(start, terms.renewal_term_months)
    ratio = months_between(start, max(start, end)) / months_between(terms.start_date, terms.end_date)
    renewed = replace(
        terms,
        contract_number=contract_number,
        start_date=start,
        end_date=end,
        phases=_renewed_phases(terms, start, uplift),
        minimum_commitment=_scaled(terms.minimum_commitment, ratio) if terms.minimum_commitment else None,
        total_value=domain.proration.uplifted(_scaled(terms.total_value, ratio), uplift),
    )
    return (
        replace(renewed, total_value=domain.fees.value_of(domain.fees.plan_of(renewed), start))
        if renewed.phases
        else renewed
    )


def _renewed_phases(terms: ContractTerms, start: date, uplift_bp: int) -> tuple[Phase, ...]:
    if not terms.phases:
        return ()
    return (Phase(start, domain.proration.uplifted(terms.phases[-1].fee, uplift_bp)),)


def _scaled(money: Money, ratio: Fraction) -> Money:
    return domain.proration.rounded(Fraction(money.amount) * ratio, money.currency)


def months_between(start: date, end: date) -> Fraction:
    """How many months there are from `start` up to `end`, days after the last whole one as a part of the next."""
    months = (end.year - start.year) * 12 + end.month - start.month
    if domain.proration.months_later(start, months) > end:
        months -= 1
    since, until = domain.proration.months_later(start, months), domain.proration.months_later(start, months + 1)
    return months + Fraction((end - since).days, (until - since).days)


def assess(standing: Standing) -> tuple[Recommendation, Sequence[Reason]]:
    """What we would do about the end of a contract, and why, the most important reason first."""
    nothing = _nothing_to_decide(standing)
    if nothing:
        return Recommendation.NONE, [nothing]
    order = list(Recommendation)
    reasons = sorted(_reasons(standing), key=lambda reason: order.index(reason.points_to), reverse=True)
    if not reasons:
        reasons = [Reason(ReasonKind.AS_AGREED, "Nothing speaks against it.", Recommendation.RENEW)]
    found = reasons[0].points_to
    too_late = _notice_over(standing)
    if too_late:
        # It goes on whatever we would rather do; only for cause does it end.
        found = Recommendation.RENEGOTIATE if found is Recommendation.TERMINATE else found
        reasons = [*reasons, too_late]
    return found, reasons


def _nothing_to_decide(standing: Standing) -> Reason | None:
    def because(kind: ReasonKind, text: str) -> Reason:
        return Reason(kind, text, Recommendation.NONE)

    end = standing.terms.end_date
    if standing.state not in IN_FORCE:
        return because(ReasonKind.NOT_IN_FORCE, f"It is {standing.state}.")
    if end is None:
        return because(ReasonKind.EVERGREEN, "It has no end.")
    if standing.termination_date:
        return because(ReasonKind.TERMINATED, f"It is terminated for {standing.termination_date}.")
    if standing.renewed:
        return because(ReasonKind.RENEWED, "A successor is there.")
    begins = domain.contracts.notice_date(end, standing.terms.renewal_notice_days) - timedelta(days=DECISION_DAYS)
    if standing.today < begins:
        return because(ReasonKind.NOT_YET, f"It ends on {end}; there is something to decide from {begins} on.")
    return None


def _reasons(standing: Standing) -> Iterator[Reason]:
    terms = standing.terms
    if terms.minimum_commitment:
        yield _reason_of_usage(standing)
    if terms.renewal_uplift_bp >= UPLIFT_HIGH_BP:
        text = f"The renewal is dearer by {percent(terms.renewal_uplift_bp)}."
        yield Reason(ReasonKind.UPLIFT_HIGH, text, Recommendation.RENEGOTIATE)
    if standing.state is ContractState.SUSPENDED:
        yield Reason(ReasonKind.SUSPENDED, "It is suspended.", Recommendation.RENEGOTIATE)
    if standing.license_state is LicenseState.FAILED:
        text = "Its license could not be provisioned."
        yield Reason(ReasonKind.LICENSE_FAILED, text, Recommendation.RENEGOTIATE)


def _reason_of_usage(standing: Standing) -> Reason:
    if standing.used is None or standing.today <= standing.terms.start_date:
        text = "What was used of the commitment is not known."
        return Reason(ReasonKind.USAGE_UNKNOWN, text, Recommendation.RENEW)
    bp = standing.expected_utilisation_bp
    text = f"At the end {percent(bp)} of the commitment of {standing.terms.minimum_commitment} will be used."
    if bp < UNUSED_BP:
        return Reason(ReasonKind.COMMITMENT_UNUSED, text, Recommendation.TERMINATE)
    if bp < UNDERUSED_BP:
        return Reason(ReasonKind.COMMITMENT_UNDERUSED, text, Recommendation.RENEGOTIATE)
    if bp > EXCEEDED_BP:
        return Reason(ReasonKind.COMMITMENT_EXCEEDED, text, Recommendation.RENEGOTIATE)
    return Reason(ReasonKind.COMMITMENT_FITS, text, Recommendation.RENEW)


def _notice_over(standing: Standing) -> Reason | None:
    terms = standing.terms
    if terms.end_date is None or not terms.auto_renew:
        return None
    last = domain.contracts.notice_date(terms.end_date, terms.renewal_notice_days)
    if standing.today <= last:
        return None
    text = f"Notice had to be given until {last}; it is renewed by itself on {terms.end_date}."
    return Reason(ReasonKind.NOTICE_OVER, text, Recommendation.RENEW)


def percent(bp: int) -> str:
    """Basis points for people: "12.5 %"."""
    return f"{bp // 100}.{bp % 100:02}".rstrip("0").rstrip(".") + " %"
