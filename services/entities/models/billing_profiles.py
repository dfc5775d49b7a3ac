"""Tables of billing profiles, number prefixes and number series."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Boolean, Integer, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import Base, VersionedRow, text_enum
from services.entities.domain.billing_documents import DocumentType
from services.entities.domain.billing_profiles import (
    BankAccountRecord,
    BillingProfileState,
    CrossBorderTreatment,
    ElectronicAddressRecord,
)
from services.entities.domain.entities import Address
from services.entities.domain.parties import BankAccount, ElectronicAddress, Party


class BillingProfileRow(VersionedRow):
    """An issuer of billing documents."""

    __tablename__ = "billing_profiles"
    audited_as = ids.BILLING_PROFILE

    name: Mapped[str] = mapped_column(String)
    entity_id: Mapped[UUID | None] = mapped_column(Uuid)
    legal_name: Mapped[str] = mapped_column(String)
    vat_id: Mapped[str] = mapped_column(String)
    registration_number: Mapped[str] = mapped_column(String)
    address: Mapped[Address] = mapped_column(JSONB)
    """Its country is always set."""
    electronic_address: Mapped[ElectronicAddressRecord | None] = mapped_column(JSONB(none_as_null=True))
    email: Mapped[str] = mapped_column(String)
    phone: Mapped[str] = mapped_column(String)
    contact_name: Mapped[str] = mapped_column(String)
    bank_account: Mapped[BankAccountRecord | None] = mapped_column(JSONB(none_as_null=True))
    currency_code: Mapped[str] = mapped_column(String(3))
    """The currency that the issuer's taxes are accounted in."""
    time_zone: Mapped[str] = mapped_column(String)
    """Determines the day on which a document is issued, and so its year."""
    invoice_prefix: Mapped[str] = mapped_column(String)
    statement_prefix: Mapped[str] = mapped_column(String)
    credit_note_prefix: Mapped[str] = mapped_column(String)
    number_digits: Mapped[int] = mapped_column(Integer)
    vat_group_entity_ids: Mapped[Sequence[UUID]] = mapped_column(ARRAY(Uuid))
    """Entities in the issuer's VAT group."""
    cross_border_treatment: Mapped[CrossBorderTreatment] = mapped_column(text_enum(CrossBorderTreatment))
    default_note: Mapped[str] = mapped_column(String)
    payment_instructions: Mapped[str] = mapped_column(String)
    is_default: Mapped[bool] = mapped_column(Boolean)
    state: Mapped[BillingProfileState] = mapped_column(text_enum(BillingProfileState))

    @property
    def party(self) -> Party:
        """The issuer as it is copied onto documents."""
        electronic_address, account = self.electronic_address, self.bank_account
        return Party(
            legal_name=self.legal_name,
            vat_id=self.vat_id,
            registration_number=self.registration_number,
            address=self.address,
            electronic_address=ElectronicAddress(**electronic_address) if electronic_address else None,
            email=self.email,
            phone=self.phone,
            contact_name=self.contact_name,
            bank_account=BankAccount(**account) if account else None,
            currency_code=self.currency_code,
        )


class NumberPrefixRow(Base):
    """A prefix of document numbers, which belongs to one profile and one type of document."""

    __tablename__ = "number_prefixes"

    tenant_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    prefix: Mapped[str] = mapped_column(String, primary_key=True)
    profile_id: Mapped[UUID] = mapped_column(Uuid)
    document_type: Mapped[DocumentType] = mapped_column(text_enum(DocumentType))


class NumberSeriesRow(Base):
    """The last number that a profile has assigned to a type of document in a year."""

    __tablename__ = "number_series"

    tenant_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    profile_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    document_type: Mapped[DocumentType] = mapped_column(text_enum(DocumentType), primary_key=True)
    year: Mapped[int] = mapped_column(Integer, primary_key=True)
    prefix: Mapped[str] = mapped_column(String)
    """The prefix of the profile when the first number was taken."""
    digits: Mapped[int] = mapped_column(Integer)
    last_number: Mapped[int] = mapped_column(BigInteger)
