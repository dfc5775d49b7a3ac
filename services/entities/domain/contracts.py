"""Contracts: states, input types, rules that terms must satisfy, signatures, notice and termination."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import dates, resources
from kit.money import DIGITS_MAX, Money
from services.entities.domain.field_violations import FieldViolation
from services.entities.errors.contracts import (
    ContractDigestDiffers,
    ContractNoticeOver,
    ContractNoticeTooShort,
    ContractNotTerminated,
    ContractSignatureMissing,
    ContractStateForbids,
    ContractTermOver,
)

NOTICE_TIMER: Final = "contract-notice"
"""Kind of the timers that announce the end of a contract in force."""
END_TIMER: Final = "contract-end"
"""Kind of the timers that end or renew a contract in force, on its end date or termination date."""

RENEWAL_TERM_MONTHS_DEFAULT: Final = 12
RENEWAL_NOTICE_DAYS_DEFAULT: Final = 30
_DAYS_PER_MONTH_MIN: Final = 28
_VALUE_LIMIT: Final = Decimal(10**DIGITS_MAX)


class ContractType(StrEnum):
    """Contract.Type."""

    SUBSCRIPTION = "SUBSCRIPTION"
    ENTERPRISE_LICENSE = "ENTERPRISE_LICENSE"
    USAGE_COMMITMENT = "USAGE_COMMITMENT"
    SERVICES = "SERVICES"
    MASTER = "MASTER"


class BillingFrequency(StrEnum):
    """Contract.BillingFrequency."""

    MONTHLY = "MONTHLY"
    QUARTERLY = "QUARTERLY"
    ANNUAL = "ANNUAL"
    ONE_TIME = "ONE_TIME"


class ContractState(StrEnum):
    """Contract.State."""

    DRAFT = "DRAFT"
    PENDING_APPROVAL = "PENDING_APPROVAL"
    PENDING_SIGNATURE = "PENDING_SIGNATURE"
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    EXPIRED = "EXPIRED"
    TERMINATED = "TERMINATED"
    RENEWED = "RENEWED"


IN_FORCE: Final = frozenset({ContractState.ACTIVE, ContractState.SUSPENDED})
"""The states in which a contract is binding and its timers run."""


class LicenseState(StrEnum):
    """Contract.LicenseState."""

    NONE = "NONE"
    REQUESTED = "REQUESTED"
    PROVISIONED = "PROVISIONED"
    FAILED = "FAILED"
    RELEASED = "RELEASED"


class Party(StrEnum):
    """ContractSignature.Party."""

    OURS = "OURS"
    COUNTERPARTY = "COUNTERPARTY"


class NoticeKind(StrEnum):
    """Kinds of notices about a contract; each is published once per end date."""

    RENEWAL_DUE = "RENEWAL_DUE"


class ContractAction(StrEnum):
    """Actions on a contract; the value is the past participle used in error messages."""

    CHANGE = "changed"
    SUBMIT = "submitted"
    REQUEST_APPROVAL = "submitted for approval"
    APPROVE = "approved"
    REJECT = "rejected"
    SIGN = "signed"
    ACTIVATE = "activated"
    SUSPEND = "suspended"
    RESUME = "resumed"
    RENEW = "renewed"
    SUCCEED = "succeeded by its renewal"
    EXPIRE = "expired"
    AMEND = "amended"
    SCHEDULE_TERMINATION = "terminated on a later day"
    TERMINATE = "terminated"
    WITHDRAW_TERMINATION = "kept in force by the withdrawal of its termination"


_S, _A = ContractState, ContractAction
CONTRACT_TRANSITIONS: Final[Mapping[tuple[ContractState, ContractAction], ContractState]] = {
    (_S.DRAFT, _A.CHANGE): _S.DRAFT,
    (_S.DRAFT, _A.SUBMIT): _S.PENDING_SIGNATURE,
    (_S.DRAFT, _A.REQUEST_APPROVAL): _S.PENDING_APPROVAL,
    (_S.DRAFT, _A.TERMINATE): _S.TERMINATED,
    (_S.PENDING_APPROVAL, _A.APPROVE): _S.PENDING_SIGNATURE,
    (_S.PENDING_APPROVAL, _A.REJECT): _S.DRAFT,
    (_S.PENDING_APPROVAL, _A.TERMINATE): _S.TERMINATED,
    (_S.PENDING_SIGNATURE, _A.SIGN): _S.PENDING_SIGNATURE,
    (_S.PENDING_SIGNATURE, _A.ACTIVATE): _S.ACTIVE,
    (_S.PENDING_SIGNATURE, _A.TERMINATE): _S.TERMINATED,
    (_S.ACTIVE, _A.SUSPEND): _S.SUSPENDED,
    (_S.ACTIVE, _A.AMEND): _S.ACTIVE,
    (_S.ACTIVE, _A.RENEW): _S.ACTIVE,
    (_S.ACTIVE, _A.SUCCEED): _S.RENEWED,
    (_S.ACTIVE, _A.EXPIRE): _S.EXPIRED,
    (_S.ACTIVE, _A.SCHEDULE_TERMINATION): _S.ACTIVE,
    (_S.ACTIVE, _A.WITHDRAW_TERMINATION): _S.ACTIVE,
    (_S.ACTIVE, _A.TERMINATE): _S.TERMINATED,
    (_S.SUSPENDED, _A.AMEND): _S.SUSPENDED,
    (_S.SUSPENDED, _A.RESUME): _S.ACTIVE,
    (_S.SUSPENDED, _A.SUCCEED): _S.RENEWED,
    (_S.SUSPENDED, _A.EXPIRE): _S.EXPIRED,
    (_S.SUSPENDED, _A.SCHEDULE_TERMINATION): _S.SUSPENDED,
    (_S.SUSPENDED, _A.WITHDRAW_TERMINATION): _S.SUSPENDED,
    (_S.SUSPENDED, _A.TERMINATE): _S.TERMINATED,
}
"""The complete life cycle of a contract. Every pair that is not listed is forbidden."""


def advance(contract_id: UUID, state: ContractState, action: ContractAction) -> ContractState:
    """Return the state after `action`. Raises ContractStateForbids, which names the states that allow it."""
    return resources.advance(CONTRACT_TRANSITIONS, contract_id, state, action, ContractStateForbids)


@dataclass(frozen=True, slots=True)
class Phase:
    """The fee of a billing period, valid from `start_date` until the next phase begins."""

    start_date: date
    fee: Money


@dataclass(frozen=True, slots=True)
class SlaTerms:
    """Service levels promised in a contract; 0 means not promised."""

    uptime_bp: int
    response_hours: int
    credit_bp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractTerms:
    """The terms of a contract. Its days are the half-open range [start_date, end_date)."""

    contract_number: str
    """Empty: to be assigned from the tenant's own sequence."""
    name: str
    contract_type: ContractType
    start_date: date
    end_date: date | None
    """None: evergreen."""
    total_value: Money
    billing_frequency: BillingFrequency
    phases: tuple[Phase, ...]
    minimum_commitment: Money | None
    license_tier: str
    seats: int
    payment_terms_days: int | None
    """None: not set yet; defaults to the payment terms of the entity."""
    purchase_order_number: str
    purchase_order_limit: Money | None
    auto_renew: bool
    renewal_term_months: int
    renewal_notice_days: int
    renewal_uplift_bp: int
    sla_terms: SlaTerms | None
    anchor_day: int | None = None
    """Day of the month that billing periods and renewals count from; None: that of the start date."""
    remainders: tuple[tuple[int, Money], ...] = ()
    """Parts of the total value left after it was spread evenly, by the number of the billing period that takes them.

    Only with phases, into which amendments turn an evenly spread value.
    """
    former_ends: tuple[date, ...] = ()
    """Earlier end dates, ascending, within billing periods that had begun when the contract was extended.

    What is due for the days from then on falls due on that day, not on the first day of the period, which was billed.
    """


