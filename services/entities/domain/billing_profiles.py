"""Billing profiles: the issuers of billing documents, their number prefixes, defaults and input types."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypedDict
from uuid import UUID

from kit import resources
from services.entities.domain.billing_documents import DocumentType, TaxTreatment
from services.entities.domain.entities import Address
from services.entities.domain.field_violations import FieldViolation
from services.entities.errors.billing_profiles import BillingProfileStateForbids

NUMBER_DIGITS: Final = range(3, 11)
NUMBER_DIGITS_DEFAULT: Final = 6
PREFIX_MARKS: Final[Mapping[DocumentType, str]] = {
    DocumentType.INVOICE: "",
    DocumentType.STATEMENT: "ST-",
    DocumentType.CREDIT_NOTE: "CN-",
}
"""What a default prefix has after the prefix of the entity, by type of document."""
PREFIX_DEFAULTS: Final[Mapping[DocumentType, str]] = {
    DocumentType.INVOICE: "INV-",
    DocumentType.STATEMENT: "ST-",
    DocumentType.CREDIT_NOTE: "CN-",
}
"""Prefixes of a profile without entity."""


class BillingProfileState(StrEnum):
    """BillingProfile.State."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"


class CrossBorderTreatment(StrEnum):
    """BillingProfile.CrossBorderTreatment."""

    STANDARD = "STANDARD"
    REVERSE_CHARGE = "REVERSE_CHARGE"
    EXEMPT = "EXEMPT"
    NOT_SUBJECT = "NOT_SUBJECT"

    @property
    def tax_treatment(self) -> TaxTreatment:
        """The treatment of the lines of entities in other countries."""
        return TaxTreatment(self.value)


class BillingProfileAction(StrEnum):
    """Actions on a billing profile; the values are past participles for error messages."""

    CHANGE = "changed"
    MAKE_DEFAULT = "made the default"
    DEACTIVATE = "deactivated"
    ACTIVATE = "activated"


_ACTIVE, _INACTIVE = BillingProfileState.ACTIVE, BillingProfileState.INACTIVE

BILLING_PROFILE_TRANSITIONS: Final[Mapping[tuple[BillingProfileState, BillingProfileAction], BillingProfileState]] = {
    (_ACTIVE, BillingProfileAction.CHANGE): _ACTIVE,
    (_ACTIVE, BillingProfileAction.MAKE_DEFAULT): _ACTIVE,
    (_ACTIVE, BillingProfileAction.DEACTIVATE): _INACTIVE,
    (_INACTIVE, BillingProfileAction.CHANGE): _INACTIVE,
    (_INACTIVE, BillingProfileAction.ACTIVATE): _ACTIVE,
}
"""All allowed transitions of a billing profile."""


class ElectronicAddressRecord(TypedDict):
    """An address for electronic invoices, as it is stored."""

    scheme: str
    id: str


class BankAccountRecord(TypedDict):
    """A bank account, as it is stored."""

    holder: str
    iban: str
    """Without spaces."""
    bic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingProfileDraft:
    """The fields of a billing profile that callers set. Before `with_defaults`, texts may be empty."""

    name: str
    entity_id: UUID | None
    """The entity whose legal data are the defaults."""
    legal_name: str
    vat_id: str
    registration_number: str
    address: Address | None
    electronic_address: ElectronicAddressRecord | None
    email: str
    phone: str
    contact_name: str
    bank_account: BankAccountRecord | None
    currency_code: str
    time_zone: str
    invoice_prefix: str
    statement_prefix: str
    credit_note_prefix: str
    number_digits: int
    vat_group_entity_ids: Sequence[UUID]
    cross_border_treatment: CrossBorderTreatment
    default_note: str
    payment_instructions: str
    is_default: bool

    @property
    def prefixes(self) -> Mapping[DocumentType, str]:
        """The prefix of the numbers of each type of document."""
        return {kind: getattr(self, field) for kind, field in PREFIX_FIELDS.items()}


PREFIX_FIELDS: Final[Mapping[DocumentType, str]] = {
    DocumentType.INVOICE: "invoice_prefix",
    DocumentType.STATEMENT: "statement_prefix",
    DocumentType.CREDIT_NOTE: "credit_note_prefix",
}
"""The field with the prefix of each type of document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingProfileFilter:
    """Filters of a list of billing profiles; None or empty text does not filter."""

    state: BillingProfileState | None = None
    entity_id: UUID | None = None
    text: str = ""
    """Searched in the name and the legal name, ignoring case."""


def advance(id: UUID, state: BillingProfileState, action: BillingProfileAction) -> BillingProfileState:
    """Return the state after `action`. Raises BillingProfileStateForbids naming the states in which it is allowed."""
    return resources.advance(BILLING_PROFILE_TRANSITIONS, id, state, action, BillingProfileStateForbids)


def default_prefixes(entity_prefix: str) -> Mapping[str, str]:
    """Return the default prefix by field; `entity_prefix` is the invoice prefix of the entity, or empty."""
    base = entity_prefix.upper().lstrip("._/-")
    if base and base[-1].isalnum():
        base += "-"
    return {
        field: f"{base}{PREFIX_MARKS[kind]}" if base else PREFIX_DEFAULTS[kind] for kind, field in PREFIX_FIELDS.items()
    }


def violations(draft: BillingProfileDraft) -> Iterator[FieldViolation]:
    """Return the violations of a draft with its defaults filled in."""
    for field in ("legal_name", "currency_code"):
        if not getattr(draft, field):
            yield FieldViolation(field, "is required without entity_id", "required")
    if not draft.address or not draft.address["country_code"]:
        yield FieldViolation("address.country_code", "is required without entity_id", "required")
    if draft.number_digits not in NUMBER_DIGITS:
        yield FieldViolation("number_digits", "must be from 3 to 10", "profile.digits")
    fields: dict[str, str] = {}
    for kind, prefix in draft.prefixes.items():
        field = PREFIX_FIELDS[kind]
        if fields.setdefault(prefix, field) != field:
            yield FieldViolation(field, f"must differ from {fields[prefix]}", "profile.prefixes")


def format_number(prefix: str, year: int, digits: int, number: int) -> str:
    """Return the number of a document: "INV-2026-000001"."""
    return f"{prefix}{year}-{number:0{digits}}"
