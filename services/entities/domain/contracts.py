"""The rules of contracts: states, terms that go together, signatures, when one may be terminated."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import resources
from kit.money import DIGITS_MAX, Money
from services.entities.domain.flaws import Flaw
from services.entities.errors.contracts import (
    ContractDigestDiffers,
    ContractNoticeTooShort,
    ContractSignatureMissing,
    ContractStateForbids,
    ContractTermOver,
)

RENEWAL_TERM_MONTHS_DEFAULT: Final = 12
RENEWAL_NOTICE_DAYS_DEFAULT: Final = 30
_DAYS_OF_A_MONTH_MIN: Final = 28
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
"""The states in which the parties are bound, and the clock matters."""


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
    """What the parties of a contract are told once for each of its ends."""

    RENEWAL_DUE = "RENEWAL_DUE"


class ContractAction(StrEnum):
    """What is done to a contract; the value is how it reads in a sentence."""

    CHANGE = "changed"
    SUBMIT = "submitted"
    REQUEST_APPROVAL = "given to somebody to approve"
    APPROVE = "approved"
    REJECT = "rejected"
    SIGN = "signed"
    ACTIVATE = "activated"
    SUSPEND = "suspended"
    RESUME = "resumed"
    RENEW = "renewed"
    SUCCEED = "succeeded by its renewal"
    EXPIRE = "let expire"
    AMEND = "amended"
    ANNOUNCE_END = "terminated on a later day"
    TERMINATE = "terminated"


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
    (_S.ACTIVE, _A.ANNOUNCE_END): _S.ACTIVE,
    (_S.ACTIVE, _A.TERMINATE): _S.TERMINATED,
    (_S.SUSPENDED, _A.AMEND): _S.SUSPENDED,
    (_S.SUSPENDED, _A.RESUME): _S.ACTIVE,
    (_S.SUSPENDED, _A.SUCCEED): _S.RENEWED,
    (_S.SUSPENDED, _A.EXPIRE): _S.EXPIRED,
    (_S.SUSPENDED, _A.ANNOUNCE_END): _S.SUSPENDED,
    (_S.SUSPENDED, _A.TERMINATE): _S.TERMINATED,
}
"""The whole life of a contract; what is not here is not allowed."""


def advance_contract(contract_id: UUID, state: ContractState, action: ContractAction) -> ContractState:
    """The state after `action`; raises ContractStateForbids naming the states in which it is allowed."""
    return resources.advance(CONTRACT_TRANSITIONS, contract_id, state, action, ContractStateForbids)


@dataclass(frozen=True, slots=True)
class Phase:
    """From a day on, what a billing period costs."""

    start_date: date
    fee: Money


@dataclass(frozen=True, slots=True)
class SlaTerms:
    """What is promised of a service; 0 where something is not."""

    uptime_bp: int
    response_hours: int
    credit_bp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractTerms:
    """What the parties agree on. Days are from `start_date` up to, and without, `end_date`; None: evergreen."""

    contract_number: str
    """Empty: the next one of our own."""
    name: str
    contract_type: ContractType
    start_date: date
    end_date: date | None
    total_value: Money
    billing_frequency: BillingFrequency
    phases: tuple[Phase, ...]
    minimum_commitment: Money | None
    license_tier: str
    seats: int
    payment_terms_days: int | None
    """None: as the entity has them."""
    purchase_order_number: str
    purchase_order_limit: Money | None
    auto_renew: bool
    renewal_term_months: int
    renewal_notice_days: int
    renewal_uplift_bp: int
    sla_terms: SlaTerms | None


def flaws(terms: ContractTerms) -> list[Flaw]:
    """All that is wrong with the terms; empty where they go together."""
    return [*_flaws_of_term(terms), *_flaws_of_money(terms), *_flaws_of_phases(terms), *_flaws_of_type(terms)]


def _flaws_of_term(terms: ContractTerms) -> Iterator[Flaw]:
    if terms.end_date is None:
        if terms.auto_renew:
            yield Flaw("auto_renew", "an evergreen contract has no end at which it could be renewed", "contract.end")
    elif terms.end_date <= terms.start_date:
        yield Flaw("end_date", f"must be after start_date, {terms.start_date}", "contract.end")
    else:
        days = (terms.end_date - terms.start_date).days
        if terms.auto_renew:
            days = min(days, terms.renewal_term_months * _DAYS_OF_A_MONTH_MIN)
        if terms.renewal_notice_days > days:
            yield Flaw("renewal_notice_days", f"may be at most the {days} days of a term", "contract.notice")


def _flaws_of_money(terms: ContractTerms) -> Iterator[Flaw]:
    currency = terms.total_value.currency
    if terms.total_value.amount < 0:
        yield Flaw("total_value.amount", "must not be below zero", "contract.value")
    if terms.total_value.amount >= _VALUE_LIMIT:
        yield Flaw("total_value.amount", f"may have at most {DIGITS_MAX} digits before the point", "contract.value")
    for field in ("minimum_commitment", "purchase_order_limit"):
        money: Money | None = getattr(terms, field)
        if money and money.amount <= 0:
            yield Flaw(f"{field}.amount", "must be above zero", "contract.value")
        if money and money.currency != currency:
            yield _other_currency(field, currency)
    if terms.purchase_order_limit and not terms.purchase_order_number:
        yield Flaw("purchase_order_number", "is required for purchase_order_limit", "contract.purchase_order")


def _flaws_of_phases(terms: ContractTerms) -> Iterator[Flaw]:
    phases = terms.phases
    if phases and terms.billing_frequency is BillingFrequency.ONE_TIME:
        yield Flaw("phases", "what is billed once has no phases", "contract.phases")
    if phases and phases[0].start_date != terms.start_date:
        yield Flaw("phases[0].start_date", f"must be start_date, {terms.start_date}", "contract.phases")
    for place, phase in enumerate(phases):
        field = f"phases[{place}]"
        if place and phase.start_date <= phases[place - 1].start_date:
            yield Flaw(f"{field}.start_date", "must be after that of the phase before", "contract.phases")
        elif terms.end_date and phase.start_date >= terms.end_date:
            yield Flaw(f"{field}.start_date", f"must be before end_date, {terms.end_date}", "contract.phases")
        if phase.fee.amount < 0:
            yield Flaw(f"{field}.fee.amount", "must not be below zero", "contract.value")
        if phase.fee.currency != terms.total_value.currency:
            yield _other_currency(f"{field}.fee", terms.total_value.currency)


def _flaws_of_type(terms: ContractTerms) -> Iterator[Flaw]:
    kind = terms.contract_type
    if kind is ContractType.USAGE_COMMITMENT and terms.minimum_commitment is None:
        yield Flaw("minimum_commitment", f"is required for {kind}", "contract.type")
    if kind is ContractType.ENTERPRISE_LICENSE:
        if not terms.license_tier:
            yield Flaw("license_tier", f"is required for {kind}", "contract.type")
        if not terms.seats:
            yield Flaw("seats", f"must be above zero for {kind}", "contract.type")


def _other_currency(field: str, currency: str) -> Flaw:
    return Flaw(f"{field}.currency_code", f"must be the currency of total_value, {currency}", "contract.currency")


def needs_signatures(contract_type: ContractType) -> bool:
    """Whether both parties sign before it becomes active: all but what is ordered online as well."""
    return contract_type is not ContractType.SUBSCRIPTION


def check_digest(contract_id: UUID, digest: str, signed: Collection[str]) -> None:
    """Raise ContractDigestDiffers where another party signed another document."""
    for other in signed:
        if other != digest:
            raise ContractDigestDiffers(contract_id, given=digest, signed=other)


def check_may_begin(contract_id: UUID, terms: ContractTerms, signed: Collection[Party], today: date) -> None:
    """Raise ContractSignatureMissing or ContractTermOver where the contract can't become active today.

    It may before its first day: the parties are bound from now on, what they owe begins with that day.
    """
    missing = [party for party in Party if party not in signed]
    if missing and needs_signatures(terms.contract_type):
        raise ContractSignatureMissing(contract_id, missing)
    if terms.end_date and terms.end_date <= today:
        raise ContractTermOver(contract_id, terms.end_date)


def grants_license(terms: ContractTerms) -> bool:
    """Whether the licensing system has something to provision."""
    return bool(terms.license_tier or terms.seats)


def check_notice(contract_id: UUID, effective: date, today: date, notice_days: int) -> None:
    """Raise ContractNoticeTooShort where that many days don't lie between today and the end."""
    earliest = today + timedelta(days=notice_days)
    if effective < earliest:
        raise ContractNoticeTooShort(contract_id, effective=effective, earliest=earliest, notice_days=notice_days)


def last_day_without(termination_date: date | None, end_date: date | None) -> date | None:
    """The first day on which a contract does not hold any more; None: there is none yet."""
    return min((day for day in (termination_date, end_date) if day), default=None)


def notice_date(end_date: date, notice_days: int) -> date:
    """The day on which the parties are told that the end comes."""
    return end_date - timedelta(days=notice_days)