def anchor_day_on(day: date, terms: ContractTerms) -> int:
    """Return the anchor day of the terms if `day` is it or the end of a shorter month, else the day of the month."""
    anchor_day = terms.anchor_day or terms.start_date.day
    return anchor_day if dates.on_anchor_day(day, anchor_day) == day else day.day


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureDraft:
    """A signature to be recorded."""

    party: Party
    signer_name: str
    signer_title: str
    document_digest: str
    """SHA-256 of the signed document, 64 hexadecimal digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractFilter:
    """Filters of ListContracts; None or empty matches every contract."""

    entity_id: UUID | None = None
    state: ContractState | None = None
    contract_type: ContractType | None = None
    ends_from: date | None = None
    ends_before: date | None = None
    text: str = ""
    """Part of the number or the name, in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminationRequest:
    """A request to terminate a contract; without an effective date, on the first day that is allowed."""

    effective_date: date | None
    reason: str
    for_cause: bool
    """True if the termination needs no notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractTotals:
    """Counts and value of the contracts in force of one entity in one currency."""

    entity_id: UUID
    active: int
    value: Money
    """Sum of the total values of the active contracts."""
    suspended: int
    due_30: int
    """Contracts, active or suspended, that end within 30 days, have no successor in force and were not terminated."""
    due_60: int
    due_90: int


def violations(terms: ContractTerms) -> list[FieldViolation]:
    """Return all violations of the rules between terms; empty if the terms are consistent."""
    return [
        *_term_violations(terms),
        *_amount_violations(terms),
        *_phase_violations(terms),
        *_type_violations(terms),
    ]


def _term_violations(terms: ContractTerms) -> Iterator[FieldViolation]:
    if terms.end_date is None:
        if terms.auto_renew:
            yield FieldViolation(
                "auto_renew", "must be false for an evergreen contract, which has no end date", "contract.end"
            )
    elif terms.end_date <= terms.start_date:
        yield FieldViolation("end_date", f"must be after start_date, {terms.start_date}", "contract.end")
    else:
        days = (terms.end_date - terms.start_date).days
        if terms.auto_renew:
            days = min(days, terms.renewal_term_months * _DAYS_PER_MONTH_MIN)
        if terms.renewal_notice_days > days:
            yield FieldViolation(
                "renewal_notice_days", f"must be at most {days}, the days of a term", "contract.notice"
            )


def _amount_violations(terms: ContractTerms) -> Iterator[FieldViolation]:
    currency = terms.total_value.currency
    if terms.total_value.amount < 0:
        yield FieldViolation("total_value.amount", "must be 0 or more", "contract.value")
    if terms.total_value.amount >= _VALUE_LIMIT:
        yield FieldViolation(
            "total_value.amount", f"must have at most {DIGITS_MAX} digits before the decimal point", "contract.value"
        )
    for field in ("minimum_commitment", "purchase_order_limit"):
        money: Money | None = getattr(terms, field)
        if money and money.amount <= 0:
            yield FieldViolation(f"{field}.amount", "must be above 0", "contract.value")
        if money and money.currency != currency:
            yield _currency_mismatch(field, currency)
    if terms.purchase_order_limit and not terms.purchase_order_number:
        yield FieldViolation(
            "purchase_order_number", "is required if purchase_order_limit is set", "contract.purchase_order"
        )


def _phase_violations(terms: ContractTerms) -> Iterator[FieldViolation]:
    phases = terms.phases
    if phases and terms.billing_frequency is BillingFrequency.ONE_TIME:
        yield FieldViolation("phases", "must be empty for billing_frequency ONE_TIME", "contract.phases")
    if phases and phases[0].start_date != terms.start_date:
        yield FieldViolation("phases[0].start_date", f"must be start_date, {terms.start_date}", "contract.phases")
    for index, phase in enumerate(phases):
        field = f"phases[{index}]"
        if index and phase.start_date <= phases[index - 1].start_date:
            yield FieldViolation(f"{field}.start_date", "must be after that of the previous phase", "contract.phases")
        elif terms.end_date and phase.start_date >= terms.end_date:
            yield FieldViolation(f"{field}.start_date", f"must be before end_date, {terms.end_date}", "contract.phases")
        if phase.fee.amount < 0:
            yield FieldViolation(f"{field}.fee.amount", "must be 0 or more", "contract.value")
        if phase.fee.currency != terms.total_value.currency:
            yield _currency_mismatch(f"{field}.fee", terms.total_value.currency)


def _type_violations(terms: ContractTerms) -> Iterator[FieldViolation]:
    kind = terms.contract_type
    if kind is ContractType.USAGE_COMMITMENT and terms.minimum_commitment is None:
        yield FieldViolation("minimum_commitment", f"is required for {kind}", "contract.type")
    if kind is ContractType.ENTERPRISE_LICENSE:
        if not terms.license_tier:
            yield FieldViolation("license_tier", f"is required for {kind}", "contract.type")
        if not terms.seats:
            yield FieldViolation("seats", f"must be above 0 for {kind}", "contract.type")


def _currency_mismatch(field: str, currency: str) -> FieldViolation:
    return FieldViolation(
        f"{field}.currency_code", f"must be the currency of total_value, {currency}", "contract.currency"
    )


def requires_signatures(contract_type: ContractType) -> bool:
    """True if both parties must sign before activation. Subscriptions are also ordered online, without signatures."""
    return contract_type is not ContractType.SUBSCRIPTION


def check_digest(contract_id: UUID, digest: str, signed: Collection[str]) -> None:
    """Raise ContractDigestDiffers if a digest in `signed` differs: both parties must sign the same document."""
    for other in signed:
        if other != digest:
            raise ContractDigestDiffers(contract_id, given=digest, signed=other)


def check_activation(contract_id: UUID, terms: ContractTerms, signed: Collection[Party], today: date) -> None:
    """Raise ContractSignatureMissing or ContractTermOver if the contract can't be activated today.

    A contract can be activated before its start date: it is binding at once, and fees begin on the start date.
    """
    missing = [party for party in Party if party not in signed]
    if missing and requires_signatures(terms.contract_type):
        raise ContractSignatureMissing(contract_id, missing)
    if terms.end_date and terms.end_date <= today:
        raise ContractTermOver(contract_id, terms.end_date)


def grants_license(terms: ContractTerms) -> bool:
    """True if the licensing system must provision a tier or seats."""
    return bool(terms.license_tier or terms.seats)


def requested_license_state(terms: ContractTerms) -> LicenseState:
    """Return the license state of a contract that has just become active or has got other license terms."""
    return LicenseState.REQUESTED if grants_license(terms) else LicenseState.NONE


def resolve_termination_date(request: TerminationRequest, terms: ContractTerms, today: date) -> date:
    """Return the requested effective date, or the first one that respects the notice period and the end date."""
    if request.effective_date:
        return request.effective_date
    day = today + timedelta(days=required_notice_days(request, terms))
    return min(day, terms.end_date) if terms.end_date else day


def required_notice_days(request: TerminationRequest, terms: ContractTerms) -> int:
    """Return how many days of notice the termination needs."""
    return 0 if request.for_cause else terms.renewal_notice_days


def termination_violations(effective: date, terms: ContractTerms, today: date) -> Iterator[FieldViolation]:
    """Yield a violation if the effective date is in the past or after the end of the contract."""
    if effective < today:
        yield FieldViolation("effective_date", f"must not be before today, {today}", "contract.termination")
    elif terms.end_date and effective > terms.end_date:
        yield FieldViolation("effective_date", f"must not be after end_date, {terms.end_date}", "contract.termination")


def check_notice_period(contract_id: UUID, effective: date, today: date, notice_days: int) -> None:
    """Raise ContractNoticeTooShort if fewer than `notice_days` lie between today and the effective date."""
    earliest = today + timedelta(days=notice_days)
    if effective < earliest:
        raise ContractNoticeTooShort(contract_id, effective=effective, earliest=earliest, notice_days=notice_days)


def check_notice_date(contract_id: UUID, terms: ContractTerms, state: ContractState, today: date) -> None:
    """Raise ContractNoticeOver if a termination without cause could only take effect after the end of the term."""
    if terms.end_date is None:
        return
    last_day = notice_date(terms.end_date, terms.renewal_notice_days)
    if last_day < today:
        renewed = renews_automatically(terms, state, None)
        raise ContractNoticeOver(contract_id, notice_date=last_day, end_date=terms.end_date, renewed=renewed)


def check_withdrawal(contract_id: UUID, termination_date: date | None, today: date) -> None:
    """Raise ContractNotTerminated if there is no termination to withdraw, or if it has taken effect."""
    if termination_date is None or termination_date <= today:
        raise ContractNotTerminated(contract_id, termination_date)


def renews_automatically(terms: ContractTerms, state: ContractState, termination_date: date | None) -> bool:
    """True if a contract in this state is renewed at its end unless something changes before."""
    return terms.auto_renew and state is ContractState.ACTIVE and termination_date is None


def effective_end(termination_date: date | None, end_date: date | None) -> date | None:
    """Return the first day on which the contract is no longer in force; None if no end is known."""
    return min((day for day in (termination_date, end_date) if day), default=None)


def notice_date(end_date: date, notice_days: int) -> date:
    """Return the day on which the end is announced, `notice_days` before `end_date`."""
    return end_date - timedelta(days=notice_days)
