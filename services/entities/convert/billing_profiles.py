"""Conversion of billing profiles."""

from collections.abc import Mapping
from typing import Any, Final

from billing.entities.v1 import billing_profile_service_pb2 as pb
from billing.entities.v1.billing_profile_pb2 import BankAccount, BillingProfile, ElectronicAddress

from contract.values import enum_or_none, time_to_proto
from kit import ids
from services.entities import convert
from services.entities.domain.billing_profiles import (
    NUMBER_DIGITS_DEFAULT,
    BankAccountRecord,
    BillingProfileDraft,
    BillingProfileFilter,
    BillingProfileState,
    CrossBorderTreatment,
    ElectronicAddressRecord,
)
from services.entities.domain.entities import TIME_ZONE_DEFAULT
from services.entities.models.billing_profiles import BillingProfileRow


def to_proto(row: BillingProfileRow) -> BillingProfile:
    """Convert a billing profile."""
    return BillingProfile(
        id=ids.BILLING_PROFILE.format(row.id),
        name=row.name,
        entity_id=ids.ENTITY.format_optional(row.entity_id),
        legal_name=row.legal_name,
        vat_id=row.vat_id,
        registration_number=row.registration_number,
        address=convert.entities.address_to_proto(row.address),
        electronic_address=ElectronicAddress(**row.electronic_address) if row.electronic_address else None,
        email=row.email,
        phone=row.phone,
        contact_name=row.contact_name,
        bank_account=BankAccount(**row.bank_account) if row.bank_account else None,
        currency_code=row.currency_code,
        time_zone=row.time_zone,
        invoice_prefix=row.invoice_prefix,
        statement_prefix=row.statement_prefix,
        credit_note_prefix=row.credit_note_prefix,
        number_digits=row.number_digits,
        vat_group_entity_ids=map(ids.ENTITY.format, row.vat_group_entity_ids),
        cross_border_treatment=BillingProfile.CrossBorderTreatment.Value(row.cross_border_treatment),
        default_note=row.default_note,
        payment_instructions=row.payment_instructions,
        is_default=row.is_default,
        state=BillingProfile.State.Value(row.state),
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def draft_from_proto(request: pb.CreateBillingProfileRequest) -> BillingProfileDraft:
    """Parse CreateBillingProfileRequest; what depends on the entity has no defaults yet."""
    return BillingProfileDraft(
        name=request.name,
        entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
        legal_name=request.legal_name,
        vat_id=request.vat_id,
        registration_number=request.registration_number,
        address=convert.entities.address_from_proto(request.address) if request.HasField("address") else None,
        electronic_address=(
            _electronic_address(request.electronic_address) if request.HasField("electronic_address") else None
        ),
        email=request.email,
        phone=request.phone,
        contact_name=request.contact_name,
        bank_account=_bank_account(request.bank_account) if request.HasField("bank_account") else None,
        currency_code=request.currency_code,
        time_zone=request.time_zone,
        invoice_prefix=request.invoice_prefix,
        statement_prefix=request.statement_prefix,
        credit_note_prefix=request.credit_note_prefix,
        number_digits=request.number_digits or NUMBER_DIGITS_DEFAULT,
        vat_group_entity_ids=[ids.ENTITY.parse(id, "vat_group_entity_ids") for id in request.vat_group_entity_ids],
        cross_border_treatment=(
            enum_or_none(CrossBorderTreatment, BillingProfile.CrossBorderTreatment, request.cross_border_treatment)
            or CrossBorderTreatment.REVERSE_CHARGE
        ),
        default_note=request.default_note,
        payment_instructions=request.payment_instructions,
        is_default=request.is_default,
    )


def _electronic_address(message: ElectronicAddress) -> ElectronicAddressRecord:
    return ElectronicAddressRecord(scheme=message.scheme, id=message.id)


def _bank_account(message: BankAccount) -> BankAccountRecord:
    return BankAccountRecord(holder=message.holder, iban=message.iban, bic=message.bic)


def filter_from_proto(request: pb.ListBillingProfilesRequest) -> BillingProfileFilter:
    """Return the filters of ListBillingProfilesRequest."""
    return BillingProfileFilter(
        state=enum_or_none(BillingProfileState, BillingProfile.State, request.state),
        entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
        text=request.q,
    )


_PROFILE_CLEARED: Final[Mapping[str, Any]] = {
    "vat_id": "",
    "registration_number": "",
    "electronic_address": None,
    "email": "",
    "phone": "",
    "contact_name": "",
    "bank_account": None,
    "time_zone": TIME_ZONE_DEFAULT,
    "number_digits": NUMBER_DIGITS_DEFAULT,
    "vat_group_entity_ids": [],
    "cross_border_treatment": CrossBorderTreatment.REVERSE_CHARGE,
    "default_note": "",
    "payment_instructions": "",
    "is_default": False,
}
"""Value of each optional field after it is cleared; the others can't be cleared."""


def changes_from_proto(request: pb.UpdateBillingProfileRequest) -> Mapping[str, Any]:
    """Return the columns that UpdateBillingProfileRequest changes, with their new values. Raises InvalidFields."""
    changes = convert.changes.changed_columns(request, _PROFILE_CLEARED)
    if "address" in changes:
        changes["address"] = convert.entities.address_from_proto(request.address)
    if changes.get("electronic_address"):
        changes["electronic_address"] = _electronic_address(request.electronic_address)
    if changes.get("bank_account"):
        changes["bank_account"] = _bank_account(request.bank_account)
    if "vat_group_entity_ids" in changes:
        given = changes["vat_group_entity_ids"]
        changes["vat_group_entity_ids"] = [ids.ENTITY.parse(id, "vat_group_entity_ids") for id in given]
    if changes.get("cross_border_treatment") and request.cross_border_treatment:
        name = BillingProfile.CrossBorderTreatment.Name(request.cross_border_treatment)
        changes["cross_border_treatment"] = CrossBorderTreatment(name)
    return changes
